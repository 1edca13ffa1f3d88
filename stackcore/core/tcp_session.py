"""Between TCP and the session layer: notes become events for workers, workers' messages become calls.

A TCP slot *is* a session of the same index: the bytes lie in the session's fifos, which the engine reads and writes. A
session is over for the session layer when the app has closed it; the slot lives on until TCP has delivered what was
written, and only then comes back as another session.
"""

from __future__ import annotations

from stackcore.abi import abi
from stackcore.kernel import kernel
from stackcore.session.account import account_of, release_queue
from stackcore.session.drain import reset_session
from stackcore.session.listen import offer
from stackcore.session.state import PEND_DISCONNECTED, PEND_RX, PEND_TX_ROOM
from stackcore.session.table import post, session_end, session_start
from stackcore.tcp.engine import take_note, tcp_abort, tcp_accepted, tcp_close, tcp_received, tcp_send_ready
from stackcore.tcp.state import NOTE_ACCEPT, NOTE_ERROR, NOTE_FIN, NOTE_RX, NOTE_TX_ROOM

_OPEN, _FREE, _PEER_CLOSED, _APP_CLOSED = (
    abi.SESSION_OPEN,
    abi.SESSION_FREE,
    abi.SESSION_PEER_CLOSED,
    abi.SESSION_APP_CLOSED,
)
BACKLOG = 1 << 20
"""The bound on connections that no app has accepted is the number of sessions."""


@kernel
def sync_listeners(st, t):
    """TCP listens where an app does. A listener that is given up keeps its index until it is used again."""
    for li in range(len(st.lis)):
        if t.lis[li]["port"] != st.lis[li]["port"]:
            t.lis[li]["port"] = st.lis[li]["port"]
            t.lis[li]["backlog"] = BACKLOG


@kernel
def open_session(st, t, s):
    """A connection came to a listener: bring it to a worker. False when nobody takes it, and it was reset."""
    cfg = st.cfg[0]
    c = int(t.slot[s]["con"])
    li = int(t.slot[s]["listener"])
    if c < 0 or li < 0:
        tcp_close(t, s, cfg["now"])
        return False
    con = t.con[c]
    session_start(st.cfg, st.ses, st.shs, s, li, -1, con["remote_addr"], con["remote_port"])
    key = con["remote_addr"] ^ (con["remote_port"] << 16)
    if st.lis[li]["port"] == 0 or not offer(
        st.cfg, st.pending, st.ses, st.shs, st.wrk, st.lis, st.pend, li, s, key
    ):
        session_end(st.cfg, st.ses, st.shs, s)
        st.tel[0]["refused"] += 1
        tcp_abort(t, s, cfg["now"])
        return False
    st.tel[0]["connects"] += 1
    return True


@kernel
def on_error(st, t, s):
    """The connection is gone: the app hears of it, unless it never heard of the connection."""
    if st.ses[s]["accepted"] == 0 and st.ses[s]["told"] == 0:
        drop_session(st, t, s)
        return
    st.tel[0]["resets"] += 1
    reset_session(st.cfg, st.ses, st.shs, st.wrk, st.pend, s)


@kernel
def drop_session(st, t, s):
    """The session is over, and its connection closed in good order if it lives."""
    session_end(st.cfg, st.ses, st.shs, s)
    st.tel[0]["closes"] += 1
    tcp_close(t, s, st.cfg[0]["now"])


@kernel
def node_notes(st, t):
    """Up to one frame of slots with notes. How many."""
    n = 0
    while n < st.cfg[0]["frame"]:
        s = take_note(t)
        if s < 0:
            break
        n += 1
        bits = int(t.slot[s]["note"])
        t.slot[s]["note"] = 0
        if bits & NOTE_ACCEPT and not open_session(st, t, s):
            continue
        state = st.ses[s]["state"]
        if state != _OPEN and state != _PEER_CLOSED:
            continue
        if bits & NOTE_RX:
            post(st.cfg, st.ses, st.wrk, st.pend, s, PEND_RX)
        if bits & NOTE_TX_ROOM:
            post(st.cfg, st.ses, st.wrk, st.pend, s, PEND_TX_ROOM)
        if bits & NOTE_FIN and state == _OPEN:
            st.ses[s]["state"] = _PEER_CLOSED
            st.shs[s]["state"] = _PEER_CLOSED
            post(st.cfg, st.ses, st.wrk, st.pend, s, PEND_DISCONNECTED)
        if bits & NOTE_ERROR:
            on_error(st, t, s)
    return n


@kernel
def look_at(st, t, s):
    """A session whose worker said something: it accepted, wrote, read, or closed."""
    st.ses[s]["io_queued"] = 0
    state = st.ses[s]["state"]
    if state == _FREE:
        return
    if t.slot[s]["listener"] >= 0 and st.ses[s]["accepted"] != 0:
        tcp_accepted(t, s)
    if state == _APP_CLOSED:
        drop_session(st, t, s)
        return
    tcp_send_ready(t, s)
    if st.ses[s]["room"] != 0:
        st.ses[s]["room"] = 0
        tcp_received(t, s)


@kernel
def node_io(st, t):
    """Everything the workers said in this cycle; how many sessions. What follows from it is bounded by the output node."""
    cfg = st.cfg[0]
    n = cfg["new_tail"] - cfg["new_head"]
    while cfg["new_head"] != cfg["new_tail"]:
        s = int(st.new_io[cfg["new_head"] & cfg["queue_mask"]])
        cfg["new_head"] += 1
        look_at(st, t, s)
    return n


@kernel
def tcp_worker_gone(st, t, worker):
    """Reset every connection of a dead worker. How many there were."""
    n = 0
    for s in range(len(st.ses)):
        if st.ses[s]["state"] != _FREE and st.ses[s]["owner"] == worker:
            session_end(st.cfg, st.ses, st.shs, s)
            st.tel[0]["resets"] += 1
            tcp_abort(t, s, st.cfg[0]["now"])
            n += 1
    release_queue(st, worker)
    return n


@kernel
def tcp_unserved(st):
    """Connections that no worker has accepted."""
    n = 0
    for s in range(len(st.ses)):
        if st.ses[s]["state"] != _FREE and st.ses[s]["accepted"] == 0 and account_of(st, s) == 0:
            n += 1
    return n
