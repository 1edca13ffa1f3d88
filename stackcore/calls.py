"""``python -m stackcore.calls``: what one socket call costs, in 1 or 2 pinned processes, while no core runs.

With the core alone on its CPU two CPUs never make workers contend; here each process has a CPU of its own and does
nothing but calls. The stack is real: a core set the listener, the sessions and the tables up, in a thread of this
process; it has stopped before the first call is timed. The bytes that a timed ``send`` leaves in the fifo are taken
out by the same process, in the core's place, and what that costs is measured alone and subtracted.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np

from stackcore import configuration, launch
from stackcore.abi import abi
from stackcore.abi.layout import Layout
from stackcore.core.client import ClientConfig, configure_clients, schedule
from stackcore.core.dispatch import dispatch
from stackcore.kernel import kernel
from stackcore.native import fifo_avail, fifo_clear_event, fifo_skip, now_ns, ring_ready, ring_release
from stackcore.session.rings import bind_all
from stackcore.session.state import END_BYTES, HANDLE_BYTES, new_core
from stackcore.vcl import _vcl
from stackcore.vcl import native as vls
from stackcore.vcl.native import EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLET, EPOLLIN
from stackcore.warmup import address_of, private_stack

PORT = 80
MESSAGE = 64
BATCH = 256
SETUP_NS = 20_000_000_000
CALLS = ("recv (nothing there)", "send + recv 64 B", "epoll_ctl (modify)", "epoll_wait (nothing there)", "accept (nothing there)")


# ---- what is timed ----

RECV, SEND, EPOLL_CTL, EPOLL_WAIT, ACCEPT, CORE_PART = range(6)


@kernel
def take_back(aux):
    """What the core would do: empty the tx fifo and the worker's ring."""
    fifo_clear_event(aux[0])
    n = fifo_avail(aux[0], 1 << 62)
    fifo_skip(aux[0], n)
    ready = ring_ready(aux[1], 1 << 62)
    if ready > 0:
        ring_release(aux[1], ready)


@kernel
def call_once(kind, w, fd, aux, buffer):
    if kind == RECV:
        vls.recv(w, fd, buffer, MESSAGE)
    elif kind == SEND:
        vls.send(w, fd, buffer, MESSAGE, 0)
        vls.recv(w, fd, buffer, MESSAGE)
        take_back(aux)
    elif kind == EPOLL_CTL:
        vls.epoll_ctl(w, aux[2], EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET, fd)
    elif kind == EPOLL_WAIT:
        vls.epoll_wait(w, aux[2], buffer, 4, 0)
    elif kind == ACCEPT:
        vls.accept(w, aux[3])
    else:
        take_back(aux)


@kernel
def time_calls(kind, w, fd, aux, buffer, until):
    """(calls, ns) of one kind of call, in batches, until the monotonic time ``until``."""
    start = now_ns()
    calls = 0
    while True:
        for _ in range(BATCH):
            call_once(kind, w, fd, aux, buffer)
        calls += BATCH
        now = now_ns()
        if now >= until:
            return calls, now - start


# ---- setting up ----


