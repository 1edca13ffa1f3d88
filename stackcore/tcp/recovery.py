"""Loss recovery: when it begins and ends, and the retransmit pass (D1).

Fast recovery follows RFC 6675 where SACK is on and RFC 6582 (NewReno) where it is not; a timeout follows RFC 5681 section
3.1 and RFC 6675 section 5.1. In either case nothing is retransmitted on the spot: the connection is *programmed*
(:mod:`stackcore.tcp.retransmit`), and the pass of the next dispatch sends for it.

The oracle of D1 stands here, outside of every mode's own code: a segment that the pass sends for an entry whose
generation is not the connection's any more is a *stranger*.
"""

from __future__ import annotations

from stackcore.histogram import bucket_of
from stackcore.kernel import kernel
from stackcore.native import fifo_avail
from stackcore.tcp.congestion import cc_loss, cc_recovered
from stackcore.tcp.output import emit, unsent_bytes
from stackcore.tcp.pool import POISON, tx_end
from stackcore.tcp.ready import ready
from stackcore.tcp.retransmit import check, program
from stackcore.tcp.retransmit.policy import begin, take
from stackcore.tcp.retransmit.queue import unmark
from stackcore.tcp.sack import sack_clear, sack_next, sack_pipe
from stackcore.tcp.state import (
    ACK,
    ESTABLISHED,
    F_FIN_SENT,
    F_RTT,
    F_RXT,
    F_SACK,
    FAST,
    FIN,
    LOSS,
    OPEN,
    PSH,
    T_RETRANSMIT,
)
from stackcore.tcp.wheel import timer_set


@kernel
def enter_fast(t, c, now):
    """Fast retransmit (RFC 5681 section 3.2, 6582 section 3.2, 6675 section 5)."""
    cfg, con = t.cfg[0], t.con[c]
    con["recovery"] = FAST
    con["recover"] = con["snd_nxt"]
    con["high_rxt"] = con["snd_una"]
    con["rescue"] = 0
    con["limited"] = 0
    con["flags"] &= ~F_RTT  # Karn: what is in flight will not be timed
    cc_loss(cfg["cc"], con, FAST, now)
    if con["flags"] & F_SACK == 0:
        con["cwnd"] += 3 * con["mss"]
    t.stat[0]["fast_recoveries"] += 1
    program(cfg["recovery"], t, c)


@kernel
def enter_loss(t, c, now):
    """After a retransmission timeout: everything that is not known to have arrived is sent again, in slow start."""
    cfg, con = t.cfg[0], t.con[c]
    if con["backoff"] > 0:
        sack_clear(t, c)  # twice in a row: the peer may have thrown away what it had reported (RFC 2018 section 8)
    con["recovery"] = LOSS
    con["recover"] = con["snd_nxt"]
    con["high_rxt"] = con["snd_una"]
    con["rescue"] = 0
    con["dupacks"] = 0
    con["limited"] = 0
    con["flags"] &= ~F_RTT
    cc_loss(cfg["cc"], con, LOSS, now)
    t.stat[0]["timeouts"] += 1
    program(cfg["recovery"], t, c)


@kernel
def leave_recovery(t, c, now):
    con = t.con[c]
    if con["recovery"] == FAST:
        cc_recovered(t.cfg[0]["cc"], con, now)
    con["recovery"] = OPEN
    con["dupacks"] = 0
    con["limited"] = 0
    con["high_rxt"] = con["snd_una"]
    con["flags"] &= ~F_RXT


@kernel
def has_more(t, c):
    """True when connection ``c`` has something left to retransmit, whether or not the windows allow it now."""
    con = t.con[c]
    if con["recovery"] == OPEN or con["state"] < ESTABLISHED or con["slot"] < 0:
        return False
    _, length, rule = sack_next(t, c)
    return length > 0 and not new_data_first(t, c, rule)


@kernel
def may_retransmit(t, c):
    """The first segment of a fast recovery goes out whatever the windows say; the others need room for one."""
    con = t.con[c]
    if con["recovery"] == FAST and (con["flags"] & F_SACK == 0 or con["high_rxt"] <= con["snd_una"]):
        return True
    return con["cwnd"] - sack_pipe(t, c) >= con["mss"]


