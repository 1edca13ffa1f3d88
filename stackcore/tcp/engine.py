"""The engine's face: the nodes of a dispatch cycle, and what the owner of slots may call. Kernels, all of them.

One cycle, in this order: :func:`tcp_time`, :func:`tcp_retransmit`, :func:`tcp_input`, then the owner takes its notes, calls
what it has to say, and :func:`tcp_output` fills the frame; as long as it fills it, it has more. ``now`` (ns) never goes
back. Single-threaded: one thread at a time per stack instance.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.native import fifo_avail, fifo_clear_event, fifo_room
from stackcore.tcp.closing import tcp_abort, tcp_close, tcp_shutdown
from stackcore.tcp.header import possible_sender
from stackcore.tcp.input import tcp_input
from stackcore.tcp.lookahead import fetch_ready, worthwhile
from stackcore.tcp.opening import start
from stackcore.tcp.output import send_connection, send_strays
from stackcore.tcp.pool import accepted, con_alloc, con_free, enter, find, rx_end, slot_take, slots_left, take_note, tx_end
from stackcore.tcp.ready import ready
from stackcore.tcp.recovery import burst, has_more, tcp_retransmit
from stackcore.tcp.retransmit import program
from stackcore.tcp.state import (
    CLOSED,
    ESTABLISHED,
    F_ACK_NOW,
    F_HALF_OPEN,
    F_KEEPALIVE,
    F_NODELAY,
    F_RXT,
    F_SACK,
    F_TS,
    F_WSCALE,
    SYN_SENT,
    T_KEEPALIVE,
    TIME_WAIT,
)
from stackcore.tcp.timers import tcp_time
from stackcore.tcp.transitions import E_ACTIVE_OPEN, NEXT
from stackcore.tcp.wheel import timer_set, timer_stop

__all__ = [
    "fifo_avail", "fifo_room", "listen_close", "listen_open", "rx_end", "set_diffserv", "set_keepalive", "set_nodelay",
    "take_note", "tcp_abort",
    "tcp_accepted", "tcp_close", "tcp_connect", "tcp_input", "tcp_output", "tcp_pending", "tcp_received", "tcp_retransmit",
    "tcp_send_ready", "tcp_shutdown", "tcp_time", "tx_end",
]  # fmt: skip

FIRST_PORT, PORTS = 49152, 16384
"""Ephemeral ports, RFC 6335 section 6."""
_EINVAL, _EADDRINUSE, _ENOBUFS, _ENOTCONN, _EADDRNOTAVAIL, _ENFILE = -22, -98, -105, -107, -99, -23
_ENETUNREACH = -101


@kernel
def tcp_output(t, buf, lengths, used, now):
    """Node tcp-output: fill the frame behind its first ``used`` rows. The new number of packets in it."""
    cfg = t.cfg[0]
    cfg["now"] = now
    used = send_strays(t, buf, lengths, used)
    visits = cfg["ready_tail"] - cfg["ready_head"]
    soon = min(visits, cfg["frame"] - used)
    if worthwhile(t, soon):
        fetch_ready(t, soon)
    while visits > 0 and used < cfg["frame"]:
        visits -= 1
        c = int(t.ready[cfg["ready_head"] & cfg["con_mask"]])
        cfg["ready_head"] += 1
        con = t.con[c]
        con["in_ready"] = 0
        if con["state"] == CLOSED:
            continue
        if con["flags"] & F_RXT:
            con["flags"] &= ~F_RXT
            before = used
            limit = min(cfg["budget"], cfg["frame"] - used)
            used = burst(t, c, buf, lengths, used, limit, now)
            t.stat[0]["rxt_sent"] += used - before
            if used - before == limit and has_more(t, c):
                program(cfg["recovery"], t, c)
            if used >= cfg["frame"]:
                ready(t, c)
                break
        used = send_connection(t, c, buf, lengths, used, now)
    return used


@kernel
def tcp_pending(t):
    """Nonzero when :func:`tcp_output` or :func:`tcp_retransmit` has something to look at now."""
    cfg = t.cfg[0]
    return (cfg["ready_tail"] - cfg["ready_head"]) + (cfg["stray_tail"] - cfg["stray_head"])


# ---- listeners ----


@kernel
def listen_open(t, addr, port, backlog):
    """Listen on ``port`` of ``addr`` (0: any). The listener's index or a negative errno."""
    if port < 1 or port > 65535 or backlog < 1:
        return _EINVAL
    free = -1
    for i in range(len(t.lis)):
        lis = t.lis[i]
        if lis["port"] == port and lis["addr"] == addr:
            return _EADDRINUSE
        if free < 0 and lis["port"] == 0 and lis["waiting"] == 0 and lis["half_open"] == 0:
            free = i
    if free < 0:
        return _ENFILE
    lis = t.lis[free]
    lis["port"] = port
    lis["addr"] = addr
    lis["backlog"] = backlog
    return free


