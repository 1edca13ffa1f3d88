"""The dispatch cycle over TCP: time, retransmit pass, input, sessions, rings, output (DESIGN section 4).

The wire is a parameter of the outermost kernel only: it brings packets into ``f.rx`` and takes them out of ``f.tx``; what is
between is the same for all. A frame that the wire could not take whole is kept, and nothing new is produced until it is gone.
"""

from __future__ import annotations

from stackcore.core.dispatch import BUSY, IDLE, account, rest
from stackcore.core.tcp_session import node_io, node_notes, sync_listeners
from stackcore.kernel import kernel
from stackcore.native import now_ns
from stackcore.session.drain import node_drain
from stackcore.session.flush import node_flush
from stackcore.session.listen import node_ring
from stackcore.session.state import NODE_DRAIN, NODE_FLUSH, NODE_INPUT, NODE_OUTPUT, NODE_TIME
from stackcore.session.switches import BLOCK
from stackcore.tcp.engine import tcp_input, tcp_output, tcp_retransmit, tcp_time
from stackcore.wire.pcap import pcap_put
from stackcore.wire.shm import shm_receive, shm_send_from

BROKEN_WIRE = 2
"""Result of :func:`dispatch_shm`: the other end has damaged the rings."""

@kernel
def capture(f, cap, buf, lengths, first, last, now):
    """Record rows ``first`` to ``last`` of a frame, if anybody wants them."""
    if f.cfg[0]["captures"] != 0:
        for i in range(first, last):
            pcap_put(cap, buf, i, int(lengths[i]), now)


@kernel
def blocked(st):
    """Ring-full policy ``block``: no new input while a worker's events do not fit. How many such workers."""
    full = 0
    if st.cfg[0]["ring_full"] == BLOCK:
        for worker in range(len(st.wrk)):
            full += st.wrk[worker]["full"]
    return full


@kernel
def node_sessions(st, t):
    """What input brought, to the workers; what the workers said, to TCP. Items handled."""
    t0 = now_ns()
    noted = node_notes(st, t)
    t1 = now_ns()
    flushed = node_flush(st.cfg, st.ses, st.shs, st.wrk, st.pend) + node_ring(st.cfg, st.wrk, st.lis)
    drained = node_drain(st.cfg, st.tel, st.event, st.ses, st.shs, st.wrk, st.shw, st.lis, st.pend, st.new_io)
    if drained > 0:
        sync_listeners(st, t)
    looked = node_io(st, t)
    if flushed + drained + noted > 0:
        t2 = now_ns()
        account(st.nodes, NODE_FLUSH, noted + flushed, t0, t1)
        account(st.nodes, NODE_DRAIN, drained, t1, t2)
    return noted + flushed + drained + looked


@kernel
def node_produce(t, f, now):
    """Fill the output frame: retransmissions first, then what connections have to say. Rows used."""
    used = tcp_retransmit(t, f.tx, f.tx_len, 0, now)
    return tcp_output(t, f.tx, f.tx_len, used, now)


@kernel
def cycle_shm(st, t, f, w, cap):
    """One dispatch cycle over the ``shm`` wire. Items handled, or -1 when the wire is broken."""
    now = now_ns()
    st.cfg[0]["now"] = now
    timed = tcp_time(t, now)
    got = 0 if blocked(st) > 0 else shm_receive(w, f.rx, f.rx_len, st.cfg[0]["frame"])
    if got < 0:
        return -1
    capture(f, cap, f.rx, f.rx_len, 0, got, now)
    tcp_input(t, f.rx, f.rx_len, got, now)
    t1 = now_ns() if got > 0 else now
    account(st.nodes, NODE_TIME, timed, now, now)
    account(st.nodes, NODE_INPUT, got, now, t1)
    done = timed + got + node_sessions(st, t)
    sent = send_shm(t, f, w, cap, now)
    if sent < 0:
        return -1
    if done + sent > 0:
        account(st.nodes, NODE_OUTPUT, sent, t1, now_ns())
    return done + sent


@kernel
def send_shm(t, f, w, cap, now):
    """Produce output and give it to the wire. Packets it took, or -1."""
    k = f.cfg[0]
    if k["tx_first"] == k["tx_used"]:
        k["tx_first"] = 0
        k["tx_used"] = node_produce(t, f, now)
        capture(f, cap, f.tx, f.tx_len, 0, k["tx_used"], now)
    if k["tx_first"] == k["tx_used"]:
        return 0
    taken = shm_send_from(w, f.tx, f.tx_len, k["tx_first"], k["tx_used"])
    if taken < 0:
        return -1
    k["tx_first"] += taken
    return taken


@kernel
def dispatch_shm(st, t, f, w, cap, until):
    """Cycle until the monotonic time ``until`` (ns) or until idle. BUSY, IDLE or BROKEN_WIRE."""
    tel = st.tel[0]
    idle = 0
    while True:
        n = cycle_shm(st, t, f, w, cap)
        if n < 0:
            return BROKEN_WIRE
        now = st.cfg[0]["now"]
        tel["heartbeat_ns"] = now
        if n > 0:
            tel["dispatches"] += 1
            tel["vectors"] += n
            idle = 0
        else:
            tel["idle_dispatches"] += 1
            idle += 1
            if st.cfg[0]["idle_limit"] > 0 and idle > st.cfg[0]["idle_limit"]:
                return IDLE
            rest(st.cfg[0]["yield_idle"])
        if now >= until:
            return BUSY

