"""Workload ``http``: a static HTTP/1.1 file server, as a compiled kernel and as plain Python.

The compiled loop is what a tuned native server does: files mapped once, one buffer per connection, requests parsed in
place (pipelining included), replies sent as header and body with the core told once. Supported: GET, HTTP/1.0 and 1.1,
``Connection: close``; 404 for unknown names, 400 for what is no request. The Python loop leaves parsing to h11.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from stackcore.abi import abi
from stackcore.app.worker import Worker
from stackcore.kernel import kernel
from stackcore.native import busy, now_ns
from stackcore.vcl import native as vls
from workloads import Prepared, docroot
from workloads.loop import run_kernel

HEADER_LIMIT = 2048
NAME_LIMIT = 32
NOT_FOUND, BAD_REQUEST = 0, 1
_IN, _OUT, _ERR, _HUP, _RDHUP = vls.EPOLLIN, vls.EPOLLOUT, vls.EPOLLERR, vls.EPOLLHUP, vls.EPOLLRDHUP
_ADD, _MOD = vls.EPOLL_CTL_ADD, vls.EPOLL_CTL_MOD
_AGAIN = -vls.EAGAIN
_EVENT_BYTES = abi.EPOLL_EVENT.itemsize

FILE = np.dtype([(n, "i8") for n in ("hash", "header_at", "header_len", "body_at", "body_len", "name_len")])
CONNECTION = np.dtype([(n, "i8") for n in ("in_len", "file", "offset", "closing", "wants_out")])


def header(status: str, size: int) -> bytes:
    """The reply's header for a body of ``size`` bytes."""
    return f"HTTP/1.1 {status}\r\nServer: stackcore\r\nContent-Length: {size}\r\n\r\n".encode()


def request(name: str) -> bytes:
    return f"GET /{name} HTTP/1.1\r\nHost: stackcore\r\n\r\n".encode()


class State(NamedTuple):
    """One worker's memory for the compiled loop."""

    files: np.ndarray[Any, Any]
    """FILE[n]; 0 and 1 are the replies 404 and 400"""
    names: np.ndarray[Any, Any]
    """uint8[n, NAME_LIMIT]"""
    connections: np.ndarray[Any, Any]
    """CONNECTION[fds]"""
    inbox: np.ndarray[Any, Any]
    """uint8[fds, HEADER_LIMIT]"""
    events: np.ndarray[Any, Any]
    """EPOLL_EVENT[maxevents]"""
    work_ns: int
    edge: int
    timeout_ms: int
    """how long one epoll_wait may take; 0: as a simulator needs it, which has its own idea of time"""


# ---- preparing ----


def defaults(given: dict[str, Any]) -> dict[str, Any]:
    return {"ring": 2048, "trigger": "edge", "maxevents": 256}


def prepare(config: Any) -> Prepared:
    """Make the files; the request asks for the one of ``config.size`` bytes."""
    root = docroot.make(config.size, config.seed)
    name = docroot.name_of(config.size)
    body = (root / name).read_bytes()
    prepared = Prepared(request(name), header("200 OK", len(body)) + body, root)
    prepared.cleanups.append(lambda: docroot.remove(root))
    return prepared


def _hash_name(name: bytes) -> int:
    h = 2166136261
    for byte in name:
        h = ((h ^ byte) * 16777619) & 0xFFFFFFFF
    return h


def load_files(root: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[Any]]:
    """Map every file and build its header: (FILE[n], names, what keeps the memory alive)."""
    paths = sorted(root.iterdir())
    files = np.zeros(2 + len(paths), FILE)
    names = np.zeros((len(files), NAME_LIMIT), "u1")
    keep: list[Any] = []
    entries = [(b"", header("404 Not Found", 0), None), (b"", header("400 Bad Request", 0), None)]
    entries += [(b"/" + p.name.encode(), header("200 OK", p.stat().st_size), p) for p in paths]
    for i, (name, head, path) in enumerate(entries):
        head_bytes = np.frombuffer(head, "u1").copy()
        keep.append(head_bytes)
        files[i]["hash"], files[i]["name_len"] = _hash_name(name), len(name)
        files[i]["header_at"], files[i]["header_len"] = head_bytes.ctypes.data, len(head)
        names[i, : len(name)] = np.frombuffer(name, "u1")
        if path is not None and path.stat().st_size:
            with path.open("rb") as f:
                body = np.frombuffer(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ), "u1")
            keep.append(body)
            files[i]["body_at"], files[i]["body_len"] = body.ctypes.data, len(body)
    return files, names, keep


