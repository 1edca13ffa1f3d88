"""Node tcp-time: what happens when a timer is due. RFC 6298 section 5, RFC 9293 sections 3.8.1, 3.8.3, 3.8.4, 3.8.6.1."""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.closing import abort
from stackcore.tcp.output import unsent_bytes
from stackcore.tcp.pool import con_free, finish
from stackcore.tcp.ready import ready
from stackcore.tcp.recovery import enter_loss
from stackcore.tcp.rtt import rto_backoff
from stackcore.tcp.state import (
    CLOSED,
    ESTABLISHED,
    F_ACK_NOW,
    F_HALF_OPEN,
    F_KEEPALIVE,
    F_PROBE,
    F_PROBED,
    F_RTT,
    MAX_FRAME,
    SYN_RCVD,
    SYN_SENT,
    T_DELACK,
    T_KEEPALIVE,
    T_PACE,
    T_RETRANSMIT,
    T_WAITCLOSE,
    TIME_WAIT,
    TIMERS,
)
from stackcore.tcp.wheel import timer_next, timer_set

_ETIMEDOUT = 110


@kernel
def syn_timeout(t, c, now):
    """No answer to a SYN or SYN,ACK."""
    cfg, con = t.cfg[0], t.con[c]
    if con["backoff"] >= cfg["syn_retries"]:
        t.stat[0]["gave_up"] += 1
        if con["flags"] & F_HALF_OPEN:
            con_free(t, c)
        else:
            finish(t, c, _ETIMEDOUT)
        return
    rto_backoff(cfg, con)
    con["flags"] = (con["flags"] | F_ACK_NOW) & ~F_RTT
    con["rtt_at"] = 0
    con["retransmits"] += 1
    t.stat[0]["retransmits"] += 1
    timer_set(t, c, T_RETRANSMIT, now + con["rto"])
    ready(t, c)


@kernel
def probe_timeout(t, c, now):
    """The peer's window is closed, or too small to be worth a segment: ask (RFC 9293 section 3.8.6.1), or send what there
    is (the override of section 3.8.6.2.1). A peer that answers is asked for ever, one that does not is given up."""
    cfg, con = t.cfg[0], t.con[c]
    con["probes"] += 1
    if con["probes"] > cfg["retries"]:
        t.stat[0]["gave_up"] += 1
        abort(t, c, _ETIMEDOUT, True)
        return
    con["flags"] |= F_PROBE
    rto_backoff(cfg, con)
    timer_set(t, c, T_RETRANSMIT, now + con["rto"])
    ready(t, c)


@kernel
def answers_but_closed(con, now):
    """The peer has shrunk its window to nothing and said so again since the last timeout: data beyond the right edge does
    not end the connection (RFC 9293 section 3.8.6, SHLD-17, MUST-34)."""
    return con["snd_wnd"] == 0 and now - con["heard_at"] < con["rto"]


@kernel
def retransmit_timeout(t, c, now):
    cfg, con = t.cfg[0], t.con[c]
    state = con["state"]
    if state == SYN_SENT or state == SYN_RCVD:
        syn_timeout(t, c, now)
        return
    if state < ESTABLISHED or state == TIME_WAIT:
        return
    if con["snd_nxt"] == con["snd_una"] or con["flags"] & F_PROBED:
        if con["flags"] & F_PROBED or unsent_bytes(t, c) > 0:
            probe_timeout(t, c, now)
        return
    if con["backoff"] >= cfg["retries"] and not answers_but_closed(con, now):
        t.stat[0]["gave_up"] += 1
        abort(t, c, _ETIMEDOUT, True)
        return
    enter_loss(t, c, now)
    rto_backoff(cfg, con)
    timer_set(t, c, T_RETRANSMIT, now + con["rto"])


@kernel
def keepalive_timeout(t, c, now):
    """Nothing was heard for long: ask; nobody answers: give up (RFC 9293 section 3.8.4)."""
    cfg, con = t.cfg[0], t.con[c]
    if con["flags"] & F_KEEPALIVE == 0:
        return
    idle = now - con["heard_at"]
    if idle < cfg["keep_idle"]:
        con["probes"] = 0
        timer_set(t, c, T_KEEPALIVE, con["heard_at"] + cfg["keep_idle"])
        return
    if con["probes"] >= cfg["keep_probes"]:
        t.stat[0]["gave_up"] += 1
        abort(t, c, _ETIMEDOUT, True)
        return
    if con["snd_nxt"] == con["snd_una"]:
        con["probes"] += 1
        con["flags"] |= F_PROBE
        ready(t, c)
    timer_set(t, c, T_KEEPALIVE, now + cfg["keep_interval"])


@kernel
def waitclose_timeout(t, c, now):
    """The end of TIME-WAIT, or of the patience with a connection whose owner has closed and that makes no progress."""
    cfg, con = t.cfg[0], t.con[c]
    if con["state"] == TIME_WAIT:
        con_free(t, c)
        return
    until = max(con["progress_at"], con["closed_at"]) + cfg["close_timeout"]
    if now < until:
        timer_set(t, c, T_WAITCLOSE, until)
        return
    t.stat[0]["gave_up"] += 1
    abort(t, c, 0, True)


@kernel
def tcp_time(t, now):
    """Act on the timers that are due, at most one frame of them. How many there were."""
    t.cfg[0]["now"] = now
    n = 0
    while n < MAX_FRAME:
        i = timer_next(t, now)
        if i < 0:
            break
        n += 1
        c = i // TIMERS
        kind = i % TIMERS
        if t.con[c]["state"] == CLOSED:
            continue
        if kind == T_RETRANSMIT:
            retransmit_timeout(t, c, now)
        elif kind == T_DELACK:
            t.con[c]["flags"] |= F_ACK_NOW
            t.stat[0]["delayed_acks"] += 1
            ready(t, c)
        elif kind == T_KEEPALIVE:
            keepalive_timeout(t, c, now)
        elif kind == T_WAITCLOSE:
            waitclose_timeout(t, c, now)
        elif kind == T_PACE:
            ready(t, c)
    return n
