"""Node tcp-input: segments for connections, checked in the order of RFC 9293 section 3.10.7.4.

What changes a connection must come from inside the window: resets and SYNs per RFC 5961 (an exact match, or a challenge
ACK whose number per second is bounded), ACKs per its section 5, timestamps per RFC 7323 section 5 (PAWS). Whatever is
dropped is counted by reason. Data may come in any order: bytes ahead of the stream go to their place in the rx fifo and
become visible when the gap is closed; a FIN ahead of it is remembered.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.native import fifo_pos, fifo_set_event
from stackcore.tcp.ack import acceptable_ack, process_ack
from stackcore.tcp.closing import abort, peer_closed, reset_by_peer, time_wait_again
from stackcore.tcp.header import parse
from stackcore.tcp.lookahead import fetch_received, is_for, worthwhile
from stackcore.tcp.opening import find_listener, no_connection, syn_for_listener, syn_received, syn_sent
from stackcore.tcp.pieces import pieces_count, put_bytes
from stackcore.tcp.pool import con_free, find, finish, note, rx_end
from stackcore.tcp.ready import ready
from stackcore.tcp.seq import unwrap
from stackcore.tcp.state import (
    ACK,
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    D_AFTER_CLOSE,
    D_BAD_ACK,
    D_BLIND_RESET,
    D_BLIND_SYN,
    D_NO_ACK,
    D_OLD,
    D_OPTIONS,
    D_PAWS,
    D_PIECES,
    D_RX_FULL,
    D_WINDOW,
    ESTABLISHED,
    F_ACK_NOW,
    F_FIN_SENT,
    F_NO_READER,
    F_TS,
    FIN,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    NOTE_RX,
    RST,
    SYN,
    SYN_RCVD,
    SYN_SENT,
    T_DELACK,
    TIME_WAIT,
    S,
)
from stackcore.tcp.transitions import E_ACK_OF_FIN, NEXT
from stackcore.tcp.wheel import timer_running, timer_set

_PAWS_IDLE = 24 * 86400 * S
"""RFC 7323 section 5.5: a timestamp that is older than this says nothing."""


@kernel
def ack_now(t, c):
    t.con[c]["flags"] |= F_ACK_NOW
    ready(t, c)


@kernel
def challenge(t, c):
    """A challenge ACK (RFC 5961 section 3.2), of which there are at most so many per second (section 7)."""
    cfg = t.cfg[0]
    if cfg["now"] >= cfg["challenge_until"]:
        cfg["challenge_until"] = cfg["now"] + S
        cfg["challenge_left"] = cfg["challenge_limit"]
    if cfg["challenge_left"] > 0:
        cfg["challenge_left"] -= 1
        t.stat[0]["challenges"] += 1
        ack_now(t, c)


@kernel
def old_timestamp(t, con, seg):
    """PAWS: True when the segment was sent before one that has been taken already."""
    if (seg["tsval"] - con["ts_recent"]) & 0x80000000 == 0:
        return False
    return t.cfg[0]["now"] - con["ts_recent_at"] < _PAWS_IDLE


@kernel
def in_window(con, seq, length):
    """The four cases of RFC 9293 section 3.4, table 6."""
    nxt = con["rcv_nxt"]
    window = con["rcv_adv"] - nxt
    if window <= 0:
        return length == 0 and seq == nxt
    if length == 0:
        return nxt <= seq < nxt + window
    return nxt <= seq < nxt + window or nxt <= seq + length - 1 < nxt + window


@kernel
def timestamps_good(t, c, con, seg):
    """RFC 7323: a segment without a timestamp where they were agreed on, or with an old one, is dropped."""
    if con["flags"] & F_TS == 0 or seg["flags"] & RST:
        return True
    if seg["has_ts"] == 0:
        t.dropped[D_OPTIONS] += 1
        return False
    if old_timestamp(t, con, seg):
        t.dropped[D_PAWS] += 1
        ack_now(t, c)
        return False
    return True


@kernel
def reset_or_syn(t, c, con, seg, seq):
    """A RST or SYN whose sequence number is in the window; True when the segment is done with."""
    if seg["flags"] & RST:
        if seq == con["rcv_nxt"]:
            t.stat[0]["resets_in"] += 1
            reset_by_peer(t, c)
        else:
            t.dropped[D_BLIND_RESET] += 1
            challenge(t, c)
        return True
    if seg["flags"] & SYN:
        t.dropped[D_BLIND_SYN] += 1
        challenge(t, c)
        return True
    if seg["flags"] & ACK == 0:
        t.dropped[D_NO_ACK] += 1
        return True
    return False


@kernel
def out_of_window(t, c, con, seg, seq, length):
    """An unacceptable segment is answered with an ACK that says where we are; resets are not answered."""
    if seg["flags"] & RST:
        t.dropped[D_BLIND_RESET] += 1
        return
    t.dropped[D_OLD if seq < con["rcv_nxt"] else D_WINDOW] += 1
    if seg["flags"] & SYN or length == 0:
        challenge(t, c)
    else:
        t.stat[0]["duplicates"] += 1
        ack_now(t, c)


@kernel
def zero_window_allowance(con, seg, seq, length):
    """With no room at all, the ACK of a probe is still taken (RFC 9293 section 3.10.7.4, first check)."""
    return con["rcv_adv"] <= con["rcv_nxt"] and seq == con["rcv_nxt"] and length > 0 and seg["flags"] & (SYN | RST) == 0


@kernel
def ack_at_edge(con, seg, seq, length):
    """A sender that has filled the window has SND.NXT at its right edge, and its ACKs carry that number. Table 6 of RFC 9293
    refuses them, and our data would stay unacknowledged for as long as one of its segments is missing; they are taken."""
    return length == 0 and seq == con["rcv_adv"] and seg["flags"] & (SYN | RST) == 0


@kernel
def take_data(t, c, con, seg, at, seq, now):
    """Put the payload at address ``at`` into the rx fifo: its new part, as far as there is room."""
    cfg = t.cfg[0]
    slot = int(con["slot"])
    length = seg["len"]
    skip = con["rcv_nxt"] - seq
    if skip > 0:
        if skip >= length:
            return
        at += skip
        length -= skip
        seq = con["rcv_nxt"]
        ack_now(t, c)  # part of it was here already: a retransmission
    end = rx_end(cfg, slot)
    offset = seq - con["rcv_nxt"]
    kept = put_bytes(t, slot, end, offset, at, length)
    if kept <= 0:
        t.dropped[D_PIECES if kept < 0 else D_RX_FULL] += 1
        ack_now(t, c)
        return
    stat = t.stat[0]
    stat["data_in"] += 1
    stat["bytes_in"] += kept
    if offset > 0:
        stat["out_of_order"] += 1
        con["last_ooo"] = seq
        ack_now(t, c)
        return
    nxt = con["irs"] + 1 + fifo_pos(end)
    gap_closed = nxt - con["rcv_nxt"] > kept or pieces_count(t, slot) > 0
    con["rcv_nxt"] = nxt
    if fifo_set_event(end) != 0:
        note(t, slot, NOTE_RX)
    if gap_closed or kept < length:
        ack_now(t, c)
        return
    if nxt - con["last_ack"] >= 2 * con["mss"]:
        ack_now(t, c)
    elif not timer_running(t, c, T_DELACK):
        if cfg["delack"] > 0:
            timer_set(t, c, T_DELACK, now + cfg["delack"])
        else:
            ack_now(t, c)


@kernel
def take_fin(t, c, con, seg, seq, now):
    """A FIN, perhaps ahead of the stream; it counts when everything before it is here."""
    if seg["flags"] & FIN and con["rcv_fin"] == 0:
        con["rcv_fin"] = seq + seg["len"]
        if con["rcv_fin"] > con["rcv_nxt"]:
            ack_now(t, c)  # something before it is missing: the sender should know (RFC 5681 section 4.2)
    if con["rcv_fin"] != 0 and con["rcv_fin"] == con["rcv_nxt"]:
        con["rcv_nxt"] += 1
        con["rcv_fin"] = 0
        ack_now(t, c)
        peer_closed(t, c, now)


@kernel
def our_fin_acked(t, c, con, now):
    """State changes when the peer has our FIN; False when the connection is over."""
    if con["flags"] & F_FIN_SENT == 0 or con["snd_una"] <= con["fin_seq"]:
        return True
    state = con["state"]
    if state == LAST_ACK:
        finish(t, c, 0)
        return False
    if state == FIN_WAIT_1 or state == CLOSING:
        con["state"] = NEXT[state, E_ACK_OF_FIN]
        if con["state"] == TIME_WAIT:
            time_wait_again(t, c, now)
    return True


@kernel
def synchronized(t, c, seg, at, now):
    """A segment for a connection that has seen the peer's SYN."""
    con = t.con[c]
    if not timestamps_good(t, c, con, seg):
        return
    seq = unwrap(seg["seq"], con["rcv_nxt"])
    length = seg["len"] + (1 if seg["flags"] & FIN else 0)
    if con["state"] == SYN_RCVD and seg["flags"] & SYN and seq == con["irs"]:
        if seg["flags"] & ACK == 0:
            ack_now(t, c)  # the SYN again: our answer was lost
            return
        seq += 1  # simultaneous open: the peer's SYN,ACK says nothing new but its ACK
        seg["flags"] &= ~SYN
        seg["wnd"] >>= int(con["snd_scale"])  # a SYN's window is not scaled (RFC 7323 section 2.2)
    if not in_window(con, seq, length + (1 if seg["flags"] & SYN else 0)):
        if zero_window_allowance(con, seg, seq, length):
            ack_now(t, c)
        elif not ack_at_edge(con, seg, seq, length):
            out_of_window(t, c, con, seg, seq, length)
            return
    if reset_or_syn(t, c, con, seg, seq):
        return
    con["heard_at"] = now
    if con["flags"] & F_TS and seq <= con["last_ack"]:
        con["ts_recent"] = seg["tsval"]
        con["ts_recent_at"] = now
    ack = unwrap(seg["ack"], con["snd_una"])
    if con["state"] == SYN_RCVD:
        if not syn_received(t, c, seg, ack, now):
            return
    elif not acceptable_ack(con, ack):
        t.dropped[D_BAD_ACK] += 1
        challenge(t, c)
        return
    process_ack(t, c, seg, seq, ack, seg["len"], now)
    if not our_fin_acked(t, c, con, now):
        return
    payload(t, c, seg, at, seq, now)