class Stack:
    """A core in this process, on memory that forked children share; it works only while :meth:`running`."""

    def __init__(self, view: Any, layout: Layout, processes: int) -> None:
        # two clients a process, so that round robin has a session for each; each sends one request and waits
        clients = ClientConfig(2 * processes, b"x" * MESSAGE, b"y" * MESSAGE, port=PORT)
        self.core, self.memory = new_core(view, layout, clients.count, schedule(clients))
        self.memory.append(configure_clients(self.core, clients))
        cfg = self.core.cfg[0]
        # The children take the core's place at these ends, in the state in which the core leaves them.
        ends = mmap.mmap(-1, 2 * layout.sessions * END_BYTES)
        handles = mmap.mmap(-1, 2 * (layout.workers + layout.listeners) * HANDLE_BYTES)
        self.memory += [ends, handles]
        cfg["ends_at"], cfg["handles_at"] = address_of(ends), address_of(handles)
        cfg["frame"], cfg["yield_idle"], cfg["phase"] = 256, 1, abi.PHASE_SERVING
        cfg["timeout_ns"] = SETUP_NS
        bind_all(self.core, view, layout)
        self.core.wrk["state"] = abi.WORKER_ATTACHED
        view.workers["state"], view.workers["generation"] = abi.WORKER_ATTACHED, 1
        dispatch(self.core, 0)  # compiled before the thread starts

    def running(self, wanted: Callable[[], None]) -> None:
        """Do ``wanted()`` while the core dispatches."""
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                dispatch(self.core, time.monotonic_ns() + 1_000_000)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            wanted()
        finally:
            stop.set()
            thread.join()

    def aux(self, worker: int, epoll: int, listener: int) -> np.ndarray[Any, Any]:
        """int64[4]: tx end of the worker's session and consumer of its ring, both the core's; epoll set; listener."""
        cfg = self.core.cfg[0]
        session = int(np.flatnonzero((self.core.ses["owner"] == worker) & (self.core.ses["accepted"] == 1))[0])
        tx = int(cfg["ends_at"]) + (2 * session + 1) * END_BYTES
        ring = int(cfg["handles_at"]) + (2 * worker + 1) * HANDLE_BYTES
        return np.array([tx, ring, epoll, listener], "i8")


def _accept_one(vcl: Any, epoll: int, listener: int) -> int:
    """The fd of this worker's first session."""
    while True:
        for fd, _ in vcl.epoll_wait(epoll, 4, 5000) or _nobody():
            if fd == listener:
                accepted: int = vcl.accept(listener)
                vcl.epoll_ctl(epoll, EPOLL_CTL_ADD, accepted, EPOLLIN | EPOLLET, accepted)
                return accepted


def _nobody() -> list[tuple[int, int]]:
    raise TimeoutError("no connection came within 5 s")


def _silence(vcl: Any, epoll: int, fd: int, listener: int) -> None:
    """Nothing is ready any more: requests read, further connections taken, the listener no longer watched."""
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        for ready, _ in vcl.epoll_wait(epoll, 16, 20):
            if ready == listener:
                try:
                    vcl.accept(listener)
                except BlockingIOError:
                    pass
    try:
        while True:
            vcl.recv(fd, 4096)
    except BlockingIOError:
        pass


# ---- one process ----


