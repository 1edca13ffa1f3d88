"""The server side of a stack instance, in a few lines: replies to requests of a fixed size, on every connection.

The kernel may be told to do wrong, so that a test can see who notices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stackcore.abi import abi
from stackcore.bundle import Bundle
from stackcore.kernel import kernel
from stackcore.native import fifo_avail, fifo_bind, fifo_clear_event, fifo_skip, fifo_want, fifo_write
from stackcore.tcp.engine import listen_open, take_note, tcp_accepted, tcp_close, tcp_received, tcp_send_ready
from stackcore.tcp.state import NOTE_ACCEPT, NOTE_DONE, NOTE_ERROR, NOTE_FIN, Tcp

KEEP, ACTIVE_CLOSE = range(2)
"""Answer every request; or read one, answer it and close, whatever else was sent."""
_HEADER = 2 * abi.LINE

CONFIG = np.dtype([(n, "i8") for n in ("mode", "request_len", "reply_at", "reply_len", "mute", "accepted", "answered")])
"""``mute``: take requests and say nothing."""
SLOT = np.dtype([("rx", "(5,)i8"), ("tx", "(5,)i8"), ("asked", "i8"), ("left", "i8"), ("heard", "i8")])
"""``asked``: bytes of an incomplete request; ``left``: of replies still to send; ``heard``: requests taken."""


class Answerer(Bundle):
    """The owner of the slots of one stack instance."""

    cfg: np.ndarray[Any, Any]
    """CONFIG[1]"""
    own: np.ndarray[Any, Any]
    """SLOT[slots]"""
    at: np.ndarray[Any, Any]
    """int64[2]: addresses of the first rx and tx end"""


def new_answerer(t: Tcp, request: bytes, reply: bytes, mode: int = KEEP, port: int = 80) -> tuple[Answerer, Any]:
    """Listens on ``port``; the second value is the reply's memory, which a test may change under way."""
    memory = np.frombuffer(reply, "u1").copy()
    own = np.zeros(len(t.slot), SLOT)
    first = own.ctypes.data
    a = Answerer(cfg=np.zeros(1, CONFIG), own=own, at=np.array([first, first + 40]))
    cfg = a.cfg[0]
    cfg["mode"], cfg["request_len"], cfg["reply_at"], cfg["reply_len"] = mode, len(request), memory.ctypes.data, len(reply)
    assert listen_open(t, 0, port, len(t.slot)) >= 0
    return a, memory


@kernel
def welcome(t, a, slot):
    stack = t.cfg[0]
    fifos = stack["fifos_at"] + slot * stack["fifo_stride"]
    data = fifos + 2 * _HEADER
    fifo_bind(a.at[0] + slot * a.own.itemsize, fifos, data, stack["fifo_size"])
    fifo_bind(a.at[1] + slot * a.own.itemsize, fifos + _HEADER, data + stack["fifo_size"], stack["fifo_size"])
    a.own[slot]["asked"] = 0
    a.own[slot]["left"] = 0
    a.own[slot]["heard"] = 0
    a.cfg[0]["accepted"] += 1
    tcp_accepted(t, slot)


@kernel
def hear(t, a, slot):
    """Count whole requests; with ACTIVE_CLOSE no byte behind the first is read."""
    cfg = a.cfg[0]
    own = a.own[slot]
    end = a.at[0] + slot * a.own.itemsize
    fifo_clear_event(end)
    n = fifo_avail(end, 1 << 62)
    if cfg["mode"] == ACTIVE_CLOSE:
        n = 0 if own["heard"] > 0 else min(n, cfg["request_len"] - own["asked"])
    if n == 0:
        return
    fifo_skip(end, n)
    tcp_received(t, slot)
    own["asked"] += n
    while own["asked"] >= cfg["request_len"]:
        own["asked"] -= cfg["request_len"]
        own["heard"] += 1
        if cfg["mute"] == 0:
            own["left"] += cfg["reply_len"]


@kernel
def say(t, a, slot):
    """Write as much of the replies as there is room for."""
    cfg = a.cfg[0]
    own = a.own[slot]
    end = a.at[1] + slot * a.own.itemsize
    while own["left"] > 0:
        n = (own["left"] - 1) % cfg["reply_len"] + 1
        put = fifo_write(end, cfg["reply_at"] + cfg["reply_len"] - n, n)
        own["left"] -= put
        if put == n:
            cfg["answered"] += 1
        elif fifo_want(end, min(own["left"], 1024)) != 0:
            break
    tcp_send_ready(t, slot)


@kernel
def answer(t, a, now):
    """Take the stack's notes and answer. How many there were."""
    n = 0
    slot = take_note(t)
    while slot >= 0:
        n += 1
        bits = t.slot[slot]["note"]
        t.slot[slot]["note"] = 0
        if bits & NOTE_ACCEPT:
            welcome(t, a, slot)
        hear(t, a, slot)
        say(t, a, slot)
        own = a.own[slot]
        finished = a.cfg[0]["mode"] == ACTIVE_CLOSE and own["heard"] > 0 and own["left"] == 0 and a.cfg[0]["mute"] == 0
        if bits & (NOTE_FIN | NOTE_ERROR | NOTE_DONE) or finished:
            tcp_close(t, slot, now)
        slot = take_note(t)
    return n