@kernel
def payload(t, c, seg, at, seq, now):
    """Data and FIN of an accepted segment."""
    con = t.con[c]
    state = con["state"]
    if state != ESTABLISHED and state != FIN_WAIT_1 and state != FIN_WAIT_2:
        if seg["len"] > 0:
            t.dropped[D_AFTER_CLOSE] += 1
        if state >= CLOSE_WAIT and (seg["len"] > 0 or seg["flags"] & FIN):
            ack_now(t, c)
        return
    if seg["len"] > 0:
        if con["flags"] & F_NO_READER and seq + seg["len"] > con["rcv_nxt"]:
            t.dropped[D_AFTER_CLOSE] += 1
            abort(t, c, 0, True)  # nobody will read it: the peer must know (RFC 9293 section 3.6.1)
            return
        if con["rcv_adv"] > con["rcv_nxt"]:
            take_data(t, c, con, seg, at, seq, now)
        else:
            t.dropped[D_RX_FULL] += 1  # a window probe, or a sender that does not look
    take_fin(t, c, con, seg, seq, now)


@kernel
def time_wait(t, c, seg, now):
    """A segment in TIME-WAIT: a new SYN may take the ports over (RFC 9293 section 3.6.1, RFC 6191), a FIN that comes again
    is acknowledged again, a reset is not believed (RFC 1337)."""
    con = t.con[c]
    seq = unwrap(seg["seq"], con["rcv_nxt"])
    if seg["flags"] & RST:
        t.dropped[D_BLIND_RESET] += 1
        return
    if seg["flags"] & SYN and seg["flags"] & ACK == 0:
        li = find_listener(t, seg["dst"], seg["dport"])
        newer = seq > con["rcv_nxt"]
        if con["flags"] & F_TS and seg["has_ts"] != 0 and seg["tsval"] != con["ts_recent"]:
            newer = (seg["tsval"] - con["ts_recent"]) & 0x80000000 == 0
        if li >= 0 and newer:
            above = con["snd_nxt"]
            con_free(t, c)
            fresh = syn_for_listener(t, li, seg, now)
            if fresh >= 0:
                start_above(t, fresh, above)
            return
        challenge(t, c)
        return
    if seg["flags"] & FIN:
        ack_now(t, c)
        time_wait_again(t, c, now)
    elif seg["len"] > 0 or not in_window(con, seq, 0):
        t.dropped[D_OLD if seq < con["rcv_nxt"] else D_WINDOW] += 1
        ack_now(t, c)


