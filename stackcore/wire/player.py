"""The clients of a run behind TCP: requests go out on one stack instance, every byte of every reply is checked.

What :mod:`stackcore.wire.null` plays at session level, this plays on connections, with the same counts in the same
record. Sans-IO as the stack is: :func:`play` takes the stack's notes and says what the clients say, between
``tcp_input`` and ``tcp_output``; ``now`` (ns) never goes back. The same configuration, notes and times give the same
calls. One thread.

A request is written behind the SYN, so a connection costs no visit of its own. A client whose connection ends before its
reply is whole (reset, refused, cut short, wrong bytes, no progress for ``timeout_ns``) makes another and asks again: what is
counted as served was served from the first byte to the last on one connection.

With ``once`` each client fetches one reply and then waits for the server to close, so that TIME-WAIT is the server's, as
after any download. Some are provoked in their first fetch (:class:`~stackcore.core.client.ClientConfig`): what a plain
download never does to a server's retransmit queue, they do. A latency is then the time from a client's first request to
its whole reply, however many fetches that took.

Ports are taken from 1024 on, round and round, not from the 16384 that a host keeps for ephemeral use: each that is in
TIME-WAIT is lost for a while to a client that closes first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stackcore.abi import abi
from stackcore.bundle import Bundle
from stackcore.core.client import ClientConfig, schedule
from stackcore.histogram import bucket_of
from stackcore.kernel import kernel
from stackcore.native import (
    fifo_avail,
    fifo_bind,
    fifo_clear_event,
    fifo_room,
    fifo_skip,
    fifo_verify,
    fifo_want,
    fifo_write,
)
from stackcore.session.state import CLIENT_WAITING
from stackcore.tcp.engine import take_note, tcp_abort, tcp_close, tcp_connect, tcp_received, tcp_send_ready
from stackcore.tcp.memory import aligned, ring_size
from stackcore.tcp.state import MAX_FRAME, NOTE_CONNECTED, NOTE_DONE, NOTE_ERROR, NOTE_FIN, NOTE_TX_ROOM, Tcp
from stackcore.wire.pace import STORM_STALL_NS, due, make_ready, take_intended

CLIENT_BLOCKED, CLIENT_DONE = 2, 3
"""Beside CLIENT_READY and CLIENT_WAITING: the tx fifo has no room for a request; the one reply is here."""
BY_RESET, BY_ABORT, BY_TIMEOUT, BY_CORRUPTION = range(4)
"""What cut a connection before its reply was whole. BY_RESET: the other side, by whatever means."""

_WARMUP, _MEASURE = abi.PHASE_WARMUP, abi.PHASE_MEASURE
_FIRST_PORT, _PORTS = 1024, 64512
_PORT_TRIES = 16
_SCAN_NS = 50_000_000
_RETRY_NS = 1_000_000
_EVERYTHING = 1 << 62
_HEADER = 2 * abi.LINE
"""sizeof(shmq_fifo)"""
_EADDRINUSE, _ECONNREFUSED = -98, 111

CONFIG = np.dtype(
    [
        (name, "i8")
        for name in (
            "now", "frame", "phase", "clients", "addr", "port", "next_port", "ends_at",
            "request_at", "request_len", "reply_at", "reply_len", "verify_full", "requests_per_connection",
            "open_loop", "next_due", "gap_index", "storm", "storm_left", "last_progress", "outstanding",
            "timeout_ns", "next_scan", "retry_at", "ready_head", "ready_tail",
            "once", "ramp_ns", "begun", "start", "started",
            "completed", "refetched", "cut_by_reset", "cut_by_abort", "cut_by_timeout", "cut_by_corruption",
        )
    ]
)  # fmt: skip
"""One record. The caller sets ``phase``; requests go out in WARMUP and MEASURE, and are counted in MEASURE. ``start``: when
the first of them began. The counters of the last row, ``outstanding`` and ``last_progress`` may be read at any time."""

CLIENT = np.dtype(
    [("state", "i4"), ("slot", "i4")]
    + [(name, "i8") for name in ("intended", "asked", "got", "served", "took", "abort_at")]
    + [("unread", "i4"), ("again", "i4")]
)
"""A cache line each. ``asked``: last progress of the open request; ``took``: ns from the first request to the whole reply
with ``once``. The provocations: ``abort_at`` bytes of the reply, 0: never; ``unread``: a second request is still to go out.
``again``: the next request repeats one that was cut."""

SLOT = np.dtype({"names": ["rx", "client", "tx"], "formats": ["(5,)i8", "i8", "(5,)i8"], "offsets": [0, 40, 64], "itemsize": 128})
"""The owner's part of a slot of the stack: the ends of both fifos, and whose it is, -1: nobody's."""
_TX = 64


class Player(Bundle):
    """The clients of one stack instance."""

    cfg: np.ndarray[Any, Any]
    """CONFIG[1]"""
    cli: np.ndarray[Any, Any]
    """CLIENT[clients]"""
    own: np.ndarray[Any, Any]
    """SLOT[slots of the stack]"""
    ready: np.ndarray[Any, Any]
    """int32[power of two >= clients]: those that may send their next request"""
    gaps: np.ndarray[Any, Any]
    """int64[n]: open-loop gaps between requests, ns, used round and round"""
    tel: np.ndarray[Any, Any]
    """sc_telemetry[1]"""
    latency: np.ndarray[Any, Any]
    """int64[SC_LATENCY_BUCKETS] (view of the telemetry)"""


# ---- making one ----


def new_player(
    t: Tcp, config: ClientConfig, telemetry: np.ndarray[Any, Any], addr: int, frame: int = MAX_FRAME
) -> tuple[Player, list[Any]]:
    """Clients for the stack ``t``, which connect to ``config.port`` at ``addr`` (IPv4 as a number). The second value keeps
    memory alive that kernels know by address only. ``telemetry`` is an array of one sc_telemetry record.

    ValueError when the configuration cannot work.
    """
    _check(t, config)
    request, reply = (np.frombuffer(message, "u1").copy() for message in (config.request, config.reply))
    own, own_memory = _aligned(SLOT, len(t.slot))
    clients, client_memory = _aligned(CLIENT, config.count)
    p = Player(
        cfg=np.zeros(1, CONFIG),
        cli=clients,
        own=own,
        ready=np.zeros(ring_size(config.count), "i4"),
        gaps=schedule(config),
        tel=telemetry,
        latency=telemetry[0]["latency"],
    )
    p.own["client"] = p.cli["slot"] = -1
    _provoke(p, config)
    values = {
        "frame": frame, "clients": config.count, "addr": addr, "port": config.port, "ends_at": own.ctypes.data,
        "next_port": config.seed * 7919 % _PORTS, "request_at": request.ctypes.data, "request_len": len(request),
        "reply_at": reply.ctypes.data, "reply_len": len(reply), "verify_full": config.verify_full,
        "requests_per_connection": config.requests_per_connection, "open_loop": config.rate > 0, "storm": config.storm,
        "timeout_ns": round(config.timeout_s * 1e9), "once": config.once, "ramp_ns": config.ramp_ns,
    }  # fmt: skip
    for name, value in values.items():
        p.cfg[0][name] = value
    return p, [request, reply, own_memory, client_memory]


def _check(t: Tcp, config: ClientConfig) -> None:
    if config.count < 1 or not config.request or not config.reply:
        raise ValueError("there must be a client, a request and a reply of at least one byte")
    fifo = int(t.cfg[0]["fifo_size"])
    if len(config.request) > fifo:
        raise ValueError(f"a request of {len(config.request)} bytes does not fit into a fifo of {fifo}")
    if min(config.unread, config.abort) < 0 or config.unread + config.abort > 1:
        raise ValueError(f"unread and abort are fractions, together at most 1, not {config.unread:g} and {config.abort:g}")
    if config.unread + config.abort > 0 and not config.once:
        raise ValueError("unread and abort provoke clients that fetch once")


def _aligned(dtype: np.dtype[Any], count: int) -> tuple[np.ndarray[Any, Any], Any]:
    """(records that begin on a cache line, the block they lie in)."""
    block, at = aligned(count * dtype.itemsize)
    begin = at - block.ctypes.data
    return block[begin : begin + count * dtype.itemsize].view(dtype), block


def _provoke(p: Player, config: ClientConfig) -> None:
    """Choose who is to provoke, by the seed: exact numbers of clients, any of them."""
    rng = np.random.default_rng(config.seed)
    chosen = rng.permutation(config.count)
    unread = round(config.unread * config.count)
    aborting = chosen[unread : unread + round(config.abort * config.count)]
    p.cli["unread"][chosen[:unread]] = 1
    p.cli["abort_at"][aborting] = rng.integers(1, max(2, len(config.reply)), len(aborting))


# ---- sending ----


@kernel
def connect(t, p, c, now):
    """A connection for client ``c``; its slot, or a negative errno."""
    cfg = p.cfg[0]
    slot = _EADDRINUSE
    for _ in range(_PORT_TRIES):
        cfg["next_port"] = (cfg["next_port"] + 1) % _PORTS
        slot = tcp_connect(t, _FIRST_PORT + cfg["next_port"], cfg["addr"], cfg["port"], now)
        if slot != _EADDRINUSE:
            break
    if slot < 0:
        return slot
    stack = t.cfg[0]
    fifos = stack["fifos_at"] + slot * stack["fifo_stride"]
    data = fifos + 2 * _HEADER
    ends = cfg["ends_at"] + slot * p.own.itemsize
    fifo_bind(ends, fifos, data, stack["fifo_size"])
    fifo_bind(ends + _TX, fifos + _HEADER, data + stack["fifo_size"], stack["fifo_size"])
    p.own[slot]["client"] = c
    p.cli[c]["slot"] = slot
    p.cli[c]["served"] = 0
    p.tel[0]["connects"] += 1
    p.tel[0]["open_sessions"] += 1
    return slot


@kernel
def try_to_connect(t, p, c, now):
    """The same, but not more often than once per millisecond when it cannot be; then it counts as refused."""
    cfg = p.cfg[0]
    if now < cfg["retry_at"]:
        return -1
    slot = connect(t, p, c, now)
    if slot < 0:
        p.tel[0]["refused"] += 1
        cfg["retry_at"] = now + _RETRY_NS
    return slot


@kernel
def has_room(p, c, end):
    """True when client ``c``'s request fits; else the client is out of the queue until it does."""
    length = p.cfg[0]["request_len"]
    if fifo_room(end, length) >= length or fifo_want(end, length) == 0:
        return True
    p.cli[c]["state"] = CLIENT_BLOCKED
    return False


