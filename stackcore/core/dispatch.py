"""The dispatch cycle: time, input, flush, drain, output; at most one frame per step, until there is nothing to do.

The compiled cycle returns to Python when ``until`` has come or when ``idle_limit`` cycles in a row found nothing;
Python looks at the control sockets then, and parks if idle. A cycle that did something is timed node by node.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.native import now_ns, relax, sched_yield
from stackcore.session.drain import node_drain
from stackcore.session.flush import node_flush
from stackcore.session.listen import node_ring
from stackcore.session.state import NODE_DRAIN, NODE_FLUSH, NODE_INPUT, NODE_OUTPUT, NODE_TIME
from stackcore.wire.null import node_input, node_output, node_time

BUSY, IDLE = 0, 1
PAUSES = 8
"""CPU pauses between two looks that found nothing: looking harder takes the lines away from who fills them."""


@kernel
def account(nodes, node, n, start, end):
    """Put ``n`` items and the time since ``start`` to a node's account; nothing happened, nothing counted."""
    if n > 0:
        nodes[0, node] += 1
        nodes[1, node] += n
        nodes[2, node] += end - start
    return end


@kernel
def rest(yields):
    """Between two looks that found nothing: let others run who share the CPU, or pause for some cycles."""
    if yields != 0:
        sched_yield()
    else:
        for _ in range(PAUSES):
            relax()


@kernel
def cycle(st):
    """One dispatch cycle. How many items all nodes handled."""
    t = now_ns()
    st.cfg[0]["now"] = t
    timed = node_time(st)
    sent = node_input(st)
    t1 = now_ns() if sent > 0 else t
    flushed = node_flush(st.cfg, st.ses, st.shs, st.wrk, st.pend) + node_ring(st.cfg, st.wrk, st.lis)
    t2 = now_ns() if flushed > 0 else t1
    drained = node_drain(st.cfg, st.tel, st.event, st.ses, st.shs, st.wrk, st.shw, st.lis, st.pend, st.new_io)
    t3 = now_ns() if drained > 0 else t2
    st.cfg[0]["now"] = t3
    put = node_output(st)
    t4 = now_ns() if put > 0 else t3
    account(st.nodes, NODE_TIME, timed, t, t)
    account(st.nodes, NODE_INPUT, sent, t, t1)
    account(st.nodes, NODE_FLUSH, flushed, t1, t2)
    account(st.nodes, NODE_DRAIN, drained, t2, t3)
    account(st.nodes, NODE_OUTPUT, put, t3, t4)
    return timed + sent + flushed + drained + put


@kernel
def dispatch(st, until):
    """Cycle until the monotonic time ``until`` (ns) or until idle. BUSY or IDLE."""
    tel = st.tel[0]
    idle = 0
    while True:
        n = cycle(st)
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