@kernel
def listen_close(t, li):
    """No more connections; half-open ones are forgotten. Those that wait for the owner are the owner's to abort. 0, or a
    negative errno."""
    if li < 0 or li >= len(t.lis) or t.lis[li]["port"] == 0:
        return _EINVAL
    t.lis[li]["port"] = 0
    if t.lis[li]["half_open"] > 0:
        for c in range(len(t.con)):
            if t.con[c]["state"] != CLOSED and t.con[c]["flags"] & F_HALF_OPEN and t.con[c]["listener"] == li:
                con_free(t, c)
    return 0


@kernel
def tcp_accepted(t, slot):
    """The owner has taken the connection of NOTE_ACCEPT: it no longer counts against the backlog."""
    accepted(t, slot)
    return 0


# ---- connections ----


@kernel
def free_port(t, raddr, rport):
    """An ephemeral port that is free towards that peer, or -1."""
    cfg = t.cfg[0]
    for _ in range(PORTS):
        cfg["next_port"] = FIRST_PORT + (cfg["next_port"] - FIRST_PORT + 1) % PORTS
        if find(t, cfg["addr"], cfg["next_port"], raddr, rport) < 0:
            return cfg["next_port"]
    return -1


@kernel
def tcp_connect(t, lport, raddr, rport, now):
    """Active open from ``lport`` (0: an ephemeral one). The slot, or a negative errno."""
    cfg = t.cfg[0]
    cfg["now"] = now
    if rport < 1 or rport > 65535 or lport < 0 or lport > 65535 or raddr == 0:
        return _EINVAL
    if lport == 0:
        lport = free_port(t, raddr, rport)
        if lport < 0:
            return _EADDRNOTAVAIL
    elif find(t, cfg["addr"], lport, raddr, rport) >= 0:
        return _EADDRINUSE
    if possible_sender(cfg, raddr, cfg["addr"]) == 0:
        return _ENETUNREACH  # broadcast, multicast (RFC 9293 section 3.9.2.3, MUST-46), or ourselves
    if slots_left(t) <= 0:
        return _ENOBUFS
    c = con_alloc(t)
    if c < 0:
        return _ENOBUFS
    con = t.con[c]
    con["local_addr"] = cfg["addr"]
    con["remote_addr"] = raddr
    con["local_port"] = lport
    con["remote_port"] = rport
    start(t, c, now)
    con["flags"] = F_ACK_NOW
    if cfg["wscale"] >= 0:
        con["flags"] |= F_WSCALE
        con["rcv_scale"] = cfg["wscale"]
    if cfg["sack"] != 0:
        con["flags"] |= F_SACK
    if cfg["timestamps"] != 0:
        con["flags"] |= F_TS
    con["state"] = NEXT[CLOSED, E_ACTIVE_OPEN]
    enter(t, c)
    slot = slot_take(t, c)
    ready(t, c)
    return slot


@kernel
def tcp_send_ready(t, slot):
    """The owner wrote into the tx fifo."""
    s = t.slot[slot]
    fifo_clear_event(tx_end(t.cfg[0], slot))
    if s["used"] != 0 and s["con"] >= 0:
        ready(t, int(s["con"]))
    return 0


@kernel
def tcp_received(t, slot):
    """The owner consumed bytes of the rx fifo: tell the peer when its window has grown by enough to be worth it."""
    cfg = t.cfg[0]
    s = t.slot[slot]
    if s["used"] == 0 or s["con"] < 0:
        return 0
    con = t.con[s["con"]]
    if con["state"] < ESTABLISHED or con["state"] == TIME_WAIT:
        return 0
    room = fifo_room(rx_end(cfg, slot), cfg["fifo_size"])
    offered = max(con["rcv_adv"] - con["rcv_nxt"], 0)
    if room - offered >= min(cfg["fifo_size"] // 2, 2 * con["mss"]):
        con["flags"] |= F_ACK_NOW
        ready(t, int(s["con"]))
    return 0


@kernel
def set_nodelay(t, slot, on):
    """TCP_NODELAY. 0 or a negative errno."""
    s = t.slot[slot]
    if s["used"] == 0 or s["con"] < 0:
        return _ENOTCONN
    con = t.con[s["con"]]
    if on:
        con["flags"] |= F_NODELAY
        ready(t, int(s["con"]))
    else:
        con["flags"] &= ~F_NODELAY
    return 0


@kernel
def set_diffserv(t, slot, field):
    """The Diffserv field (RFC 2474), as bits 2 to 7 of ``field``, of all that is sent from now on. The other two are ECN's
    (RFC 3168), which is not negotiated: they stay 0. 0 or a negative errno."""
    s = t.slot[slot]
    if s["used"] == 0 or s["con"] < 0:
        return _ENOTCONN
    t.con[s["con"]]["tos"] = field & 0xFC
    return 0


@kernel
def set_keepalive(t, slot, on, now):
    """SO_KEEPALIVE. 0 or a negative errno."""
    s = t.slot[slot]
    if s["used"] == 0 or s["con"] < 0:
        return _ENOTCONN
    c = int(s["con"])
    con = t.con[c]
    if on:
        con["flags"] |= F_KEEPALIVE
        if con["state"] > SYN_SENT:
            timer_set(t, c, T_KEEPALIVE, now + t.cfg[0]["keep_idle"])
    else:
        con["flags"] &= ~F_KEEPALIVE
        timer_stop(t, c, T_KEEPALIVE)
    return 0