@kernel
def new_data_first(t, c, rule):
    """NextSeg() of RFC 6675 section 4 has new data, which is the output node's, between its rules 1 and 3."""
    con = t.con[c]
    return rule > 1 and con["snd_una"] + con["snd_wnd"] > con["snd_nxt"] and unsent_bytes(t, c) > 0


@kernel
def resend(t, c, buf, lengths, used, seq, length):
    """Send ``length`` numbers from ``seq`` on again: data, and the FIN when it is among them."""
    con = t.con[c]
    flags = ACK
    n = length
    if con["flags"] & F_FIN_SENT and seq + length > con["fin_seq"]:
        n -= 1
        flags |= FIN
    elif seq + length == con["snd_nxt"]:
        flags |= PSH
    used = emit(t, c, buf, lengths, used, seq, n, flags)
    con["flags"] &= ~F_RTT
    con["retransmits"] += 1
    t.stat[0]["retransmits"] += 1
    return used


@kernel
def burst(t, c, buf, lengths, used, limit, now):
    """Retransmissions of connection ``c``, at most ``limit`` segments. The new number of packets in the frame."""
    con = t.con[c]
    if con["slot"] < 0:
        return used
    # The first look into the connection, before its own variables are asked: a freed one leads out of every mapping.
    held = fifo_avail(tx_end(t.cfg[0], int(con["slot"])), 1)
    if con["snd_nxt"] == con["snd_una"] or (held == 0 and con["flags"] & F_FIN_SENT == 0):
        return used
    if con["recovery"] == OPEN:  # only a mode that did not look comes here: what it takes for lost is the first segment
        return resend(t, c, buf, lengths, used, con["snd_una"], min(int(con["mss"]), con["snd_nxt"] - con["snd_una"]))
    end = used + limit
    while used < end and may_retransmit(t, c):
        seq, length, rule = sack_next(t, c)
        if length <= 0 or new_data_first(t, c, rule):
            ready(t, c)
            break
        before = used
        used = resend(t, c, buf, lengths, used, seq, length)
        if used == before:
            break
        if rule == 4:
            con["rescue"] = con["recover"]
        if seq + length > con["high_rxt"]:
            con["high_rxt"] = seq + length
        if seq == con["snd_una"]:
            timer_set(t, c, T_RETRANSMIT, now + con["rto"])
    return used


@kernel
def serve(t, c, generation, buf, lengths, used, limit, now):
    """One queue entry that its mode let through. The new number of packets in the frame."""
    stat = t.stat[0]
    con = t.con[c]
    if con["slot"] == POISON and t.cfg[0]["trap"] != 0:
        stat["crashes"] += 1  # what a real core does not survive
        return used
    stranger = con["generation"] != generation
    before = used
    used = burst(t, c, buf, lengths, used, limit, now)
    stat["rxt_sent"] += used - before
    if stranger:
        stat["strangers"] += used - before
    elif has_more(t, c):
        if used == before:
            stat["rxt_requeued"] += 1
        program(t.cfg[0]["recovery"], t, c)
    return used


@kernel
def tcp_retransmit(t, buf, lengths, used, now):
    """Node tcp-retransmit, D1's pass: serve what is queued, at most ``budget`` segments; what is over it waits.

    Returns the new number of packets in the frame. What the pass itself queues (no room in the congestion window, or more to
    send than its share) waits for the next one.
    """
    cfg = t.cfg[0]
    cfg["now"] = now
    if cfg["queue_head"] == cfg["queue_tail"] and cfg["heap_size"] == 0:
        return used
    stat = t.stat[0]
    stat["rxt_passes"] += 1
    entries = begin(cfg["policy"], t)
    share = max(1, cfg["budget"] // max(1, entries))
    end = min(used + cfg["budget"], cfg["frame"])
    while entries > 0 and used < end:
        entries -= 1
        at = take(cfg["policy"], t)
        entry = t.queue[at] if at >= 0 else t.heap[-2 - at]
        c, generation = int(entry["con"]), int(entry["generation"])
        if c < 0:
            continue
        t.queue_hist[bucket_of(now - entry["at"])] += 1
        unmark(t, c, generation)
        stat["rxt_checks"] += 1
        if check(cfg["recovery"], t, c, generation) == 0:
            stat["rxt_dropped"] += 1
            continue
        used = serve(t, c, generation, buf, lengths, used, min(share, end - used), now)
    return used
