"""Transport ``null``: the core itself plays K clients at session level and checks every byte of every reply.

No TCP, no packets: what is left is the inter-process path under test. A client opens a session, writes the request
into its rx fifo, waits for the whole reply in its tx fifo, compares it with what it must be, and goes on: at once
(closed loop), when the schedule says so (open loop; the latency counts from the intended time, however late the
request went out), or together with all others (``storm``). After ``requests_per_connection`` replies it closes.

A request that is unanswered for a second although its events reached the worker was lost by somebody; the session is
reset and the client connects anew. An event that the worker's oracle has put to account as stale is not counted a
second time.
"""

from __future__ import annotations

from stackcore.abi import abi
from stackcore.histogram import bucket_of
from stackcore.kernel import kernel
from stackcore.native import (
    fifo_avail,
    fifo_clear_event,
    fifo_room,
    fifo_set_event,
    fifo_skip,
    fifo_verify,
    fifo_wanted,
    fifo_write,
    prefetch_end,
)
from stackcore.session.account import account_of, release_queue
from stackcore.session.drain import reset_session
from stackcore.session.listen import accept_head, find_listener, offer
from stackcore.session.state import CLIENT_WAITING, PEND_DISCONNECTED, PEND_RX, PEND_TX_ROOM
from stackcore.session.switches import BLOCK
from stackcore.session.table import post, rx_end, session_free, session_open, tx_end
from stackcore.wire.pace import NOT_YET, due, make_ready, take_intended

_WARMUP, _MEASURE = abi.PHASE_WARMUP, abi.PHASE_MEASURE
_OPEN, _FREE, _PEER_CLOSED, _APP_CLOSED = (
    abi.SESSION_OPEN,
    abi.SESSION_FREE,
    abi.SESSION_PEER_CLOSED,
    abi.SESSION_APP_CLOSED,
)
_DELIVERED, _STALE = abi.SEEN_DELIVERED, abi.SEEN_STALE
_SCAN_NS = 50_000_000
_RETRY_NS = 1_000_000


# ---- clients ----


@kernel
def connect(st, c):
    """A session for client ``c``; False when nobody takes it now."""
    cfg = st.cfg[0]
    li = find_listener(st.lis, cfg["port"])
    if li < 0:
        return False
    cfg["next_port"] = (cfg["next_port"] + 1) % 64512
    port = 1024 + cfg["next_port"]
    s = session_open(st.cfg, st.ses, st.shs, st.free, li, c, port)
    if s < 0:
        return False
    if not offer(st.cfg, st.pending, st.ses, st.shs, st.wrk, st.lis, st.pend, li, s, port + 65536 * c):
        session_free(st.cfg, st.ses, st.shs, st.free, s)
        return False
    st.cli[c]["session"] = s
    st.cli[c]["served"] = 0
    st.cli[c]["connects"] += 1
    st.tel[0]["connects"] += 1
    return True


@kernel
def owner_blocked(st, s):
    """Ring-full policy ``block``: no new input for a worker whose events do not fit."""
    owner = int(st.ses[s]["owner"])
    return owner >= 0 and st.cfg[0]["ring_full"] == BLOCK and st.wrk[owner]["full"] != 0


@kernel
def send_request(st, c, intended):
    """Write client ``c``'s request and let its worker know."""
    cfg = st.cfg[0]
    s = int(st.cli[c]["session"])
    end = rx_end(st.cfg, s)
    fifo_write(end, cfg["request_at"], cfg["request_len"])
    if fifo_set_event(end) != 0:
        post(st.cfg, st.ses, st.wrk, st.pend, s, PEND_RX)
    client = st.cli[c]
    client["state"] = CLIENT_WAITING
    client["intended"] = intended
    client["asked"] = cfg["now"]
    client["got"] = 0
    cfg["outstanding"] += 1


