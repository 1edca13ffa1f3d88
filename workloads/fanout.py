"""Workload ``fanout``: every client sends at once, so more sessions are ready than one epoll_wait can return (D2).

Messages are 32 bytes both ways; edge-triggered by default, because a level-triggered scan would heal a lost event.
The ring defaults to the largest power of two <= clients / 2: a reference only goes stale once the ring has wrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from stackcore.abi import abi
from stackcore.app.worker import Worker
from stackcore.kernel import kernel
from stackcore.native import busy, now_ns
from stackcore.vcl import native as vls
from workloads import Prepared, loop

MESSAGE = 32
_IN, _OUT, _ERR, _HUP, _RDHUP = vls.EPOLLIN, vls.EPOLLOUT, vls.EPOLLERR, vls.EPOLLHUP, vls.EPOLLRDHUP
_ADD = vls.EPOLL_CTL_ADD
_AGAIN = -vls.EAGAIN


class State(NamedTuple):
    """One worker's memory for the compiled loop."""

    partial: np.ndarray[Any, Any]
    """int64[fds]: bytes of an incomplete message"""
    reply: np.ndarray[Any, Any]
    """uint8[MESSAGE]"""
    box: np.ndarray[Any, Any]
    """uint8[4096]"""
    events: np.ndarray[Any, Any]
    """EPOLL_EVENT[maxevents]"""
    work_ns: int
    edge: int
    timeout_ms: int
    """how long one epoll_wait may take; 0: as a simulator needs it, which has its own idea of time"""


def defaults(given: dict[str, Any]) -> dict[str, Any]:
    clients = max(4, int(given["clients"]))
    return {"ring": 1 << ((clients // 2).bit_length() - 1), "trigger": "edge", "maxevents": 64}


def prepare(config: Any) -> Prepared:
    rng = np.random.default_rng(config.seed)
    request, reply = (rng.integers(0, 256, MESSAGE, "u1").tobytes() for _ in range(2))
    return Prepared(request, reply, storm=True)


def new_state(prepared: Prepared, config: Any, timeout_ms: int = 10) -> State:
    return State(
        np.zeros(config.sessions + 64, "i8"), np.frombuffer(prepared.reply, "u1").copy(), np.zeros(4096, "u1"),
        np.zeros(config.maxevents, abi.EPOLL_EVENT), config.work_ns, int(config.trigger == "edge"), timeout_ms,
    )  # fmt: skip


@kernel
def serve_session(w, fd, st):
    """Answer every complete message; False when the connection is over."""
    while True:
        got = vls.recv(w, fd, st.box.ctypes.data, len(st.box))
        if got == _AGAIN:
            return True
        if got <= 0:
            return False
        have = st.partial[fd] + got
        while have >= MESSAGE:
            have -= MESSAGE
            if st.work_ns > 0:
                busy(st.work_ns)
            if vls.send(w, fd, st.reply.ctypes.data, MESSAGE, 0) != MESSAGE:
                return False  # a client has one request open: its fifo cannot be full
            vls.count_requests(w, 1)
        st.partial[fd] = have
        if got < len(st.box):
            return True


@kernel
def serve(w, ep, listener, until, st):
    """Serve until the monotonic time ``until`` (ns). 0, or a negative errno that ends the worker."""
    vls.cork(w, 16)
    while True:
        n = vls.epoll_wait(w, ep, st.events.ctypes.data, len(st.events), st.timeout_ms)
        if n < 0:
            return n
        for i in range(n):
            fd = int(st.events[i]["fd"])
            if fd == listener:
                for _ in range(len(st.partial)):
                    new = vls.accept(w, listener)
                    if new == _AGAIN:
                        break
                    if new < 0:
                        return new
                    st.partial[new] = 0
                    vls.epoll_ctl(w, ep, _ADD, new, _IN | _RDHUP | (vls.EPOLLET if st.edge else 0), new)
            elif int(st.events[i]["events"]) & (_ERR | _HUP) or not serve_session(w, fd, st):
                vls.close(w, fd)
        if n == 0 or now_ns() >= until:
            return 0


def serve_compiled(worker: Worker, listener: int, prepared: Prepared, config: Any, running: Callable[[], bool]) -> None:
    loop.run_kernel(serve, worker, listener, new_state(prepared, config), config, running)


def simulated(prepared: Prepared, config: Any) -> tuple[Callable[..., int], State, list[Any]]:
    """The kernel, its state, and what keeps that alive, for calls that must not wait."""
    return serve, new_state(prepared, config, timeout_ms=0), []


def touch(handle: int, prepared: Prepared, config: Any) -> None:
    """Have the kernel compiled: one call that finds no epoll set and returns."""
    serve(handle, 0, 0, 0, new_state(prepared, config))


def serve_python(worker: Worker, listener: int, prepared: Prepared, config: Any, running: Callable[[], bool]) -> None:
    """The same in plain Python."""
    vcl, reply = worker.vcl, prepared.reply
    ep = loop.watch_listener(vcl, listener, config)
    partial: dict[int, int] = {}
    mask = _IN | _RDHUP | (vls.EPOLLET if config.trigger == "edge" else 0)
    while running():
        for fd, events in vcl.epoll_wait(ep, config.maxevents, 10):
            if fd == listener:
                for new in loop.accept_all(vcl, listener):
                    partial[new] = 0
                    vcl.epoll_ctl(ep, _ADD, new, mask, new)
            elif events & (_ERR | _HUP) or not _answer(vcl, fd, partial, reply):
                vcl.close(fd)



def _answer(vcl: Any, fd: int, partial: dict[int, int], reply: bytes) -> bool:
    try:
        data = vcl.recv(fd, 4096)
    except BlockingIOError:
        return True
    if not data:
        return False
    count, partial[fd] = divmod(partial[fd] + len(data), MESSAGE)
    for _ in range(count):
        vcl.send(fd, reply)
    vcl.count_requests(count)
    return True
