"""Acknowledgments: what the peer has, how long it took, what is lost, and how much more it takes.

RFC 9293 section 3.10.7.4 (fifth check), RFC 5961 section 5 (which ACK numbers are believed), RFC 6298 (round-trip time),
RFC 5681 section 2 (what a duplicate is), RFC 3042 (limited transmit), RFC 6675 section 5 (SACK).
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.native import fifo_avail, fifo_skip, fifo_wanted
from stackcore.tcp.congestion import cc_ack
from stackcore.tcp.pool import note, tx_end
from stackcore.tcp.ready import ready
from stackcore.tcp.recovery import enter_fast, leave_recovery
from stackcore.tcp.retransmit import program
from stackcore.tcp.rtt import rto_measured, rtt_sample
from stackcore.tcp.sack import sack_ack, sack_add, sack_lost, sack_next
from stackcore.tcp.seq import unwrap
from stackcore.tcp.state import (
    F_FIN_SENT,
    F_PROBE,
    F_PROBED,
    F_RTT,
    F_SACK,
    F_TS,
    FAST,
    FIN,
    LOSS,
    MS,
    NOTE_TX_ROOM,
    OPEN,
    SYN,
    T_RETRANSMIT,
)
from stackcore.tcp.wheel import timer_set, timer_stop

DUPTHRESH = 3
"""RFC 5681 section 3.2, RFC 6675 section 2."""


@kernel
def measure(t, c, seg, ack, now):
    """A round-trip time sample, from the segment that was timed or else from the echoed timestamp (RFC 7323 section 4)."""
    cfg, con = t.cfg[0], t.con[c]
    if con["flags"] & F_RTT:
        if ack >= con["rtt_seq"]:
            con["flags"] &= ~F_RTT
            rtt_sample(cfg, con, now - con["rtt_at"])
    elif con["flags"] & F_TS and seg["has_ts"] != 0 and seg["tsecr"] != 0:
        elapsed = (now // MS + con["ts_offset"] - seg["tsecr"]) & 0xFFFFFFFF
        if elapsed < cfg["rto_max"] // MS:
            rtt_sample(cfg, con, max(elapsed, 1) * MS)


@kernel
def consume(t, c, ack):
    """Take what was acknowledged out of the tx fifo."""
    con = t.con[c]
    start = max(con["snd_una"], con["iss"] + 1)
    end = min(ack, con["fin_seq"]) if con["flags"] & F_FIN_SENT else ack
    if end <= start or con["slot"] < 0:
        return
    tx = tx_end(t.cfg[0], int(con["slot"]))
    n = min(end - start, fifo_avail(tx, end - start))
    fifo_skip(tx, n)
    if fifo_wanted(tx) != 0:
        note(t, int(con["slot"]), NOTE_TX_ROOM)


@kernel
def grow_after_loss(t, c, acked, now):
    """Slow start after a timeout: an ACK may cover much that arrived long ago, so it counts for a segment at most (RFC 3465
    section 2.3)."""
    con = t.con[c]
    cc_ack(t.cfg[0]["cc"], con, min(acked, con["mss"]), con["srtt"], now)


@kernel
def new_ack(t, c, seg, ack, now):
    """The peer has more than before."""
    cfg, con = t.cfg[0], t.con[c]
    acked = ack - con["snd_una"]
    measure(t, c, seg, ack, now)
    consume(t, c, ack)
    con["snd_una"] = ack
    con["dupacks"] = 0
    con["limited"] = 0
    con["backoff"] = 0
    con["probes"] = 0
    if con["flags"] & F_PROBED:
        rto_measured(cfg, con)
    con["flags"] &= ~(F_PROBED | F_PROBE)
    con["progress_at"] = now
    if con["board"] >= 0:
        sack_ack(t, c)
    if con["recovery"] == OPEN:
        cc_ack(cfg["cc"], con, acked, con["srtt"], now)  # which asks whether the window was what held the sender back
    elif ack >= con["recover"]:
        if con["recovery"] == LOSS:
            grow_after_loss(t, c, acked, now)
        leave_recovery(t, c, now)
    else:
        partial_ack(t, c, acked, now)
    if ack == con["snd_nxt"]:
        timer_stop(t, c, T_RETRANSMIT)
    else:
        timer_set(t, c, T_RETRANSMIT, now + con["rto"])


@kernel
def partial_ack(t, c, acked, now):
    """More than before, but not all that was in flight when recovery began."""
    con = t.con[c]
    if con["recovery"] == FAST and con["flags"] & F_SACK == 0:  # RFC 6582 section 3.2 step 3
        con["cwnd"] -= min(acked, con["cwnd"] - con["mss"])
        if acked >= con["mss"]:
            con["cwnd"] += con["mss"]
        con["high_rxt"] = con["snd_una"]
    elif con["recovery"] == LOSS:
        grow_after_loss(t, c, acked, now)
        if con["high_rxt"] < con["snd_una"]:
            con["high_rxt"] = con["snd_una"]
    more_to_recover(t, c)


@kernel
def more_to_recover(t, c):
    _, length, _ = sack_next(t, c)
    if length > 0:
        program(t.cfg[0]["recovery"], t, c)


@kernel
def take_sacks(t, c, seg):
    """The blocks of the segment into the scoreboard. Bytes that are news."""
    con = t.con[c]
    una = con["snd_una"]
    n = sack_add(t, c, unwrap(seg["l0"], una), unwrap(seg["r0"], una))
    if seg["sacks"] > 1:
        n += sack_add(t, c, unwrap(seg["l1"], una), unwrap(seg["r1"], una))
    if seg["sacks"] > 2:
        n += sack_add(t, c, unwrap(seg["l2"], una), unwrap(seg["r2"], una))
    if seg["sacks"] > 3:
        n += sack_add(t, c, unwrap(seg["l3"], una), unwrap(seg["r3"], una))
    return n


@kernel
def duplicate_ack(t, c, sacked, now):
    """One more sign that a segment was lost or overtaken."""
    con = t.con[c]
    con["dupacks"] += 1
    t.stat[0]["dupacks"] += 1
    if con["recovery"] == FAST:
        if con["flags"] & F_SACK == 0:
            con["cwnd"] += con["mss"]
        else:
            more_to_recover(t, c)
        ready(t, c)
    elif con["recovery"] == LOSS:
        if sacked > 0:
            more_to_recover(t, c)
    elif con["dupacks"] >= DUPTHRESH or (con["board"] >= 0 and sack_lost(t, c, con["snd_una"])):
        # RFC 6582 section 3.2 step 2: not again for losses of before the last recovery
        if con["snd_una"] > con["recover"] or sacked > 0:
            enter_fast(t, c, now)
    elif con["dupacks"] <= 2:
        con["limited"] = con["dupacks"]
        t.stat[0]["limited"] += 1
        ready(t, c)


@kernel
def update_window(t, c, seg, seq, ack, now):
    """SND.WND, unless the segment is older than the last that told it. True when it changed."""
    con = t.con[c]
    if not (con["snd_wl1"] < seq or (con["snd_wl1"] == seq and con["snd_wl2"] <= ack)):
        return False
    window = seg["wnd"] << int(con["snd_scale"]) if seg["flags"] & SYN == 0 else seg["wnd"]
    changed = window != con["snd_wnd"]
    opened = window > con["snd_wnd"]
    con["snd_wnd"] = window
    con["snd_wl1"] = seq
    con["snd_wl2"] = ack
    if window > con["max_wnd"]:
        con["max_wnd"] = window
    if opened:
        if con["flags"] & F_PROBED:  # the octet in the probe was refused: it goes out again with the rest
            con["flags"] &= ~F_PROBED
            con["snd_nxt"] = con["snd_una"]
            rto_measured(t.cfg[0], con)
        if con["snd_nxt"] == con["snd_una"]:
            con["probes"] = 0
            con["backoff"] = 0
            timer_stop(t, c, T_RETRANSMIT)
        ready(t, c)
    return changed


@kernel
def acceptable_ack(con, ack):
    """RFC 5961 section 5: an ACK from outside of what the peer can have seen is answered, not believed."""
    return con["snd_una"] - con["max_wnd"] <= ack <= con["snd_nxt"]


@kernel
def process_ack(t, c, seg, seq, ack, length, now):
    """An ACK that :func:`acceptable_ack` let through; ``length`` bytes of data came with it."""
    con = t.con[c]
    t.stat[0]["acks_in"] += 1
    una = con["snd_una"]
    sacked = 0
    if seg["sacks"] > 0 and con["flags"] & F_SACK and ack >= una:
        sacked = take_sacks(t, c, seg)
    before = con["snd_wnd"]
    probed = con["flags"] & F_PROBED
    if ack > una:
        new_ack(t, c, seg, ack, now)
        update_window(t, c, seg, seq, ack, now)
        if con["recovery"] == OPEN and sacked > 0 and sack_lost(t, c, con["snd_una"]):
            enter_fast(t, c, now)
        elif con["recovery"] != OPEN and sacked > 0:
            more_to_recover(t, c)
        ready(t, c)
        return
    update_window(t, c, seg, seq, ack, now)
    if ack < una or length > 0 or seg["flags"] & (SYN | FIN) or con["snd_nxt"] == una or probed:
        if probed and ack == una:
            con["probes"] = 0  # the peer answers: it lives, its window is closed (RFC 9293 section 3.8.6.1)
        return
    if sacked > 0 or (con["flags"] & F_SACK == 0 and before == con["snd_wnd"]):
        duplicate_ack(t, c, sacked, now)
    elif before == con["snd_wnd"] and seg["sacks"] == 0:
        duplicate_ack(t, c, 0, now)

