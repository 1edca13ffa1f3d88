"""Transport ``tcp``: the stack's own TCP between the session layer and a wire.

Connection records are the core's own; fifos lie in the segment, where workers read and write them. The counters are kept in
the shared telemetry from the start, so that they can be read when the core is no more (D1: ``unchecked`` ends in SIGSEGV).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackcore.core.dispatch import BUSY, IDLE
from stackcore.core.tcp_cycle import BROKEN_WIRE, dispatch_shm
from stackcore.core.tcp_session import tcp_unserved, tcp_worker_gone
from stackcore.session.state import Core
from stackcore.tcp.config import HostConfig
from stackcore.tcp.memory import FifoMemory, new_tcp
from stackcore.tcp.wheel import timer_soonest
from stackcore.wire.frames import new_frames, shared_counters
from stackcore.wire.pcap import PcapWriter, no_capture
from stackcore.wire.shm import CORE, Wire

__all__ = ["BUSY", "IDLE", "TcpTransport", "TcpTransportConfig"]


@dataclass(frozen=True)
class TcpTransportConfig:
    """``host``: constants and modes; connections, slots, fifo sizes and the frame are the core's, set here. ``wire`` makes
    the wire's end in the core's process."""

    host: Callable[..., HostConfig]
    wire: Wire
    connections: int
    pcap: Path | None = None


def tcp_over(core: Core, layout: Any, host: Callable[..., HostConfig], connections: int) -> tuple[Any, list[Any]]:
    """A TCP whose slots are the sessions of ``core``: (Tcp, what keeps its memory alive)."""
    cfg = core.cfg[0]
    fifos = FifoMemory(int(cfg["fifos_at"]), int(cfg["fifo_stride"]), layout.fifo_size, int(cfg["ends_at"]))
    config = host(
        connections=connections, slots=layout.sessions, listeners=layout.listeners, fifo=layout.fifo_size,
        frame=int(cfg["frame"]),
    )  # fmt: skip
    return new_tcp(config, fifos, shared_counters(core.tel[0]))


class TcpTransport:
    """TCP over the ``shm`` wire."""

    def __init__(self, core: Core, layout: Any, config: TcpTransportConfig) -> None:
        self.core = core
        self.tcp, self._memory = tcp_over(core, layout, config.host, config.connections)
        self.frames = new_frames(int(self.tcp.cfg[0]["mtu"]))
        self.end = config.wire.end(CORE)
        self.pcap = PcapWriter(config.pcap, epoch=time.time_ns() - time.monotonic_ns()) if config.pcap else None
        self.capture = self.pcap.capture if self.pcap else no_capture()
        self.frames.cfg[0]["captures"] = int(self.pcap is not None)

    def dispatch(self, until: int) -> int:
        state = int(dispatch_shm(self.core, self.tcp, self.frames, self.end.kernel, self.capture, until))
        if self.pcap is not None:
            self.pcap.drain()
        if state == BROKEN_WIRE:
            raise RuntimeError("the client host has damaged the wire: nothing it sends can be believed")
        return state

    def worker_gone(self, worker: int) -> None:
        tcp_worker_gone(self.core, self.tcp, worker)

    def unserved(self) -> int:
        return int(tcp_unserved(self.core))

    def wake_at(self) -> int:
        return max(0, int(timer_soonest(self.tcp)))

    def descriptors(self) -> list[int]:
        return [self.end.fileno()]

    def announce(self) -> None:
        self.end.announce()

    def clear(self) -> None:
        self.end.clear()

    def close(self) -> None:
        self.end.close()
        if self.pcap is not None:
            self.pcap.close()