def new_state(root: Any, config: Any, timeout_ms: int = 10) -> tuple[State, list[Any]]:
    files, names, keep = load_files(root)
    fds = config.sessions + 64
    state = State(
        files, names, np.zeros(fds, CONNECTION), np.zeros((fds, HEADER_LIMIT), "u1"),
        np.zeros(config.maxevents, abi.EPOLL_EVENT), config.work_ns, int(config.trigger == "edge"), timeout_ms,
    )  # fmt: skip
    return state, keep


# ---- the compiled loop ----


@kernel
def find_file(files, names, box, start, end, hashed):
    for i in range(2, len(files)):
        if files[i]["hash"] != hashed or files[i]["name_len"] != end - start:
            continue
        same = True
        for k in range(end - start):
            if names[i, k] != box[start + k]:
                same = False
                break
        if same:
            return i
    return NOT_FOUND


@kernel
def find_end(box, start, n):
    """Index behind the empty line that ends the request at ``start``, or -1 when it is not complete."""
    i = start + 3
    while i < n:
        b = box[i]
        if b == 10:  # \n
            if box[i - 1] == 13 and box[i - 2] == 10 and box[i - 3] == 13:
                return i + 1
            i += 2
        elif b == 13:
            i += 1
        else:
            i += 4
    return -1


@kernel
def says_close(box, start, end):
    """Is there a ``Connection: close``, or is it HTTP/1.0? Names and values are compared without case."""
    line = start
    first = True
    while line < end - 2:
        stop = line
        while box[stop] != 13:
            stop += 1
        if first:
            if box[stop - 1] == 48:  # HTTP/1.0
                return True
            first = False
        elif stop - line >= 16 and (box[line] | 32) == 99 and (box[line + 9] | 32) == 110 and box[line + 10] == 58:
            at = line + 11  # "connection:" by length, first and last letter
            while box[at] == 32 or box[at] == 9:
                at += 1
            if (box[at] | 32) == 99:  # "close"
                return True
        line = stop + 2
    return False


@kernel
def parse(files, names, box, start, end):
    """(file index, close) for the complete request in box[start:end]."""
    if end - start < 16 or box[start] != 71 or box[start + 1] != 69 or box[start + 2] != 84 or box[start + 3] != 32:
        return BAD_REQUEST, True
    h = 2166136261
    at = start + 4
    while at < end and box[at] != 32 and box[at] != 13:
        h = ((h ^ int(box[at])) * 16777619) & 0xFFFFFFFF
        at += 1
    if box[at] != 32:
        return BAD_REQUEST, True
    return find_file(files, names, box, start + 4, at, h), says_close(box, start, end)


@kernel
def push_reply(w, fd, con, files):
    """Send what is left of the reply; 0 when all is in the fifo, else a negative errno."""
    file = files[con["file"]]
    head, total = file["header_len"], file["header_len"] + file["body_len"]
    while con["offset"] < total:
        offset = con["offset"]
        if offset < head:
            more = vls.SEND_MORE if total > head else 0
            sent = vls.send(w, fd, file["header_at"] + offset, head - offset, more)
        else:
            sent = vls.send(w, fd, file["body_at"] + offset - head, total - offset, 0)
        if sent < 0:
            return sent
        con["offset"] = offset + sent
    con["file"] = -1
    vls.count_requests(w, 1)
    return 0


@kernel
def drop(w, fd, con):
    con["in_len"] = 0
    con["file"] = -1
    con["closing"] = 0
    con["wants_out"] = 0
    vls.close(w, fd)


