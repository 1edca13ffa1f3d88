"""The client host of the ``shm`` wire: a process with a TCP of its own, whose clients talk to the core's over packets.

Promise: the same engine at both ends, a real clock, no privileges. The run's phases are kept here, because the clients are:
warm-up, measuring, draining, done; a workload of transfers is measured from the first SYN to the last byte. What it finds is
written into a telemetry record that the launcher has mapped, so it is known even if this process dies.

The link model, when the run has one (``--loss``, ``--delay`` ...), stands here, in front of the wire, in both directions: the
core's cost stays its own.
"""

from __future__ import annotations

import json
import mmap
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stackcore.abi import abi
from stackcore.core.client import ClientConfig
from stackcore.core.dispatch import rest
from stackcore.kernel import kernel
from stackcore.native import now_ns
from stackcore.tcp.config import HostConfig
from stackcore.tcp.engine import tcp_input, tcp_output, tcp_retransmit, tcp_time
from stackcore.tcp.memory import new_tcp
from stackcore.tcp.wheel import timer_soonest
from stackcore.wire.frames import Frames, new_frames, shared_counters
from stackcore.wire.link import LinkConfig, link_deliver, link_send, link_soonest, new_link
from stackcore.wire.player import done, new_player, play, play_soonest, transfers, unserved
from stackcore.wire.shm import PEER, Wire, shm_receive, shm_send_from

BUSY, IDLE, BROKEN_WIRE = range(3)
SLICE_NS = 1_000_000
PARK_S = 0.05
DRAIN_NS = 1_500_000_000
REPORT_BYTES = 4096


@dataclass(frozen=True)
class ClientHostConfig:
    """``link`` None: packets go straight to the wire. ``transfers``: measured until all are done, at most ``limit_s``."""

    host: HostConfig
    clients: ClientConfig
    server: int
    """IPv4 address as a number."""
    link: LinkConfig | None = None
    warmup_s: float = 0.1
    duration_s: float = 1.0
    transfers: bool = False
    limit_s: float = 600.0
    idle_limit: int = 20_000
    shares_cpu: bool = True