@kernel
def send_request(t, p, c, slot, end, intended):
    cfg = p.cfg[0]
    fifo_write(end, cfg["request_at"], cfg["request_len"])
    tcp_send_ready(t, slot)
    client = p.cli[c]
    client["state"] = CLIENT_WAITING
    client["asked"] = cfg["now"]
    client["got"] = 0
    if client["again"] == 0 or cfg["once"] == 0:
        client["intended"] = intended
    cfg["refetched"] += client["again"]
    client["again"] = 0
    cfg["outstanding"] += 1


@kernel
def send_requests(t, p, now):
    """Up to one frame of requests; connections are made for those that have none. How many clients were served."""
    cfg = p.cfg[0]
    sent = 0
    budget = min(cfg["frame"], due(p))
    while budget > 0 and cfg["ready_head"] != cfg["ready_tail"]:
        budget -= 1
        if cfg["open_loop"] != 0 and cfg["next_due"] > now:
            break
        c = int(p.ready[cfg["ready_head"] % len(p.ready)])
        slot = int(p.cli[c]["slot"])
        if slot < 0:
            slot = try_to_connect(t, p, c, now)
        if slot < 0:
            cfg["ready_head"] += 1  # its turn comes again after those that have a connection
            make_ready(p.cfg, p.cli, p.ready, c)
            continue
        end = cfg["ends_at"] + slot * p.own.itemsize + _TX
        if not has_room(p, c, end):
            cfg["ready_head"] += 1
            continue
        cfg["ready_head"] += 1
        send_request(t, p, c, slot, end, take_intended(p))
        if cfg["storm_left"] > 0:
            cfg["storm_left"] -= 1
        sent += 1
    return sent


