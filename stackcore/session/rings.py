"""The core's ends of all rings, bound from what the core itself laid out: the shared headers are writable by workers."""

from __future__ import annotations

from stackcore import native
from stackcore.abi import abi
from stackcore.abi.layout import Layout, View
from stackcore.session.state import HANDLE_BYTES, Core


def _handle(core: Core, i: int, consumer: bool) -> int:
    return int(core.cfg[0]["handles_at"]) + (2 * i + consumer) * HANDLE_BYTES


def bind_worker(core: Core, view: View, layout: Layout, worker: int) -> None:
    """Both rings of a worker record, which must be empty."""
    slots, size = layout.ring_slots, abi.EVENT.itemsize
    native.bind_producer(_handle(core, worker, False), view.ring_at(worker, to_core=False), slots, size)
    native.bind_consumer(_handle(core, worker, True), view.ring_at(worker, to_core=True), slots, size)


def bind_all(core: Core, view: View, layout: Layout) -> None:
    """All workers' rings and the listeners' accept rings."""
    for worker in range(layout.workers):
        bind_worker(core, view, layout, worker)
    for listener in range(layout.listeners):
        at = _handle(core, layout.workers + listener, False)
        native.bind_producer(at, view.accept_ring_at(listener), layout.accept_slots, abi.PENDING.itemsize)
