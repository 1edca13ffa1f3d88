"""Compile every kernel a run needs, before any process is forked, so that all of them share the compiled code.

The kernels are called once on a small stack in private memory, on which nothing happens. The first time for a given
configuration this takes a while and says so; later the code comes from the disk cache.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import workloads
from stackcore import kernel
from stackcore.abi.layout import SEGMENT_HEADER, Layout, View, lay_out
from stackcore.configuration import RunConfig
from stackcore.core.client import ClientConfig, configure_clients, schedule
from stackcore.core.dispatch import dispatch
from stackcore.session.account import last_words
from stackcore.session.listen import forget_worker
from stackcore.session.rings import bind_all
from stackcore.session.state import new_core
from stackcore.vcl import _vcl
from stackcore.wire.null import unserved, worker_gone
from workloads import Prepared


def address_of(memory: mmap.mmap) -> int:
    """Where an anonymous mapping lies; it stays mapped as long as ``memory`` is referenced."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


@contextmanager
def private_stack(layout: Layout) -> Iterator[tuple[memoryview, View]]:
    """A laid-out stack in memory that only forked children share: (payload, view). For warm-up, tests and call timing."""
    memory = mmap.mmap(-1, layout.size)
    whole = memoryview(memory)
    yield whole[SEGMENT_HEADER:], lay_out(whole[SEGMENT_HEADER:], address_of(memory), layout)
    # The mapping goes when the last array over it does.


def _touch_core(layout: Layout) -> None:
    clients = ClientConfig(1, b"x", b"y")
    with private_stack(layout) as (_, view):
        core, memory = new_core(view, layout, 1, schedule(clients))
        memory.append(configure_clients(core, clients))
        bind_all(core, view, layout)
        dispatch(core, 0)
        forget_worker(core.lis, 0)
        last_words(core, 0)
        worker_gone(core, 0)
        unserved(core)


def _touch_workload(layout: Layout, config: RunConfig, prepared: Prepared) -> None:
    with private_stack(layout) as (payload, _):
        worker = _vcl.Worker(
            segment=payload, index=0, control_fd=-1, doorbell=-1, listener=config.listener, events=config.events,
            futex_lock=False, wait="park", spins=0, table_capacity=8,
        )  # fmt: skip
        try:
            workloads.load(config.workload).touch(worker.handle, prepared, config)
        finally:
            worker.detach()


def warm_up(config: RunConfig, prepared: Prepared, say: Any = None) -> float:
    """Compile (or load) the kernels of core and workload; seconds it took. ``say`` writes the progress line."""
    began = time.monotonic()
    if kernel.is_cold():
        (say or _say)("compiling kernels, first run only (about a minute) ...")
    layout = Layout(workers=1, sessions=4, ring_slots=8, fifo_size=256, app_size=_vcl.table_bytes(8))
    _touch_core(layout)
    _touch_workload(layout, config, prepared)
    return time.monotonic() - began


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
