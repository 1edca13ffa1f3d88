"""Two stacks in one process, frame to frame, with the smallest possible applications above them: what is timed in
:mod:`stackcore.tcp.speed`.

Host ``a`` connects and sends, host ``b`` listens and answers. The frame that one fills is the frame that the other reads:
no link, no copy in between, so what remains is TCP itself with its fifos, and the application's copy in and comparison out.
The applications take events by the vector, as the session layer does, and ask for the memory of a vector before they use it.
The clock is virtual and moves by ``TICK`` per step, so timers run, but nothing ever waits.

Promise: every byte that arrives is compared with what was sent; ``wrong`` counts the places where they differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stackcore.abi import abi
from stackcore.bundle import Bundle
from stackcore.histogram import bucket_of
from stackcore.kernel import kernel
from stackcore.native import (
    fifo_avail,
    fifo_bind,
    fifo_clear_event,
    fifo_pos,
    fifo_skip,
    fifo_verify,
    fifo_want,
    fifo_write,
    now_ns,
    prefetch,
)
from stackcore.tcp.engine import (
    take_note,
    tcp_accepted,
    tcp_connect,
    tcp_input,
    tcp_output,
    tcp_received,
    tcp_retransmit,
    tcp_send_ready,
    tcp_time,
)
from stackcore.tcp.memory import HEADERS
from stackcore.tcp.pool import END_BYTES
from stackcore.tcp.state import MAX_FRAME, NOTE_ACCEPT, NOTE_CONNECTED, NOTE_RX, NOTE_TX_ROOM

TICK = 10_000
"""Virtual ns of a step."""
FIRST_PORT = 1000
PER_PORT = 10_000
"""Connections to one port of ``b``: fewer than there are ephemeral ports."""
PATTERN = 1 << 16
"""The bulk stream repeats itself after so many bytes."""
BULK, ECHO = range(2)
_EVERYTHING = 1 << 62
_LINE = 64
_LCG, _LCG_ADD, _LCG_MASK = 6364136223846793005, 1442695040888963407, (1 << 62) - 1

DRIVE = np.dtype(
    [
        (name, "i8")
        for name in (
            "kind", "active", "anywhere", "message", "pattern", "ends_a", "ends_b", "now", "random",
            "connected", "accepted", "steps", "bytes", "requests", "wrong", "failed",
        )
    ]
)  # fmt: skip
"""``message`` bytes of a request and of its answer, ``active`` of them are under way; ``anywhere`` 1: the next one goes out on
a connection picked at random, 0: on the one that was answered."""


class Pair(Bundle):
    """The applications' side, and what was found."""

    cfg: np.ndarray[Any, Any]
    """DRIVE[1]"""
    busy: np.ndarray[Any, Any]
    """uint8[slots of ``a``]: a request is under way"""
    noted: np.ndarray[Any, Any]
    """int32[MAX_FRAME]: slots that are being looked at"""
    hist: np.ndarray[Any, Any]
    """int64[SC_LATENCY_BUCKETS]: picoseconds per segment of each step"""