@kernel
def begin(p, now):
    """Let clients begin whose time has come: all at once, or along the ramp."""
    cfg = p.cfg[0]
    if cfg["begun"] == 0:
        cfg["begun"] = 1
        cfg["start"] = now
        cfg["next_due"] = now
    while cfg["started"] < cfg["clients"] and now >= begins_at(cfg):
        make_ready(p.cfg, p.cli, p.ready, cfg["started"])
        cfg["started"] += 1


@kernel
def begins_at(cfg):
    """When the next client begins."""
    return cfg["start"] + cfg["started"] * cfg["ramp_ns"] // cfg["clients"]


# ---- ending ----


@kernel
def let_go(p, c, slot):
    """Client ``c`` has no connection any more; the stack is told by the caller."""
    p.own[slot]["client"] = -1
    p.cli[c]["slot"] = -1
    p.tel[0]["open_sessions"] -= 1


@kernel
def hang_up(t, p, c, slot, now):
    """Close in good order."""
    let_go(p, c, slot)
    tcp_close(t, slot, now)
    p.tel[0]["closes"] += 1


@kernel
def cut(t, p, c, slot, why, now):
    """A connection ends before its reply is whole, or gets what nobody asked for: reset it; the client asks again."""
    cfg = p.cfg[0]
    let_go(p, c, slot)
    tcp_abort(t, slot, now)
    if why == BY_RESET:
        cfg["cut_by_reset"] += 1
    elif why == BY_ABORT:
        cfg["cut_by_abort"] += 1
    elif why == BY_TIMEOUT:
        cfg["cut_by_timeout"] += 1
    else:
        cfg["cut_by_corruption"] += 1
    p.tel[0]["resets"] += 1
    client = p.cli[c]
    if client["state"] == CLIENT_WAITING:
        cfg["outstanding"] -= 1
        client["again"] = 1
        client["unread"] = 0
        client["abort_at"] = 0
        make_ready(p.cfg, p.cli, p.ready, c)
    elif client["state"] == CLIENT_BLOCKED:
        make_ready(p.cfg, p.cli, p.ready, c)