class Findings:
    """A telemetry record and a few words more, in memory that forked processes share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, abi.TELEMETRY.itemsize + REPORT_BYTES)
        self.telemetry = np.frombuffer(self._memory, abi.TELEMETRY, 1)

    @property
    def report(self) -> dict[str, int]:
        """What :func:`stackcore.wire.player.transfers` said at the end; empty before."""
        text = self._memory[abi.TELEMETRY.itemsize :].rstrip(b"\0")
        return json.loads(text) if text else {}

    def write_report(self, report: dict[str, int]) -> None:
        text = json.dumps(report).encode()
        self._memory[abi.TELEMETRY.itemsize : abi.TELEMETRY.itemsize + len(text)] = text


@kernel
def arrive(t, f, w, down, modelled, limit, now):
    """Packets from the wire, through the link model if there is one, to TCP. How many, or -1: the wire is broken."""
    got = shm_receive(w, f.rx, f.rx_len, limit)
    if got < 0:
        return -1
    if modelled:
        for i in range(got):
            link_send(down, f.rx, i, int(f.rx_len[i]), now)
        got = link_deliver(down, f.rx, f.rx_len, 0, limit, now)
    tcp_input(t, f.rx, f.rx_len, got, now)
    return got


@kernel
def depart(t, f, w, up, modelled, limit, now):
    """What TCP has to send, the same way back. How many packets, or -1: the wire is broken."""
    k = f.cfg[0]
    produced = 0
    if k["tx_first"] == k["tx_used"]:
        used = tcp_retransmit(t, f.tx, f.tx_len, 0, now)
        used = tcp_output(t, f.tx, f.tx_len, used, now)
        produced = used
        if modelled:
            for i in range(used):
                link_send(up, f.tx, i, int(f.tx_len[i]), now)
            used = link_deliver(up, f.tx, f.tx_len, 0, limit, now)
        k["tx_first"] = 0
        k["tx_used"] = used
    if k["tx_first"] == k["tx_used"]:
        return produced
    taken = shm_send_from(w, f.tx, f.tx_len, k["tx_first"], k["tx_used"])
    if taken < 0:
        return -1
    k["tx_first"] += taken
    return taken + produced


@kernel
def dispatch_client(t, p, f, w, down, up, modelled, idle_limit, yields, until):
    """Cycle until the monotonic time ``until`` (ns) or until idle. BUSY, IDLE or BROKEN_WIRE."""
    limit = t.cfg[0]["frame"]
    idle = 0
    while True:
        now = now_ns()
        n = tcp_time(t, now)
        got = arrive(t, f, w, down, modelled, limit, now)
        n += play(t, p, now)
        sent = depart(t, f, w, up, modelled, limit, now)
        if got < 0 or sent < 0:
            return BROKEN_WIRE
        n += got + sent
        if n > 0:
            idle = 0
        else:
            idle += 1
            if idle_limit > 0 and idle > idle_limit:
                return IDLE
            rest(yields)
        if now >= until:
            return BUSY


class ClientHost:
    """Created and run in the process that plays the clients."""

    def __init__(self, config: ClientHostConfig, wire: Wire, findings: Findings) -> None:
        self.config = config
        self.findings = findings
        self.telemetry = findings.telemetry
        self.tcp, self._memory = new_tcp(config.host, None, shared_counters(self.telemetry[0]))
        self.player, more = new_player(self.tcp, config.clients, self.telemetry, config.server, config.host.frame)
        self._memory.append(more)
        self.frames: Frames = new_frames(config.host.mtu)
        self.end = wire.end(PEER)
        link = config.link or LinkConfig(capacity=1)
        self.down, self.up = (new_link(replace(link, seed=(2 * link.seed + k) % 2**63), config.host.mtu) for k in range(2))
        self.stopping = False
        self.deadline_ns = 0

    def run(self, go: Callable[[], bool]) -> None:
        """Wait until ``go()``, then play to the end; serve until SIGTERM."""
        signal.signal(signal.SIGTERM, self._on_signal)
        started = False
        while not self.stopping:
            if not started and go():
                started = True
                self._enter(abi.PHASE_MEASURE if self.config.transfers else abi.PHASE_WARMUP)
            state = self._dispatch(time.monotonic_ns() + SLICE_NS)
            if state == BROKEN_WIRE:
                raise RuntimeError("the core has damaged the wire: nothing it sends can be believed")
            if started:
                self._advance()
            if state == IDLE and not self.stopping:
                self._park()

    def _dispatch(self, until: int) -> int:
        config = self.config
        return int(
            dispatch_client(
                self.tcp, self.player, self.frames, self.end.kernel, self.down, self.up, config.link is not None,
                config.idle_limit, config.shares_cpu, until,
            )
        )  # fmt: skip

    def touch(self) -> None:
        """Have every kernel compiled, without anything happening."""
        self._dispatch(0)
        done(self.player)
        unserved(self.player)
        self._park()

    def _on_signal(self, number: int, frame: Any) -> None:
        self.stopping = True

    def _park(self) -> None:
        now = time.monotonic_ns()
        due = [now + int(PARK_S * 1e9), int(timer_soonest(self.tcp)), int(play_soonest(self.player, now)), self.deadline_ns]
        due += [int(link_soonest(self.down)), int(link_soonest(self.up))] if self.config.link else []
        timeout = (min(at for at in due if at > 0) - now) / 1e9
        if timeout > 0.0002:
            self.end.park(timeout)

    def _enter(self, phase: int) -> None:
        now = time.monotonic_ns()
        telemetry = self.telemetry[0]
        if phase == abi.PHASE_MEASURE:
            telemetry["measure_start_ns"] = now
        if phase == abi.PHASE_DRAIN:
            telemetry["measure_end_ns"] = now
        if phase == abi.PHASE_DONE:
            telemetry["unserved"] = unserved(self.player)
            self.findings.write_report(transfers(self.player) if self.config.transfers else {})
        seconds = {
            abi.PHASE_WARMUP: self.config.warmup_s,
            abi.PHASE_MEASURE: self.config.limit_s if self.config.transfers else self.config.duration_s,
            abi.PHASE_DRAIN: DRAIN_NS / 1e9,
        }
        self.deadline_ns = now + int(seconds.get(phase, 0.0) * 1e9)
        self.player.cfg[0]["phase"] = phase
        telemetry["phase"] = phase

    def _advance(self) -> None:
        """Warm-up, measuring, draining, done: by the clock, or when all transfers are."""
        phase = int(self.telemetry[0]["phase"])
        if phase in (abi.PHASE_STARTING, abi.PHASE_DONE):
            return
        finished = time.monotonic_ns() >= self.deadline_ns
        if phase == abi.PHASE_MEASURE and self.config.transfers:
            finished = finished or bool(done(self.player))
        elif phase == abi.PHASE_DRAIN:
            finished = finished or int(self.player.cfg[0]["outstanding"]) == 0
        if finished:
            self._enter(phase + 1)

    def close(self) -> None:
        self.end.close()