@kernel
def start_above(t, c, above):
    """Begin with a number beyond the old connection's last, so that nothing old of ours can be taken for new."""
    con = t.con[c]
    number = con["iss"] & 0xFFFFFFFF
    old = above & 0xFFFFFFFF
    if (number - old) & 0x80000000:
        con["iss"] = (1 << 32) + ((old + 128000) & 0xFFFFFFFF)
        con["snd_una"] = con["iss"]
        con["snd_nxt"] = con["iss"] + 1
        con["recover"] = con["iss"]


@kernel
def tcp_input(t, buf, lengths, n, now):
    """Take the datagrams in the first ``n`` rows of the frame."""
    cfg = t.cfg[0]
    cfg["now"] = now
    stat = t.stat[0]
    seg = t.seg[0]
    ahead = worthwhile(t, n)
    if ahead:
        fetch_received(t, buf, n)
    for i in range(n):
        stat["segments_in"] += 1
        reason = parse(cfg, buf, i, lengths[i], seg)
        if reason >= 0:
            t.dropped[reason] += 1
            continue
        c = int(t.look[i]) if ahead else -1
        if c < 0 or not is_for(t.con[c], seg):
            c = find(t, seg["dst"], seg["dport"], seg["src"], seg["sport"])
        if c < 0:
            no_connection(t, seg, now)
            continue
        state = t.con[c]["state"]
        if state == SYN_SENT:
            syn_sent(t, c, seg, now)
        elif state == TIME_WAIT:
            time_wait(t, c, seg, now)
        elif state != CLOSED:
            synchronized(t, c, seg, buf.ctypes.data + i * buf.shape[1] + seg["data"], now)
    return n


