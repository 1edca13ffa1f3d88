"""Workload ``transfer``: each client fetches one long reply, and the server closes behind it (D1).

The server reads one request of 64 bytes, writes ``size`` bytes as fast as the connection takes them, and closes as soon as
the last is written: most of what TCP still has to do happens after that, when nobody holds the connection any more. It
never reads again. A client that has sent more (``--unread``) is therefore reset by the close, in the middle of its download.

A reply is random bytes from the run's seed, the same for every client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from stackcore.abi import abi
from stackcore.app.worker import Worker
from stackcore.configuration import ConfigError
from stackcore.kernel import kernel
from stackcore.native import busy, now_ns
from stackcore.vcl import native as vls
from workloads import Prepared, loop

REQUEST = 64
_IN, _OUT, _ERR, _HUP, _RDHUP = vls.EPOLLIN, vls.EPOLLOUT, vls.EPOLLERR, vls.EPOLLHUP, vls.EPOLLRDHUP
_ADD, _MOD = vls.EPOLL_CTL_ADD, vls.EPOLL_CTL_MOD
_AGAIN = -vls.EAGAIN
_EDGE = _IN | _OUT | _RDHUP | vls.EPOLLET

CONNECTION = np.dtype([("asked", "i8"), ("sent", "i8")])
"""Bytes of the request that are here, and of the reply that are written."""


class State(NamedTuple):
    """One worker's memory for the compiled loop."""

    connections: np.ndarray[Any, Any]
    """CONNECTION[fds]"""
    reply: np.ndarray[Any, Any]
    """uint8[size]"""
    box: np.ndarray[Any, Any]
    """uint8[REQUEST]"""
    events: np.ndarray[Any, Any]
    """EPOLL_EVENT[maxevents]"""
    work_ns: int
    edge: int
    timeout_ms: int
    """how long one epoll_wait may take; 0: as a simulator needs it, which has its own idea of time"""


# ---- preparing ----


def defaults(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "transport": "tcp", "clients": 3600, "size": "1M", "fifo": 65536, "ring": 8192, "trigger": "edge", "maxevents": 256,
        "unread": 0.1, "abort": 0.05, "timeout": 10.0, "delay": 5_000_000 if given["wire"] == "sim" else 0,
    }  # fmt: skip


def prepare(config: Any) -> Prepared:
    """ConfigError for a run that has no transfers to make."""
    if config.transport == "null":
        raise ConfigError("transfer is about TCP: leave --transport null out")
    if config.size < 1:
        raise ConfigError("a transfer has at least one byte: --size 1M, for example")
    rng = np.random.default_rng(config.seed)
    request, reply = (rng.integers(0, 256, n, "u1").tobytes() for n in (REQUEST, config.size))
    return Prepared(request, reply, once=True)


def new_state(prepared: Prepared, config: Any, timeout_ms: int = 10) -> State:
    return State(
        np.zeros(config.sessions + 64, CONNECTION), np.frombuffer(prepared.reply, "u1").copy(), np.zeros(REQUEST, "u1"),
        np.zeros(config.maxevents, abi.EPOLL_EVENT), config.work_ns, int(config.trigger == "edge"), timeout_ms,
    )  # fmt: skip


# ---- the compiled loop ----


@kernel
def read_request(w, fd, con, st):
    """Up to the end of the request, and never a byte further. False when the connection is over."""
    while con["asked"] < REQUEST:
        got = vls.recv(w, fd, st.box.ctypes.data, REQUEST - con["asked"])
        if got == _AGAIN:
            return True
        if got <= 0:
            return False
        con["asked"] += got
    if st.work_ns > 0:
        busy(st.work_ns)
    return True


@kernel
def push_reply(w, fd, con, st):
    """Write what the connection takes. False when that was the last of it, or nobody takes it any more."""
    while con["sent"] < len(st.reply):
        put = vls.send(w, fd, st.reply.ctypes.data + con["sent"], len(st.reply) - con["sent"], 0)
        if put == _AGAIN:
            return True
        if put < 0:
            return False
        con["sent"] += put
    vls.count_requests(w, 1)
    return False


@kernel
def serve_connection(w, ep, fd, events, st):
    con = st.connections[fd]
    alive = events & (_ERR | _HUP) == 0
    if alive and con["asked"] < REQUEST:
        alive = read_request(w, fd, con, st)
        if st.edge == 0 and alive and con["asked"] == REQUEST:
            vls.epoll_ctl(w, ep, _MOD, fd, _OUT, fd)  # what is not to be read must not be told of for ever
    if alive and con["asked"] == REQUEST:
        alive = push_reply(w, fd, con, st)
    if not alive:
        vls.close(w, fd)


@kernel
def accept_all(w, ep, listener, st):
    """Take every waiting connection (bounded by the fds there are); 0 or a fatal negative errno."""
    for _ in range(len(st.connections)):
        fd = vls.accept(w, listener)
        if fd == _AGAIN:
            return 0
        if fd < 0:
            return fd
        st.connections[fd]["asked"] = 0
        st.connections[fd]["sent"] = 0
        vls.epoll_ctl(w, ep, _ADD, fd, _EDGE if st.edge else _IN, fd)
    return 0


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
                rc = accept_all(w, ep, listener, st)
                if rc < 0:
                    return rc
            else:
                serve_connection(w, ep, fd, int(st.events[i]["events"]), st)
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


# ---- the Python loop ----


class _Download:
    """One connection."""

    def __init__(self, vcl: Any, fd: int, reply: memoryview) -> None:
        self.vcl, self.fd = vcl, fd
        self.missing, self.left = REQUEST, reply

    def step(self) -> bool:
        """Read and write what can be now; False when the connection is to be closed."""
        try:
            while self.missing:
                data = self.vcl.recv(self.fd, self.missing)
                if not data:
                    return False
                self.missing -= len(data)
            while self.left:
                self.left = self.left[self.vcl.send(self.fd, self.left) :]
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self.vcl.count_requests(1)
        return False


class Downloads:
    """The same server in plain Python."""

    def __init__(self, vcl: Any, listener: int, reply: bytes, config: Any) -> None:
        self.vcl, self.listener, self.reply = vcl, listener, memoryview(reply)
        self.edge, self.maxevents = config.trigger == "edge", config.maxevents
        self.ep = loop.watch_listener(vcl, listener, config)
        self.open: dict[int, _Download] = {}

    def run(self, running: Callable[[], bool]) -> None:
        """Serve until ``running()`` is false. OSError when the core is gone."""
        while running():
            for fd, events in self.vcl.epoll_wait(self.ep, self.maxevents, 10):
                if fd == self.listener:
                    self._accept()
                else:
                    self._serve(fd, events)

    def _accept(self) -> None:
        for fd in loop.accept_all(self.vcl, self.listener):
            self.open[fd] = _Download(self.vcl, fd, self.reply)
            self.vcl.epoll_ctl(self.ep, _ADD, fd, _EDGE if self.edge else _IN, fd)

    def _serve(self, fd: int, events: int) -> None:
        download = self.open[fd]
        if events & (_ERR | _HUP) or not download.step():
            del self.open[fd]
            self.vcl.close(fd)
        elif not self.edge and not download.missing:
            self.vcl.epoll_ctl(self.ep, _MOD, fd, _OUT, fd)


def serve_python(worker: Worker, listener: int, prepared: Prepared, config: Any, running: Callable[[], bool]) -> None:
    Downloads(worker.vcl, listener, prepared.reply, config).run(running)
