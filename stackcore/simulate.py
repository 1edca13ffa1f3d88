"""Wire ``sim``: core, app workers, client host and the links between them in one process, under a virtual clock.

Promise: the same configuration gives the same packets, byte for byte, and the same counts; hours of network pass in seconds;
nothing outlives the process. The core's dispatch cycle, its session layer, the C library of the app side and the workload's loop
are those of a real run: only the clock, the link and who calls whom are simulated.

A dispatch cycle takes ``TICK_NS`` of virtual time when there was something to do: one frame in, one pass of the retransmit
queue, one frame out. With nothing to do the clock jumps to the next arrival or timer. What the workers do takes no time. A
drive that finds nothing to wait for before the end is an error (a livelock or a lost wake-up), not a hang.

D1's accesses to freed connections are caught here and counted; a real core does not survive them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import workloads
from stackcore import native, network
from stackcore.abi import abi
from stackcore.abi.layout import Layout
from stackcore.configuration import RunConfig
from stackcore.core.client import schedule
from stackcore.core.tcp import tcp_over
from stackcore.core.tcp_cycle import capture, node_produce, node_sessions
from stackcore.core.tcp_session import tcp_unserved
from stackcore.kernel import kernel
from stackcore.launch import Child, LaunchError
from stackcore.placement import Placement
from stackcore.result import Processes, Result, collect, merge
from stackcore.session.rings import bind_all
from stackcore.session.state import new_core
from stackcore.session.switches import ACCEPT, RING_FULL
from stackcore.tcp.engine import tcp_input, tcp_output, tcp_retransmit, tcp_time
from stackcore.tcp.memory import new_tcp
from stackcore.tcp.wheel import timer_soonest
from stackcore.vcl import _vcl
from stackcore.vcl import native as vls
from stackcore.warmup import announce_cold, private_stack
from stackcore.wire.frames import new_frames, shared_counters
from stackcore.wire.link import LinkConfig, link_deliver, link_send, link_soonest, new_link
from stackcore.wire.pcap import PcapWriter, no_capture
from stackcore.wire.player import done, new_player, play, play_soonest, transfers
from workloads import Prepared
from workloads.loop import listener_mask

TICK_NS = 100_000
"""Virtual time of a dispatch cycle: what a vector of 256 packets takes a busy stack, by order of magnitude."""
START_NS = 1_000_000_000
DRAIN_NS = 1_500_000_000
ROUNDS = 64
"""Cycles of the client host in one tick at most: it is not what is under test, and must keep up."""
DRAIN_EVERY = 64
"""Ticks between two writes of a capture."""


@kernel
def send_all(link, buf, lengths, n, now):
    for i in range(n):
        link_send(link, buf, i, int(lengths[i]), now)


@kernel
def core_step(st, t, f, inward, outward, cap, now):
    """One dispatch cycle of the core at the virtual time ``now``. How much there was to do."""
    st.cfg[0]["now"] = now
    st.tel[0]["heartbeat_ns"] = now
    n = tcp_time(t, now)
    got = link_deliver(inward, f.rx, f.rx_len, 0, st.cfg[0]["frame"], now)
    capture(f, cap, f.rx, f.rx_len, 0, got, now)
    tcp_input(t, f.rx, f.rx_len, got, now)
    n += got + node_sessions(st, t)
    used = node_produce(t, f, now)
    capture(f, cap, f.tx, f.tx_len, 0, used, now)
    send_all(outward, f.tx, f.tx_len, used, now)
    n += used
    if n > 0:
        st.tel[0]["dispatches"] += 1
        st.tel[0]["vectors"] += n
    return n


@kernel
def client_step(t, p, f, inward, outward, now):
    """The client host at the virtual time ``now``, until it has nothing more to do. How much there was."""
    total = 0
    for _ in range(ROUNDS):
        n = tcp_time(t, now)
        got = link_deliver(inward, f.rx, f.rx_len, 0, t.cfg[0]["frame"], now)
        tcp_input(t, f.rx, f.rx_len, got, now)
        n += got + play(t, p, now)
        used = tcp_retransmit(t, f.tx, f.tx_len, 0, now)
        used = tcp_output(t, f.tx, f.tx_len, used, now)
        send_all(outward, f.tx, f.tx_len, used, now)
        if n + used == 0:
            break
        total += n + used
    return total


class _App:
    """One app worker, in this process."""

    def __init__(self, index: int, payload: Any, view: Any, config: RunConfig, prepared: Prepared) -> None:
        record = view.workers[index]
        record["state"], record["generation"], record["pid"] = abi.WORKER_ATTACHED, 1, os.getpid()
        self._ring_at = view.ring_at(index, to_core=False)
        self.vcl = _vcl.Worker(
            segment=payload, index=index, control_fd=-1, doorbell=-1, listener=config.listener, events=config.events,
            futex_lock=False, wait="park", spins=0, table_capacity=config.sessions + 64,
        )  # fmt: skip
        self.serve, self.state, self._memory = workloads.load(config.workload).simulated(prepared, config)
        self.epoll = self.listener = -1

    def listen(self, config: RunConfig, turn: Callable[[], object]) -> None:
        """Listen, while ``turn`` gives the core the turn in which it answers."""
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(self.vcl.listen(network.PORT)))
        asking.start()
        while asking.is_alive():
            turn()
        asking.join()
        if not found:
            raise LaunchError("the simulated worker could not listen")
        self.listener = found[0]
        self.epoll = self.vcl.epoll_create()
        self.vcl.epoll_ctl(self.epoll, vls.EPOLL_CTL_ADD, self.listener, listener_mask(config), self.listener)

    def behind(self) -> bool:
        """True while there are events for it that it has not taken."""
        return native.read64(self._ring_at + abi.LINE) != native.read64(self._ring_at + 2 * abi.LINE)

    def step(self) -> None:
        rc = self.serve(self.vcl.handle, self.epoll, self.listener, 0, self.state)
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc))


class Simulation:
    """One simulated run; a context manager. :meth:`run` drives it to its end."""

    def __init__(self, config: RunConfig, prepared: Prepared) -> None:
        self.config, self.prepared = config, prepared
        self._exit = ExitStack()
        layout = Layout(
            workers=config.workers, sessions=config.sessions, ring_slots=config.ring, fifo_size=config.fifo
        )
        payload, self.view = self._exit.enter_context(private_stack(layout))
        self.core, self._memory = new_core(self.view, layout, 1, schedule(network.client_config(config, prepared)))
        cfg = self.core.cfg[0]
        cfg["frame"] = config.frame
        cfg["ring_full"], cfg["accept_policy"] = RING_FULL[config.ring_full].value, ACCEPT[config.accept].value
        bind_all(self.core, self.view, layout)
        host = network.server_host(config)
        self.tcp, keep = tcp_over(self.core, layout, host, network.connections_for(config))
        self._memory.append(keep)
        self._make_client_host()
        self.frames, self.client_frames = new_frames(config.mtu), new_frames(config.mtu)
        link = network.link_of(config) or LinkConfig()
        self.inward, self.outward = (new_link(replace(link, seed=(2 * link.seed + k) % 2**63), config.mtu) for k in range(2))
        self.pcap = PcapWriter(Path(config.pcap), buffer=64 << 20) if config.pcap else None
        self.frames.cfg[0]["captures"] = int(self.pcap is not None)
        self.capture = self.pcap.capture if self.pcap else no_capture()
        self.now, self.ticks, self.stuck = START_NS, 0, False
        self.apps: list[_App] = []
        for i in range(config.workers):
            self.core.wrk[i]["state"], self.core.wrk[i]["generation"] = abi.WORKER_ATTACHED, 1
            self.apps.append(_App(i, payload, self.view, config, prepared))
            self._exit.callback(self.apps[-1].vcl.detach)

    def _make_client_host(self) -> None:
        self.found = np.zeros(1, abi.TELEMETRY)
        self.client, keep = new_tcp(network.client_host(self.config), None, shared_counters(self.found[0]))
        clients = network.client_config(self.config, self.prepared)
        self.player, more = new_player(self.client, clients, self.found, network.SERVER_NUMBER)
        self._memory += [keep, more]

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pcap is not None:
            self.pcap.close()
        self._exit.close()

    # ---- the drive ----

    def _core(self) -> int:
        return int(core_step(self.core, self.tcp, self.frames, self.inward, self.outward, self.capture, self.now))

    def tick(self) -> int:
        """Everybody once, at the same virtual time. How much there was to do."""
        n = self._core()
        for app in self.apps:
            app.step()
            n += app.behind()
        n += int(client_step(self.client, self.player, self.client_frames, self.outward, self.inward, self.now))
        self.ticks += 1
        if self.pcap is not None and self.ticks % DRAIN_EVERY == 0:
            self.pcap.drain()
        return n

    def soonest(self) -> int:
        """Virtual ns of the next thing that happens by itself; -1: nothing ever will."""
        times = (
            link_soonest(self.inward), link_soonest(self.outward), timer_soonest(self.tcp), timer_soonest(self.client),
            play_soonest(self.player, self.now),
        )  # fmt: skip
        return min((int(at) for at in times if at >= 0), default=-1)

    def advance(self, until: int, finished: Callable[[], bool]) -> bool:
        """Drive until ``finished()`` (True) or the virtual time ``until`` (False). ``stuck``: nothing would ever happen again."""
        quiet = 0
        while self.now < until:
            quiet = 0 if self.tick() > 0 else quiet + 1
            if finished():
                return True
            if quiet < 2:  # once more: a worker may have something left that it keeps to itself
                self.now += TICK_NS
                continue
            at = self.soonest()
            self.stuck = at < 0
            self.now = until if self.stuck else max(self.now + 1, min(at, until))
        return finished()

    def run(self, progress: Callable[[float, int], None] | None = None) -> Result:
        began = time.monotonic()
        announce_cold()
        self._core()  # compiled now, not while a worker waits for its answer
        for app in self.apps:
            app.listen(self.config, self._core)
        notes: list[str] = []
        if self.prepared.once:
            self._transfer(progress, notes)
        else:
            self._measure(progress)
        for app in self.apps:
            app.vcl.detach()  # its counters are complete then
        tel = merge(self.core.tel[0], self.found[0], self.prepared.once)
        tel["unserved"] = tcp_unserved(self.core)
        report = transfers(self.player) if self.prepared.once else {}
        here = Child("the simulation", os.getpid(), -1, exit_status=0)
        records = self.view.workers.copy()
        everybody = Processes([here] * self.config.workers, here, None, list(records))
        where = Placement(None, (None,) * self.config.workers, os.cpu_count() or 1)
        return collect(self.config, where, tel, everybody, notes, time.monotonic() - began, report)

    def _transfer(self, progress: Callable[[float, int], None] | None, notes: list[str]) -> None:
        self._enter(abi.PHASE_MEASURE)
        limit = self.now + int(self.config.limit * 1e9)
        finished = lambda: bool(done(self.player))  # noqa: E731
        while not finished() and self.now < limit:
            self.advance(min(limit, self.now + 100_000_000), finished)
            if progress is not None:
                progress(int(self.found[0]["requests"]) / self.config.clients, int(self.found[0]["requests"]))
            if self.stuck:
                notes.append("nothing is left to happen, and transfers are missing")
                break
        self._enter(abi.PHASE_DRAIN)
        self.advance(self.now + int(2e9 * self.config.close_timeout), lambda: False)

    def _measure(self, progress: Callable[[float, int], None] | None) -> None:
        config = self.config
        self._enter(abi.PHASE_WARMUP)
        self.advance(self.now + int(config.warmup * 1e9), lambda: False)
        self._enter(abi.PHASE_MEASURE)
        for slice_ in range(20):
            self.advance(self.now + int(config.duration * 1e9 / 20), lambda: False)
            if progress is not None:
                progress((slice_ + 1) / 20, int(self.found[0]["requests"]))
        self._enter(abi.PHASE_DRAIN)
        self.advance(self.now + DRAIN_NS, lambda: int(self.player.cfg[0]["outstanding"]) == 0)

    def _enter(self, phase: int) -> None:
        self.player.cfg[0]["phase"] = phase
        self.found[0]["phase"] = phase
        if phase == abi.PHASE_MEASURE:
            self.found[0]["measure_start_ns"] = self.now
        elif phase == abi.PHASE_DRAIN:
            self.found[0]["measure_end_ns"] = self.now


def simulate(config: RunConfig, prepared: Prepared, progress: Callable[[float, int], None] | None = None) -> Result:
    """One simulated run. LaunchError when it could not be made; what was wrong in it stands in the result."""
    with Simulation(config, prepared) as simulation:
        return simulation.run(progress)