def _measure(vcl: Any, fd: int, aux: np.ndarray[Any, Any], seconds: float) -> dict[str, float]:
    """ns per call of everything; the processes start each measurement at the same time by the clock."""
    buffer = np.zeros(4096, "u1")
    found = {}
    slice_ns = int(seconds * 1e9)
    start = (time.monotonic_ns() // (4 * slice_ns) + 1) * 4 * slice_ns
    for kind, name in enumerate(CALLS):
        _until(start)
        calls, ns = time_calls(kind, vcl.handle, fd, aux, buffer.ctypes.data, start + slice_ns)
        found[name] = ns / calls
        start += 2 * slice_ns
    calls, ns = time_calls(CORE_PART, vcl.handle, fd, aux, buffer.ctypes.data, time.monotonic_ns() + slice_ns // 4)
    found[CALLS[SEND]] = max(0.0, found[CALLS[SEND]] - ns / calls)
    return found


def _until(moment_ns: int) -> None:
    """Return as exactly at that monotonic time as a spinning process can."""
    while time.monotonic_ns() < moment_ns:
        pass


def _compile(vcl: Any) -> None:
    time_calls(RECV, vcl.handle, 1 << 20, np.zeros(4, "i8"), 0, 0)


def measure(listener: str, futex: bool, processes: int, seconds: float) -> dict[str, float]:
    """Mean ns per call over the processes. ``listener`` is a listener mode; ``seconds`` are per call and process."""
    launch.assert_single_task()
    capacity = 64
    layout = Layout(workers=processes + 1, sessions=16, ring_slots=1024, fifo_size=4096, app_size=_vcl.table_bytes(capacity))
    cpus = sorted(os.sched_getaffinity(0))
    with private_stack(layout) as (payload, view):
        stack = Stack(view, layout, processes)
        master = _vcl.Worker(
            segment=payload, index=0, control_fd=-1, doorbell=-1, listener=listener, events="bounded", futex_lock=futex,
            wait="adaptive", spins=0, table_capacity=capacity,
        )  # fmt: skip
        _compile(master)
        fds: list[int] = []
        stack.running(lambda: fds.append(master.listen(PORT)))
        pipes = [os.pipe() for _ in range(3 * processes)]
        children = []
        for i in range(processes):
            ready, go, result = pipes[3 * i : 3 * i + 3]
            pid = os.fork()
            if pid == 0:
                _child(master, fds[0], i + 1, stack, cpus[i % len(cpus)], seconds, ready[1], go[0], result[1])
            children.append(pid)
        try:
            results = _conduct(stack, master, pipes, processes)
        except BaseException:
            for pid in children:  # they may wait for a word that will not come
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            for pid in children:
                os.waitpid(pid, 0)
            for pipe in pipes:
                os.close(pipe[0])
                os.close(pipe[1])
            master.detach()
    return {name: sum(r[name] for r in results) / processes for name in CALLS}


def _child(
    vcl: Any, listener: int, index: int, stack: Stack, cpu: int, seconds: float, ready: int, go: int, result: int
) -> None:
    code = 1
    try:
        os.sched_setaffinity(0, {cpu})
        vcl.child(index, -1)
        epoll = vcl.epoll_create()
        vcl.epoll_ctl(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, listener)
        os.write(ready, b"r")
        os.read(go, 1)
        fd = _accept_one(vcl, epoll, listener)
        _silence(vcl, epoll, fd, listener)
        os.write(ready, b"r")
        session = os.read(go, 64).split()
        aux = np.array([int(session[0]), int(session[1]), epoll, listener], "i8")
        os.write(result, json.dumps(_measure(vcl, fd, aux, seconds)).encode())
        code = 0
    except BaseException as error:
        os.write(result, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os.write(ready, b"x")
    finally:
        os._exit(code)


def _conduct(stack: Stack, master: Any, pipes: list[tuple[int, int]], processes: int) -> list[dict[str, float]]:
    """Lead the children through set-up and measuring; their results."""

    def all_ready() -> None:
        for i in range(processes):
            if os.read(pipes[3 * i][0], 1) != b"r":
                raise launch.LaunchError(json.loads(os.read(pipes[3 * i + 2][0], 65536))["error"])

    def listening() -> None:
        all_ready()
        master.parent()

    def connected() -> None:
        for i in range(processes):
            os.write(pipes[3 * i + 1][1], b"g")
        all_ready()

    stack.running(listening)
    dispatch(stack.core, 0)  # the last word of each child is heard: all of them poll
    stack.core.cfg[0]["phase"] = abi.PHASE_WARMUP
    stack.running(connected)
    results = []
    for i in range(processes):
        aux = stack.aux(i + 1, 0, 0)
        os.write(pipes[3 * i + 1][1], f"{aux[0]} {aux[1]}".encode())
    for i in range(processes):
        found = json.loads(os.read(pipes[3 * i + 2][0], 65536) or b'{"error": "a process ended without a result"}')
        if "error" in found:
            raise launch.LaunchError(found["error"])
        results.append(found)
    return results


@click.command()
@click.option("--listener", default="duplicated", help="Listener mode: duplicated, shared-rwlock, unlocked-shared.")
@click.option("--lock", default="spin-rw", help="Its read-write lock: spin-rw, futex-rw.")
@click.option("--processes", type=click.IntRange(1, 8), default=1, help="Processes that call at the same time.")
@click.option("--seconds", type=click.FloatRange(0.01, 60), default=0.1, help="Per call.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(listener: str, lock: str, processes: int, seconds: float, as_json: bool) -> None:
    """Time the socket calls without a core."""
    mode, kind = configuration.LISTENER[listener].value, configuration.LOCK[lock].value
    found = measure(mode, kind, processes, seconds)
    if as_json:
        print(json.dumps({"ns_per_call": found, "processes": processes, "listener": listener, "lock": lock}))
    else:
        for name, ns in found.items():
            print(f"{name:28} {ns:8.1f} ns")


if __name__ == "__main__":
    main()
