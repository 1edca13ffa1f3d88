"""Closing: in good order, by a reset, by giving up (RFC 9293 sections 3.6 and 3.10.4 to 3.10.8).

Who frees a connection does not ask whether it stands in the retransmit queue; that is the recovery mode's business (D1).
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.native import fifo_room
from stackcore.tcp.opening import stray
from stackcore.tcp.pool import accepted, detach, finish, note, rx_end, slot_release
from stackcore.tcp.ready import ready
from stackcore.tcp.seq import wrap
from stackcore.tcp.state import (
    ACK,
    CLOSE_WAIT,
    ESTABLISHED,
    F_FIN,
    F_KEEPALIVE,
    F_NO_READER,
    F_PASSIVE,
    NOTE_FIN,
    RST,
    SYN_RCVD,
    SYN_SENT,
    T_DELACK,
    T_KEEPALIVE,
    T_RETRANSMIT,
    T_WAITCLOSE,
    TIME_WAIT,
)
from stackcore.tcp.transitions import E_CLOSE, E_FIN, NEXT
from stackcore.tcp.wheel import timer_set, timer_stop

_ECONNRESET, _ECONNREFUSED = 104, 111
_EBADF, _ENOTCONN = -9, -107


@kernel
def abort(t, c, error, tell):
    """End connection ``c`` at once; with ``tell`` the peer gets a reset. ``error`` (a positive errno) is for the owner."""
    con = t.con[c]
    if tell and con["state"] != SYN_SENT:
        stray(
            t, con["local_addr"], con["remote_addr"], con["local_port"], con["remote_port"], wrap(con["snd_nxt"]),
            wrap(con["rcv_nxt"]), RST | ACK,
        )  # fmt: skip
        t.stat[0]["aborted"] += 1
    finish(t, c, error)


@kernel
def reset_by_peer(t, c):
    """A reset that is believed (RFC 9293 section 3.10.7.4, second check): freed at once."""
    con = t.con[c]
    refused = con["state"] == SYN_RCVD and con["flags"] & F_PASSIVE == 0
    finish(t, c, _ECONNREFUSED if refused else _ECONNRESET)


@kernel
def time_wait_again(t, c, now):
    """Enter TIME-WAIT, or stay for another 2 MSL; the fifos are given back."""
    cfg = t.cfg[0]
    timer_stop(t, c, T_RETRANSMIT)
    timer_stop(t, c, T_KEEPALIVE)
    timer_stop(t, c, T_DELACK)
    timer_set(t, c, T_WAITCLOSE, now + 2 * cfg["msl"])
    detach(t, c, 0)


@kernel
def peer_closed(t, c, now):
    """The peer's FIN is in order: all it ever sent is here."""
    con = t.con[c]
    con["state"] = NEXT[con["state"], E_FIN]
    if con["slot"] >= 0:
        note(t, int(con["slot"]), NOTE_FIN)
    if con["state"] == TIME_WAIT:
        time_wait_again(t, c, now)


@kernel
def unread(t, slot):
    """Bytes in the rx fifo that the owner has not read, and bytes that arrived ahead of the stream do not count."""
    cfg = t.cfg[0]
    return cfg["fifo_size"] - fifo_room(rx_end(cfg, slot), cfg["fifo_size"])


@kernel
def tcp_shutdown(t, slot, now):
    """The owner sends no more: a FIN follows its last byte. 0 or a negative errno."""
    s = t.slot[slot]
    if s["used"] == 0 or s["con"] < 0:
        return _ENOTCONN
    c = int(s["con"])
    con = t.con[c]
    if con["state"] == SYN_RCVD:
        con["flags"] |= F_FIN  # leaves for FIN-WAIT-1 as soon as our SYN is acknowledged
        return 0
    if con["state"] != ESTABLISHED and con["state"] != CLOSE_WAIT:
        return _ENOTCONN if con["flags"] & F_FIN == 0 else 0
    con["flags"] |= F_FIN
    con["state"] = NEXT[con["state"], E_CLOSE]
    ready(t, c)
    return 0


@kernel
def give_up(t, slot, now):
    """The owner lets go of a slot: its connection, -1 when the transport has let go before (and the slot is free now), or
    -EBADF, which is less."""
    s = t.slot[slot]
    if s["used"] == 0 or s["closed"] != 0:
        return _EBADF
    accepted(t, slot)
    s["closed"] = 1
    s["note"] = 0
    if s["con"] < 0:
        slot_release(t, slot)
        return -1
    t.con[s["con"]]["closed_at"] = now
    return int(s["con"])


@kernel
def tcp_close(t, slot, now):
    """The owner has no more interest in the slot. Unread data, now or later: the peer gets a reset (RFC 9293 section
    3.6.1, RFC 2525 section 2.17); else what was written is still delivered. 0 or a negative errno."""
    c = give_up(t, slot, now)
    if c < 0:
        return 0 if c == -1 else c
    con = t.con[c]
    if unread(t, slot) > 0:
        abort(t, c, 0, True)
        return 0
    if con["state"] == SYN_SENT:
        finish(t, c, 0)
        return 0
    con["flags"] = (con["flags"] | F_NO_READER) & ~F_KEEPALIVE
    tcp_shutdown(t, slot, now)
    timer_stop(t, c, T_KEEPALIVE)
    timer_set(t, c, T_WAITCLOSE, now + t.cfg[0]["close_timeout"])
    return 0


@kernel
def tcp_abort(t, slot, now):
    """The owner gives the connection up: reset. 0 or a negative errno."""
    c = give_up(t, slot, now)
    if c < 0:
        return 0 if c == -1 else c
    abort(t, c, 0, True)
    return 0