@kernel
def bind_owner(t, ends, slot):
    """The owner's ends of a fresh slot's fifos: rx reader, then tx writer."""
    cfg = t.cfg[0]
    fifos = cfg["fifos_at"] + slot * cfg["fifo_stride"]
    data = fifos + HEADERS
    fifo_bind(ends + 2 * slot * END_BYTES, fifos, data, cfg["fifo_size"])
    fifo_bind(ends + (2 * slot + 1) * END_BYTES, fifos + HEADERS // 2, data + cfg["fifo_size"], cfg["fifo_size"])


# ---- the applications ----


@kernel
def pour(a, p, slot):
    """Bulk: fill the tx fifo, and ask to be told when half of it is free again."""
    cfg = p.cfg[0]
    end = cfg["ends_a"] + (2 * slot + 1) * END_BYTES
    size = a.cfg[0]["fifo_size"]
    while True:
        fifo_write(end, cfg["pattern"] + (fifo_pos(end) & (PATTERN - 1)), size)
        if fifo_want(end, size // 2) != 0:
            break
    tcp_send_ready(a, slot)


@kernel
def take(t, p, ends, slot, n):
    """Compare and consume ``n`` bytes. The stream's position says what they must be."""
    end = ends + 2 * slot * END_BYTES
    at = 0 if p.cfg[0]["kind"] == ECHO else fifo_pos(end) & (PATTERN - 1)
    if fifo_verify(end, p.cfg[0]["pattern"] + at, n) != n:
        p.cfg[0]["wrong"] += 1
    fifo_skip(end, n)
    tcp_received(t, slot)


@kernel
def send_message(t, p, ends, slot):
    n = p.cfg[0]["message"]
    if fifo_write(ends + (2 * slot + 1) * END_BYTES, p.cfg[0]["pattern"], n) != n:
        p.cfg[0]["failed"] += 1
    tcp_send_ready(t, slot)


@kernel
def next_slot(a, p, slot):
    """Where the next request goes."""
    cfg = p.cfg[0]
    if cfg["anywhere"] == 0:
        return slot
    p.busy[slot] = 0
    while True:
        cfg["random"] = (cfg["random"] * _LCG + _LCG_ADD) & _LCG_MASK
        slot = (cfg["random"] >> 24) % len(p.busy)
        if p.busy[slot] == 0:
            p.busy[slot] = 1
            return slot


@kernel
def collect(t, p, ends):
    """Slots with notes, at most a vector of them, and the memory that the application will touch: how many."""
    n = 0
    while n < MAX_FRAME:
        slot = take_note(t)
        if slot < 0:
            break
        p.noted[n] = slot
        prefetch(ends + 2 * slot * END_BYTES, 2, _LINE)
        n += 1
    return n


@kernel
def notes_of_a(a, p):
    """What host ``a`` has to say; True when there may be more. Requests go out after all answers were taken."""
    cfg = p.cfg[0]
    n = collect(a, p, cfg["ends_a"])
    requests = 0
    for i in range(n):
        slot = int(p.noted[i])
        bits = int(a.slot[slot]["note"])
        a.slot[slot]["note"] = 0
        if bits & NOTE_CONNECTED:
            cfg["connected"] += 1
        elif bits & NOTE_TX_ROOM and cfg["kind"] == BULK:
            pour(a, p, slot)
        elif bits & NOTE_RX:
            end = cfg["ends_a"] + 2 * slot * END_BYTES
            fifo_clear_event(end)
            if fifo_avail(end, _EVERYTHING) >= cfg["message"]:
                take(a, p, cfg["ends_a"], slot, cfg["message"])
                p.noted[requests] = next_slot(a, p, slot)  # behind what was looked at
                requests += 1
        else:
            cfg["failed"] += 1
    cfg["requests"] += requests
    send_requests(a, p, requests)
    return n == MAX_FRAME


@kernel
def send_requests(a, p, n):
    """One on each of the first ``n`` slots of ``p.noted``, whose memory nobody may have touched for long."""
    cfg = p.cfg[0]
    if cfg["anywhere"] != 0:
        for i in range(n):
            slot = int(p.noted[i])
            prefetch(cfg["ends_a"] + 2 * slot * END_BYTES, 2, _LINE)
            prefetch(a.slot.ctypes.data + slot * a.slot.itemsize, 1, _LINE)
            prefetch(a.cfg[0]["fifos_at"] + slot * a.cfg[0]["fifo_stride"], 4, abi.LINE)
    for i in range(n):
        send_message(a, p, cfg["ends_a"], int(p.noted[i]))


@kernel
def notes_of_b(b, p):
    """What host ``b`` has to say; True when there may be more."""
    cfg = p.cfg[0]
    n = collect(b, p, cfg["ends_b"])
    for i in range(n):
        slot = int(p.noted[i])
        bits = int(b.slot[slot]["note"])
        b.slot[slot]["note"] = 0
        if bits & NOTE_ACCEPT:
            bind_owner(b, cfg["ends_b"], slot)
            tcp_accepted(b, slot)
            cfg["accepted"] += 1
        if bits & NOTE_RX:
            end = cfg["ends_b"] + 2 * slot * END_BYTES
            fifo_clear_event(end)
            avail = fifo_avail(end, _EVERYTHING)
            if cfg["kind"] == BULK:
                take(b, p, cfg["ends_b"], slot, avail)
                cfg["bytes"] += avail
            elif avail >= cfg["message"]:
                take(b, p, cfg["ends_b"], slot, cfg["message"])
                send_message(b, p, cfg["ends_b"], slot)
    return n == MAX_FRAME


# ---- one step ----


@kernel
def fill(t, f, now):
    """The sending half of a dispatch: how many rows of the frame were filled."""
    tcp_time(t, now)
    used = tcp_retransmit(t, f.tx, f.tx_len, 0, now)
    return tcp_output(t, f.tx, f.tx_len, used, now)


@kernel
def step(a, b, fa, fb, p):
    """A dispatch of each host and a look by each application. Segments that were received."""
    cfg = p.cfg[0]
    cfg["now"] += TICK
    cfg["steps"] += 1
    there = fill(a, fa, cfg["now"])
    tcp_input(b, fa.tx, fa.tx_len, there, cfg["now"])
    while notes_of_b(b, p):
        pass
    back = fill(b, fb, cfg["now"])
    tcp_input(a, fb.tx, fb.tx_len, back, cfg["now"])
    while notes_of_a(a, p):
        pass
    return there + back


@kernel
def run_until(a, b, fa, fb, p, until):
    """Step until the monotonic time ``until``; the (segments, ns) of it. Each step's cost goes into the histogram."""
    start = now_ns()
    before = start
    total = 0
    while True:
        n = step(a, b, fa, fb, p)
        now = now_ns()
        total += n
        p.hist[bucket_of((now - before) * 1000 // max(n, 1))] += 1
        before = now
        if now >= until:
            return total, now - start


@kernel
def connect_all(a, b, fa, fb, p, server, count):
    """``count`` connections, some per step as the bounded half-open table asks for. True when all are established."""
    cfg = p.cfg[0]
    made = 0
    idle = 0
    while idle < 64 and (cfg["connected"] < count or cfg["accepted"] < count):
        while made < count and made - cfg["accepted"] < 128:
            slot = tcp_connect(a, 0, server, FIRST_PORT + made // PER_PORT, cfg["now"])
            if slot < 0:
                return False
            bind_owner(a, cfg["ends_a"], slot)
            made += 1
        idle = 0 if step(a, b, fa, fb, p) > 0 else idle + 1
    return cfg["connected"] == count and cfg["accepted"] == count


@kernel
def begin(a, p, count):
    """The first bytes: everybody's in bulk, else ``active`` requests."""
    cfg = p.cfg[0]
    if cfg["kind"] == BULK:
        for slot in range(count):
            pour(a, p, slot)
        return
    for i in range(cfg["active"]):
        slot = i * (count // cfg["active"])
        p.busy[slot] = 1
        send_message(a, p, cfg["ends_a"], slot)