@kernel
def connection_over(t, p, c, slot, now):
    """The peer sends no more, or the connection is gone; what had come before was read."""
    error = t.slot[slot]["error"]
    if p.cli[c]["state"] == CLIENT_WAITING:
        if error == _ECONNREFUSED:
            p.tel[0]["refused"] += 1
            p.cfg[0]["retry_at"] = now + _RETRY_NS
        cut(t, p, c, slot, BY_RESET, now)
        return
    if p.cli[c]["state"] == CLIENT_BLOCKED:
        make_ready(p.cfg, p.cli, p.ready, c)
    hang_up(t, p, c, slot, now)  # between two requests: nothing is missing


# ---- replies ----


@kernel
def complete(t, p, c, slot, now):
    """Client ``c`` has its whole reply."""
    cfg = p.cfg[0]
    client = p.cli[c]
    cfg["outstanding"] -= 1
    cfg["last_progress"] = now
    latency = now - client["intended"]
    if cfg["phase"] == _MEASURE:
        tel = p.tel[0]
        tel["requests"] += 1
        tel["reply_bytes"] += cfg["reply_len"]
        p.latency[bucket_of(latency)] += 1
        if latency > tel["latency_max_ns"]:
            tel["latency_max_ns"] = latency
    if cfg["once"] != 0:
        client["state"] = CLIENT_DONE
        client["took"] = latency
        cfg["completed"] += 1
        return
    client["served"] += 1
    if client["served"] == cfg["requests_per_connection"]:
        hang_up(t, p, c, slot, now)
    make_ready(p.cfg, p.cli, p.ready, c)


@kernel
def second_request(t, p, c, slot):
    """The provocation ``unread``; put off while there is no room."""
    cfg = p.cfg[0]
    end = cfg["ends_at"] + slot * p.own.itemsize + _TX
    if fifo_room(end, cfg["request_len"]) >= cfg["request_len"]:
        fifo_write(end, cfg["request_at"], cfg["request_len"])
        tcp_send_ready(t, slot)
        p.cli[c]["unread"] = 0


@kernel
def take_bytes(p, c, end, avail):
    """The next ``avail`` bytes of client ``c``'s reply; False when they are not what they must be."""
    cfg = p.cfg[0]
    client = p.cli[c]
    got = client["got"]
    if client["state"] != CLIENT_WAITING or avail > cfg["reply_len"] - got:
        return False
    if cfg["verify_full"] != 0 and fifo_verify(end, cfg["reply_at"] + got, avail) != avail:
        return False
    fifo_skip(end, avail)
    client["got"] = got + avail
    client["asked"] = cfg["now"]  # progress: its time begins anew
    return True


@kernel
def read_reply(t, p, c, slot, now):
    """Take what has come for client ``c``; False when its connection is over by that."""
    cfg = p.cfg[0]
    end = cfg["ends_at"] + slot * p.own.itemsize
    fifo_clear_event(end)
    avail = fifo_avail(end, _EVERYTHING)
    if avail == 0:
        return True
    if not take_bytes(p, c, end, avail):
        p.tel[0]["corrupt"] += 1
        cut(t, p, c, slot, BY_CORRUPTION, now)
        return False
    client = p.cli[c]
    if client["abort_at"] > 0 and client["got"] >= client["abort_at"]:
        cut(t, p, c, slot, BY_ABORT, now)
        return False
    tcp_received(t, slot)
    if client["unread"] != 0:
        second_request(t, p, c, slot)
    if client["got"] == cfg["reply_len"]:
        complete(t, p, c, slot, now)
        return client["slot"] == slot
    return True


# ---- time ----