@kernel
def answer(w, fd, con, st, box):
    """Answer the complete requests in the buffer; 0, or a negative errno when a reply is stuck or to close."""
    start = 0
    n = con["in_len"]
    rc = 0
    while rc == 0 and start < n:
        end = find_end(box, start, n)
        if end < 0:
            break
        con["file"], closing = parse(st.files, st.names, box, start, end)
        con["closing"] = 1 if closing else 0
        con["offset"] = 0
        start = end
        if st.work_ns > 0:
            busy(st.work_ns)
        rc = push_reply(w, fd, con, st.files)
        if rc == 0 and closing:
            rc = -1
    if start > 0:
        for i in range(n - start):
            box[i] = box[start + i]
        con["in_len"] = n - start
    return rc


@kernel
def read_requests(w, fd, con, st, box):
    """Read and answer until the connection has no more, or its reply is stuck. False when it is to be closed."""
    while con["file"] < 0:
        room = HEADER_LIMIT - con["in_len"]
        if room == 0:
            return False  # a header that does not fit
        got = vls.recv(w, fd, box.ctypes.data + con["in_len"], room)
        if got == _AGAIN:
            return True
        if got <= 0:
            return False
        con["in_len"] += got
        rc = answer(w, fd, con, st, box)
        if rc < 0 and rc != _AGAIN:
            return False
        if got < room and con["file"] < 0:
            return True  # a short read: the next bytes announce themselves
    return True


@kernel
def serve_connection(w, ep, fd, events, st):
    con = st.connections[fd]
    box = st.inbox[fd]
    alive = events & (_ERR | _HUP) == 0
    if alive and con["file"] >= 0 and events & _OUT:
        rc = push_reply(w, fd, con, st.files)
        alive = rc == 0 or rc == _AGAIN
        if rc == 0:
            alive = con["closing"] == 0
            events |= _IN  # what was not read while the reply was stuck
            if alive and con["in_len"] > 0:
                rc = answer(w, fd, con, st, box)
                alive = rc == 0 or rc == _AGAIN
    if alive and events & (_IN | _RDHUP):
        alive = read_requests(w, fd, con, st, box)
    if not alive:
        drop(w, fd, con)
    elif st.edge == 0:
        wants = 1 if con["file"] >= 0 else 0
        if wants != con["wants_out"]:
            con["wants_out"] = wants
            vls.epoll_ctl(w, ep, _MOD, fd, _OUT if wants else _IN, fd)


@kernel
def accept_all(w, ep, listener, st):
    """Take every waiting connection (bounded by the fds there are); 0 or a fatal negative errno."""
    for _ in range(len(st.connections)):
        fd = vls.accept(w, listener)
        if fd == _AGAIN:
            return 0
        if fd < 0:
            return fd
        con = st.connections[fd]
        con["in_len"] = 0
        con["file"] = -1
        con["closing"] = 0
        con["wants_out"] = 0
        mask = _IN | _OUT | _RDHUP | vls.EPOLLET if st.edge else _IN
        vls.epoll_ctl(w, ep, _ADD, fd, mask, fd)
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
    """Run the kernel in slices of 10 ms until ``running()`` is false. OSError when the core is gone."""
    state, keep = new_state(prepared.data, config)
    run_kernel(serve, worker, listener, state, config, running)
    keep.clear()


def simulated(prepared: Prepared, config: Any) -> tuple[Callable[..., int], State, list[Any]]:
    """The kernel, its state, and what keeps that alive, for calls that must not wait."""
    return serve, *new_state(prepared.data, config, timeout_ms=0)


def touch(handle: int, prepared: Prepared, config: Any) -> None:
    """Have the kernel compiled: one call that finds no epoll set and returns."""
    state, keep = new_state(prepared.data, config)
    serve(handle, 0, 0, 0, state)
    keep.clear()


# ---- the Python loop ----


def serve_python(worker: Worker, listener: int, prepared: Prepared, config: Any, running: Callable[[], bool]) -> None:
    """The same server in plain Python, level- or edge-triggered."""
    from workloads.http_python import Server

    Server(worker.vcl, listener, prepared.data, config).run(running)
