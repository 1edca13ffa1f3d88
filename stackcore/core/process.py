"""The core process: owns the segment, runs the dispatch cycle, answers the control socket.

Promise: one thread, no lock; between two visits to Python (every millisecond, or when idle) the compiled cycle runs
without a syscall, an allocation or an interpreter step. A worker that dies, lies or breaks its ring is cut off and
its sessions are reset; the others do not notice. The segment has no name in /dev/shm: it is reached over the control
socket, and gone with the last process. Whoever may connect to that socket (the same user) may also start and stop
the run.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shmq.segment import Segment
from stackcore import control, native
from stackcore.abi import abi
from stackcore.abi.layout import Layout, View, lay_out, reset_rings
from stackcore.control import ControlError, Type
from stackcore.core.client import ClientConfig, schedule
from stackcore.core.dispatch import IDLE
from stackcore.core.tcp import TcpTransport, TcpTransportConfig
from stackcore.core.transport import NullTransport, Transport
from stackcore.session.account import last_words
from stackcore.session.listen import forget_worker
from stackcore.session.rings import bind_all, bind_worker
from stackcore.session.state import new_core

SEGMENT_KIND = "stack"
SLICE_NS = 1_000_000
PARK_S = 0.05
DRAIN_NS = 1_500_000_000
STALL_NS = 300_000_000
"""Draining ends early when no reply has come for so long."""


@dataclass(frozen=True)
class CoreConfig:
    """What a core is started with; switch values as integers from the registry."""

    layout: Layout
    path: Path
    clients: ClientConfig
    frame: int = 256
    wait: str = "adaptive"
    shares_cpu: bool = False
    ring_full: int = 2
    accept_policy: int = 1
    warmup_s: float = 0.1
    duration_s: float = 1.0
    tcp: TcpTransportConfig | None = None
    """None: transport ``null``"""


def segment_abi() -> str:
    """What two processes must have in common to share a segment: the native build."""
    return f"{abi.ABI_VERSION}-{native.BUILD_HASH}"


@dataclass
class Peer:
    """One connection of the control socket."""

    sock: socket.socket
    pid: int
    worker: int = control.NO_WORKER
    launcher: bool = False


class CoreProcess:
    """Created and run in the process that is to be the core. :meth:`run` returns when it was told to stop."""

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.segment = Segment.create(config.layout.size - abi.LINE, SEGMENT_KIND, segment_abi())
        try:
            self.listener = control.listen(config.path)
        except BaseException:
            self.segment.close()
            raise
        self.doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.view: View = lay_out(self.segment.buf, self.segment.address, config.layout)
        self.core, self._memory = new_core(self.view, config.layout, config.clients.count, schedule(config.clients))
        self.peers: dict[int, Peer] = {}
        self.epoll = select.epoll()
        self.epoll.register(self.listener, select.EPOLLIN)
        # Each ring is an edge. The counter is never read: workers hold this descriptor, too, and could empty it or
        # make it blocking between the poll and a read.
        self.epoll.register(self.doorbell, select.EPOLLIN | select.EPOLLET)
        self.stopping = False
        self.deadline_ns = 0
        self._configure()
        self.transport: Transport
        if config.tcp is None:
            self.transport = NullTransport(self.core, config.clients)
        else:
            self.transport = TcpTransport(self.core, config.layout, config.tcp)
        for fd in self.transport.descriptors():
            self.epoll.register(fd, select.EPOLLIN | select.EPOLLET)

    def _configure(self) -> None:
        config, cfg = self.config, self.core.cfg[0]
        cfg["frame"] = config.frame
        cfg["ring_full"], cfg["accept_policy"] = config.ring_full, config.accept_policy
        cfg["idle_limit"] = {"spin": 0, "adaptive": 200 if config.shares_cpu else 20_000, "park": 1}[config.wait]
        cfg["yield_idle"] = int(config.shares_cpu)
        telemetry = self.core.tel[0]
        telemetry["core_pid"] = os.getpid()
        bind_all(self.core, self.view, config.layout)
        self._set_phase(abi.PHASE_SERVING)

    # ---- the loop ----

    def run(self) -> None:
        """Serve until STOP or a signal; then release everything."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the launcher, which stops the core
        try:
            while not self.stopping:
                state = self.transport.dispatch(time.monotonic_ns() + SLICE_NS)
                self._poll(0)
                self._advance()
                self._cut_broken()
                if state == IDLE and not self.stopping:
                    self._park()
        finally:
            self.close()

    def _on_signal(self, number: int, frame: Any) -> None:
        self.stopping = True

    def _park(self) -> None:
        """Sleep until the doorbell, the control socket, or the next thing the clock brings."""
        telemetry = self.core.tel[0]
        timeout = PARK_S
        now = time.monotonic_ns()
        due = self.transport.wake_at()
        if due and (self.config.tcp is not None or self._sending()):
            timeout = min(timeout, (due - now) / 1e9)
        if self.deadline_ns:
            timeout = min(timeout, (self.deadline_ns - now) / 1e9)
        if timeout < 0.0002:
            return
        native.cell_announce(self.view.core_cell_at)
        self.transport.announce()
        before = int(telemetry["dispatches"])
        self.transport.dispatch(0)  # one more look after the announcement: no wake-up is lost
        if int(telemetry["dispatches"]) == before:
            telemetry["parks"] += 1
            self._poll(timeout)
        self.transport.clear()
        native.cell_clear(self.view.core_cell_at)

    def _sending(self) -> bool:
        return abi.PHASE_WARMUP <= int(self.core.cfg[0]["phase"]) <= abi.PHASE_MEASURE

    # ---- phases of a run ----

    def _set_phase(self, phase: int) -> None:
        self.core.cfg[0]["phase"] = phase
        self.core.tel[0]["phase"] = phase

    def _start(self) -> None:
        self.transport.dispatch(0)  # what the workers said before the launcher said START
        now = time.monotonic_ns()
        self.core.cfg[0]["next_due"] = now
        self._set_phase(abi.PHASE_WARMUP)
        self.deadline_ns = now + int(self.config.warmup_s * 1e9)

    def _advance(self) -> None:
        """Warm-up, measuring, draining, done: by the clock."""
        phase, now = int(self.core.cfg[0]["phase"]), time.monotonic_ns()
        telemetry = self.core.tel[0]
        if phase == abi.PHASE_DRAIN and (now >= self.deadline_ns or self._drained()):
            self.deadline_ns = 0
            self._account()
            self._set_phase(abi.PHASE_DONE)
            self._tell_launchers()
        if not self.deadline_ns or now < self.deadline_ns:
            return
        if phase == abi.PHASE_WARMUP:
            telemetry["measure_start_ns"] = now
            self.core.nodes[:] = 0
            for name in ("dispatches", "idle_dispatches", "vectors", "parks"):
                telemetry[name] = 0
            self._set_phase(abi.PHASE_MEASURE)
            self.deadline_ns = now + int(self.config.duration_s * 1e9)
        elif phase == abi.PHASE_MEASURE:
            telemetry["measure_end_ns"] = now
            self._set_phase(abi.PHASE_DRAIN)
            self.deadline_ns = now + DRAIN_NS

    def _drained(self) -> bool:
        """No request is open, and every worker that polls has taken what was sent."""
        cfg = self.core.cfg[0]
        if int(cfg["outstanding"]) > 0:
            return time.monotonic_ns() - max(int(cfg["last_progress"]), self.deadline_ns - DRAIN_NS) > STALL_NS
        self._publish()
        for worker in range(self.config.layout.workers):
            record = self.core.wrk[worker]
            if record["state"] != abi.WORKER_ATTACHED or not self._polls(worker):
                continue
            at = self.view.ring_at(worker, to_core=False)
            if native.read64(at + abi.LINE) != native.read64(at + 2 * abi.LINE):
                return False
        return True

    def _polls(self, worker: int) -> bool:
        return native.read64(self.view.worker_at(worker) + _WAITS_AT) > 0

    def _publish(self) -> None:
        """Copy per-worker counters to shared memory."""
        self.view.workers["sent"] = self.core.wrk["sent"]
        self.view.listeners[:] = self.core.lis
        self.core.tel[0]["dropped"] = int(self.core.wrk["dropped"].sum())
        self.core.tel[0]["events"] = int(self.core.wrk["sent"].sum())

    def _account(self) -> None:
        """What is only counted when somebody asks."""
        self._publish()
        self.core.tel[0]["unserved"] = self.transport.unserved()
        self.core.tel[0]["open_sessions"] = int(self.core.cfg[0]["open_sessions"])

    def _tell_launchers(self) -> None:
        self._publish()
        for peer in list(self.peers.values()):
            if peer.launcher:
                self._send(peer, Type.DONE)

    # ---- control socket ----

    def _poll(self, timeout: float) -> None:
        for fd, _ in self.epoll.poll(timeout):
            if fd == self.listener.fileno():
                self._accept()
            elif fd in self.peers:
                self._serve(self.peers[fd])

    def _accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.epoll.modify(self.listener, 0)  # no more guests until one leaves
            return  # or it has gone again
        pid, uid, _ = control.peer_credentials(sock)
        peer = Peer(sock, pid)
        sock.setblocking(False)
        if uid != os.geteuid():
            self._send(peer, Type.ERROR, {"message": f"this core serves uid {os.geteuid()}, not {uid}"})
            sock.close()
            return
        self.peers[sock.fileno()] = peer
        self.epoll.register(sock, select.EPOLLIN)

    def _serve(self, peer: Peer) -> None:
        try:
            message, fds = control.receive(peer.sock)
            for fd in fds:
                os.close(fd)
            if message.worker != peer.worker:
                raise ControlError(f"this connection is worker {peer.worker}, the message says {message.worker}")
            handler = self._handlers.get(message.type)
            if handler is None:
                raise ControlError(f"{message.type.name} is not a request")
            handler(self, peer, message.body)
        except BlockingIOError:
            return
        except (EOFError, ConnectionError):
            self._drop(peer)
        except ControlError as error:
            self._send(peer, Type.ERROR, {"message": str(error)})
            self._drop(peer)

    def _send(self, peer: Peer, kind: Type, body: dict[str, Any] | None = None, fds: tuple[int, ...] = ()) -> None:
        """A peer that does not read its answers, or provokes one that is too long, loses it; the core does not wait."""
        try:
            control.send(peer.sock, kind, peer.worker, body, fds)
        except OSError:
            pass

    def _attach(self, peer: Peer, body: dict[str, Any]) -> None:
        if peer.worker != control.NO_WORKER:
            raise ControlError("attached already")
        wanted = body.get("abi")
        if wanted != segment_abi():
            raise ControlError(f"built differently: core {segment_abi()}, worker {wanted}; install one build for both")
        free = [i for i in range(self.config.layout.workers) if self._is_free(i)]
        if not free:
            raise ControlError(f"all {self.config.layout.workers} worker records are in use: start the core with more --workers")
        worker = free[0]
        reset_rings(self.view, worker)
        bind_worker(self.core, self.view, self.config.layout, worker)
        shared, private = self.view.workers[worker], self.core.wrk[worker]
        private["generation"] += 1
        self.view.workers[worker : worker + 1].view("i8")[:] = 0
        shared["generation"], shared["pid"], shared["state"] = private["generation"], peer.pid, abi.WORKER_ATTACHED
        for name in ("head", "tail", "sent", "dropped", "congested"):
            private[name] = 0
        private["state"], private["pid"] = abi.WORKER_ATTACHED, peer.pid
        peer.worker = worker
        peer.launcher = bool(body.get("launcher"))
        self._send(peer, Type.ATTACHED, {"worker": worker}, (self.segment.fd, self.doorbell))

    def _is_free(self, worker: int) -> bool:
        """A record whose process was cut off is free only when that process is gone: it has the rings mapped."""
        private = self.core.wrk[worker]
        if private["state"] == abi.WORKER_DEAD and not _alive(int(private["pid"])):
            private["state"] = abi.WORKER_FREE
        return bool(private["state"] == abi.WORKER_FREE)

    def _detach(self, peer: Peer, body: dict[str, Any]) -> None:
        self._send(peer, Type.OK)
        self._drop(peer, died=False)

    def _on_start(self, peer: Peer, body: dict[str, Any]) -> None:
        if self.config.tcp is not None:
            raise ControlError("over TCP the clients are on the other side of the wire: nothing to start here")
        if int(self.core.cfg[0]["phase"]) != abi.PHASE_SERVING:
            raise ControlError("the run has been started already")
        self._start()
        self._send(peer, Type.OK)

    def _on_stop(self, peer: Peer, body: dict[str, Any]) -> None:
        self._publish()
        self._send(peer, Type.OK)
        self.stopping = True

    def _status(self, peer: Peer, body: dict[str, Any]) -> None:
        self._account()
        telemetry = self.core.tel[0]
        names = ("phase", "requests", "connects", "resets", "worker_deaths", "invalid", "open_sessions")
        self._send(peer, Type.REPORT, {name: int(telemetry[name]) for name in names})

    _handlers: dict[Type, Callable[[CoreProcess, Peer, dict[str, Any]], None]] = {
        Type.ATTACH: _attach,
        Type.DETACH: _detach,
        Type.START: _on_start,
        Type.STOP: _on_stop,
        Type.STATUS: _status,
    }

    def _drop(self, peer: Peer, died: bool = True) -> None:
        """Forget a connection; what its worker had goes with it."""
        if self.peers.pop(peer.sock.fileno(), None) is None:
            return
        self.epoll.unregister(peer.sock)
        peer.sock.close()
        self.epoll.modify(self.listener, select.EPOLLIN)
        if peer.worker != control.NO_WORKER:
            self._bury(peer.worker, died)

    def _bury(self, worker: int, died: bool) -> None:
        private, shared = self.core.wrk[worker], self.view.workers[worker]
        if private["state"] == abi.WORKER_ATTACHED:
            last_words(self.core, worker)
        forget_worker(self.core.lis, worker)
        private["state"] = abi.WORKER_DEAD
        self.transport.worker_gone(worker)
        shared["sent"] = private["sent"]
        shared["state"] = abi.WORKER_DEAD
        if died and int(self.core.cfg[0]["phase"]) < abi.PHASE_DONE:
            self.core.tel[0]["worker_deaths"] += 1
        if not died:
            private["state"] = abi.WORKER_FREE

    def _cut_broken(self) -> None:
        """A worker whose ring holds an impossible cursor is no longer listened to."""
        if not (self.core.wrk["state"] < 0).any():
            return
        for worker in np.flatnonzero(self.core.wrk["state"] < 0):
            for peer in [p for p in self.peers.values() if p.worker == worker]:
                self._send(peer, Type.ERROR, {"message": "ring corrupt: cut off"})
                self._drop(peer)

    def close(self) -> None:
        """Release sockets, descriptors and the segment. Safe to call twice."""
        if self.listener.fileno() < 0:
            return
        self._publish()
        self._set_phase(abi.PHASE_STOPPED)
        for peer in list(self.peers.values()):
            peer.sock.close()
        self.peers.clear()
        self.epoll.close()
        self.transport.close()
        self.listener.close()
        self.config.path.unlink(missing_ok=True)
        os.close(self.doorbell)
        del self.core, self.view, self._memory, self.transport
        self.segment.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


_WAITS_AT = next(f.offset for f in abi.RECORDS["sc_worker"] if f.name == "waits")