@kernel
def cut_overdue(t, p, now):
    """Cut connections whose request has made no progress for too long. No request can be overdue before the time at which
    this looks again, or it is found 50 ms late at most."""
    cfg = p.cfg[0]
    if now < cfg["next_scan"]:
        return 0
    earliest = now
    n = 0
    if cfg["outstanding"] > 0:
        for c in range(cfg["started"]):
            client = p.cli[c]
            if client["state"] != CLIENT_WAITING:
                continue
            if now - client["asked"] > cfg["timeout_ns"]:
                p.tel[0]["timeouts"] += 1
                cut(t, p, c, int(client["slot"]), BY_TIMEOUT, now)
                n += 1
            elif client["asked"] < earliest:
                earliest = client["asked"]
    cfg["next_scan"] = max(earliest + cfg["timeout_ns"] + 1, now + _SCAN_NS)
    return n


# ---- the face ----


@kernel
def heed(t, p, slot, now):
    """What the stack has to say of one connection."""
    bits = t.slot[slot]["note"]
    t.slot[slot]["note"] = 0
    c = int(p.own[slot]["client"])
    if bits == NOTE_CONNECTED or c < 0:
        return
    if not read_reply(t, p, c, slot, now):
        return
    if bits & (NOTE_FIN | NOTE_ERROR | NOTE_DONE):
        connection_over(t, p, c, slot, now)
    elif bits & NOTE_TX_ROOM and p.cli[c]["state"] == CLIENT_BLOCKED:
        make_ready(p.cfg, p.cli, p.ready, c)


@kernel
def play(t, p, now):
    """Take all notes of the stack, then send up to a frame of requests. How much there was to do."""
    cfg = p.cfg[0]
    cfg["now"] = now
    n = 0
    slot = take_note(t)
    while slot >= 0:
        heed(t, p, slot, now)
        n += 1
        slot = take_note(t)
    n += cut_overdue(t, p, now)
    if _WARMUP <= cfg["phase"] <= _MEASURE:
        begin(p, now)
        n += send_requests(t, p, now)
    return n


@kernel
def play_soonest(p, now):
    """When :func:`play` may next have something to do that the stack does not say, ns; -1: not before the stack does."""
    cfg = p.cfg[0]
    soonest = _EVERYTHING
    if cfg["outstanding"] > 0:
        soonest = cfg["next_scan"]
    if _WARMUP <= cfg["phase"] <= _MEASURE:
        if cfg["begun"] == 0:
            return now
        if cfg["started"] < cfg["clients"]:
            soonest = min(soonest, begins_at(cfg))
        if cfg["ready_head"] != cfg["ready_tail"]:
            soonest = min(soonest, turn_at(p, now))
    return -1 if soonest == _EVERYTHING else max(soonest, now)


@kernel
def turn_at(p, now):
    """When the first client in the queue may send."""
    cfg = p.cfg[0]
    at = now
    if cfg["open_loop"] != 0:
        at = cfg["next_due"]
    if cfg["storm"] != 0 and cfg["storm_left"] == 0 and cfg["outstanding"] > 0:
        at = max(at, cfg["last_progress"] + STORM_STALL_NS + 1)
    if p.cli[p.ready[cfg["ready_head"] % len(p.ready)]]["slot"] < 0:
        at = max(at, cfg["retry_at"])
    return at


@kernel
def done(p):
    """With ``once``: every client has its reply."""
    return p.cfg[0]["completed"] == p.cfg[0]["clients"]


@kernel
def unserved(p):
    """Connections on which nothing has ever come back."""
    n = 0
    for c in range(len(p.cli)):
        client = p.cli[c]
        if client["slot"] >= 0 and client["state"] == CLIENT_WAITING and client["served"] == 0 and client["got"] == 0:
            n += 1
    return n


def transfers(p: Player) -> dict[str, int]:
    """Of a run with ``once``: how many clients have their reply, what was cut by whom, and how long the clients took (ns).

    ``cut_by_*`` together are the fetches that began in vain; ``refetched`` those that were begun again.
    """
    names = ("completed", "refetched", "cut_by_reset", "cut_by_abort", "cut_by_timeout", "cut_by_corruption")
    counts = {name: int(p.cfg[0][name]) for name in names}
    took = np.sort(p.cli["took"][p.cli["state"] == CLIENT_DONE])
    times = {"p50_ns": 0, "p99_ns": 0, "slowest_ns": 0}
    if len(took):
        for name, fraction in (("p50_ns", 0.5), ("p99_ns", 0.99), ("slowest_ns", 1.0)):
            times[name] = int(took[max(0, int(np.ceil(fraction * len(took))) - 1)])
    return counts | times