@kernel
def node_input(st):
    """Up to one frame of requests. How many went out."""
    cfg = st.cfg[0]
    if cfg["phase"] < _WARMUP or cfg["phase"] > _MEASURE:
        return 0
    sent = 0
    budget = min(cfg["frame"], due(st))
    while budget > 0 and cfg["ready_head"] != cfg["ready_tail"]:
        budget -= 1
        c = int(st.ready[cfg["ready_head"] % len(st.ready)])
        s = int(st.cli[c]["session"])
        if s < 0 and (cfg["now"] < cfg["retry_at"] or not connect(st, c)):
            if cfg["now"] >= cfg["retry_at"]:
                st.tel[0]["refused"] += 1
                cfg["retry_at"] = cfg["now"] + _RETRY_NS
            break
        s = int(st.cli[c]["session"])
        if owner_blocked(st, s) or fifo_room(rx_end(st.cfg, s), cfg["request_len"]) < cfg["request_len"]:
            cfg["ready_head"] += 1  # its turn comes again after the others
            st.ready[cfg["ready_tail"] % len(st.ready)] = c
            cfg["ready_tail"] += 1
            continue
        intended = take_intended(st)
        if intended == NOT_YET:
            break
        cfg["ready_head"] += 1
        send_request(st, c, intended)
        if cfg["storm_left"] > 0:
            cfg["storm_left"] -= 1
        sent += 1
    return sent


# ---- replies ----


@kernel
def hang_up(st, c, s):
    """The client closes its connection in good order."""
    st.cli[c]["session"] = -1
    st.ses[s]["client"] = -1
    if st.ses[s]["state"] == _OPEN:
        st.ses[s]["state"] = _PEER_CLOSED
        st.shs[s]["state"] = _PEER_CLOSED
        post(st.cfg, st.ses, st.wrk, st.pend, s, PEND_DISCONNECTED)


@kernel
def complete(st, c, s):
    """Client ``c`` has its whole reply."""
    cfg = st.cfg[0]
    client = st.cli[c]
    cfg["outstanding"] -= 1
    cfg["last_progress"] = cfg["now"]
    if cfg["phase"] == _MEASURE:
        tel = st.tel[0]
        latency = cfg["now"] - client["intended"]
        tel["requests"] += 1
        tel["reply_bytes"] += cfg["reply_len"]
        st.latency[bucket_of(latency)] += 1
        if latency > tel["latency_max_ns"]:
            tel["latency_max_ns"] = latency
    prefetch_end(rx_end(st.cfg, s), 1)  # its next request is not far
    client["served"] += 1
    if client["served"] == cfg["requests_per_connection"]:
        hang_up(st, c, s)
    make_ready(st.cfg, st.cli, st.ready, c)


@kernel
def cut(st, c, s):
    """The client gives its connection up: the app is told, the request is not repeated here."""
    st.tel[0]["resets"] += 1
    if st.cli[c]["state"] == CLIENT_WAITING:
        st.cfg[0]["outstanding"] -= 1
        make_ready(st.cfg, st.cli, st.ready, c)
    st.cli[c]["session"] = -1
    unheard = st.ses[s]["accepted"] == 0 and (st.ses[s]["told"] == 0 or account_of(st, s) == _STALE)
    if unheard or st.ses[s]["state"] == _APP_CLOSED:
        close_session(st, s)  # the app has nothing that it could close
    else:
        reset_session(st.cfg, st.ses, st.shs, st.wrk, st.pend, s)


@kernel
def close_session(st, s):
    session_free(st.cfg, st.ses, st.shs, st.free, s)
    st.tel[0]["closes"] += 1


@kernel
def take_reply(st, s, end, avail):
    """Bytes for a waiting client; False when they are not what they must be."""
    cfg = st.cfg[0]
    c = int(st.ses[s]["client"])
    client = st.cli[c]
    if client["state"] != CLIENT_WAITING:
        return False
    n = min(avail, cfg["reply_len"] - client["got"])
    if n < avail:
        return False
    if cfg["verify_full"] != 0 and fifo_verify(end, cfg["reply_at"] + client["got"], n) != n:
        return False
    fifo_skip(end, n)
    client["got"] += n
    client["asked"] = cfg["now"]  # progress: the second starts anew
    if client["got"] == cfg["reply_len"]:
        complete(st, c, s)
    return True


