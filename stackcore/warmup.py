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
from stackcore import kernel, network
from stackcore.abi.layout import SEGMENT_HEADER, Layout, View, lay_out
from stackcore.configuration import TRANSPORT, RunConfig
from stackcore.core.client import ClientConfig, configure_clients, schedule
from stackcore.core.dispatch import dispatch
from stackcore.core.tcp import TcpTransport, TcpTransportConfig
from stackcore.session.account import last_words
from stackcore.session.listen import forget_worker
from stackcore.session.rings import bind_all
from stackcore.session.state import new_core
from stackcore.vcl import _vcl
from stackcore.wire.client_host import ClientHost, ClientHostConfig, Findings
from stackcore.wire.null import unserved, worker_gone
from stackcore.wire.shm import make_wire
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


def _touch_tcp(layout: Layout, config: RunConfig) -> None:
    """Both hosts' cycles over a wire on which nothing happens."""
    clients = ClientConfig(1, b"x", b"y")
    with private_stack(layout) as (_, view), make_wire(config.mtu, 2) as wire:
        core, _ = new_core(view, layout, 0, schedule(clients))
        core.cfg[0]["frame"] = config.frame
        bind_all(core, view, layout)
        transport = TcpTransport(core, layout, TcpTransportConfig(network.server_host(config), wire, 8))
        host = ClientHost(
            ClientHostConfig(network.client_host(config), clients, network.SERVER_NUMBER, idle_limit=1), wire, Findings()
        )
        try:
            transport.dispatch(0)
            transport.unserved()
            transport.worker_gone(0)
            host.touch()
        finally:
            host.close()
            transport.close()


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
    announce_cold(say)
    layout = Layout(workers=1, sessions=4, ring_slots=8, fifo_size=256, app_size=_vcl.table_bytes(8))
    if config.transport == TRANSPORT["tcp"].name:
        _touch_tcp(layout, config)
    else:
        _touch_core(layout)
    _touch_workload(layout, config, prepared)
    return time.monotonic() - began


def announce_cold(say: Any = None) -> None:
    """Say that it will take a while, if it will."""
    if kernel.is_cold():
        (say or _say)("compiling kernels, first run only (about a minute) ...")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