@kernel
def read_replies(st, s):
    """One session whose app said that it sent something, or closed."""
    end = tx_end(st.cfg, s)
    fifo_clear_event(end)
    avail = fifo_avail(end, 1 << 62)
    c = int(st.ses[s]["client"])
    if avail > 0:
        if c < 0:
            fifo_skip(end, avail)  # nobody listens any more
        elif not take_reply(st, s, end, avail):
            st.tel[0]["corrupt"] += 1
            fifo_skip(end, avail)
            cut(st, c, s)
    if st.ses[s]["state"] == _APP_CLOSED:
        c = int(st.ses[s]["client"])
        if c >= 0 and st.cli[c]["state"] == CLIENT_WAITING:
            cut(st, c, s)
        else:
            if c >= 0:
                st.cli[c]["session"] = -1  # closed between two requests: nothing is missing
            close_session(st, s)
    elif st.ses[s]["state"] != _FREE and fifo_wanted(end) != 0:
        post(st.cfg, st.ses, st.wrk, st.pend, s, PEND_TX_ROOM)


@kernel
def node_output(st):
    """Sessions with new bytes, then those left from earlier cycles, together at most one frame."""
    cfg = st.cfg[0]
    mask = cfg["queue_mask"]
    old_until = cfg["old_tail"]
    done = 0
    while cfg["new_head"] != cfg["new_tail"] and done < cfg["frame"]:
        s = int(st.new_io[cfg["new_head"] & mask])
        cfg["new_head"] += 1
        st.ses[s]["io_queued"] = 0
        if st.ses[s]["state"] != _FREE:
            read_replies(st, s)
        done += 1
    while cfg["new_head"] != cfg["new_tail"]:
        st.old_io[cfg["old_tail"] & mask] = st.new_io[cfg["new_head"] & mask]
        cfg["new_head"] += 1
        cfg["old_tail"] += 1
    while cfg["old_head"] != old_until and done < cfg["frame"]:
        s = int(st.old_io[cfg["old_head"] & mask])
        cfg["old_head"] += 1
        st.ses[s]["io_queued"] = 0
        if st.ses[s]["state"] != _FREE:
            read_replies(st, s)
        done += 1
    return done


# ---- time ----


@kernel
def taken_and_forgotten(st, s):
    """Somebody took the session from a shared accept ring and never said so: a worker that died in between."""
    if st.ses[s]["owner"] >= 0 or st.ses[s]["told"] == 0:
        return False
    return accept_head(st.cfg, st.ses[s]["listener"]) > st.ses[s]["ring_pos"]


@kernel
def overdue(st, c, s):
    """A request without an answer for a second. True when the connection was replaced."""
    seen = account_of(st, s)
    if seen == 0 and st.ses[s]["dropped"] == 0 and not taken_and_forgotten(st, s):
        return False  # its events still wait in a ring: slow, or never served, but not lost
    if seen == _DELIVERED and st.ses[s]["dropped"] == 0:
        st.tel[0]["lost"] += 1
    st.tel[0]["timeouts"] += 1
    cut(st, c, s)
    return True


@kernel
def node_time(st):
    """Every 50 ms: look for overdue requests."""
    cfg = st.cfg[0]
    if cfg["now"] < cfg["next_scan"]:
        return 0
    cfg["next_scan"] = cfg["now"] + _SCAN_NS
    n = 0
    for c in range(cfg["clients"]):
        client = st.cli[c]
        if client["state"] == CLIENT_WAITING and cfg["now"] - client["asked"] > cfg["timeout_ns"]:
            if overdue(st, c, int(client["session"])):
                n += 1
    return n


@kernel
def worker_gone(st, worker):
    """Reset every session of a dead worker; its clients connect anew. How many there were."""
    n = 0
    for s in range(len(st.ses)):
        if st.ses[s]["state"] == _FREE or st.ses[s]["owner"] != worker:
            continue
        c = int(st.ses[s]["client"])
        st.ses[s]["accepted"] = 0  # nobody is left to close it
        st.ses[s]["told"] = 0
        if c >= 0:
            cut(st, c, s)
        else:
            close_session(st, s)
        n += 1
    release_queue(st, worker)
    return n


@kernel
def unserved(st):
    """Connections that no worker has accepted."""
    n = 0
    for s in range(len(st.ses)):
        if st.ses[s]["state"] != _FREE and st.ses[s]["accepted"] == 0 and st.ses[s]["client"] >= 0:
            if account_of(st, s) == 0:  # else its accept event was lost, and counted as that
                n += 1
    return n
