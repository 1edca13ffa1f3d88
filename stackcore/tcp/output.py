"""Node tcp-output: what a connection may send now, as packets in a frame.

Promise: a segment leaves only if the peer's window, the congestion window, Nagle's rule (RFC 9293 section 3.7.4) and the
sender's side of silly-window avoidance (section 3.8.6.2.1) allow it; every segment carries the newest acknowledgment and
window. A connection whose visit ends because the frame is full, or because it has had its share, comes again.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.native import fifo_avail, fifo_peek, fifo_room, fifo_want, load32, load64
from stackcore.tcp.congestion import cc_idle
from stackcore.tcp.header import IP_AT, finish, option_block, option_sack, option_ts, options_syn, put8, put_header
from stackcore.tcp.pieces import pieces_at
from stackcore.tcp.pool import rx_end, tx_end
from stackcore.tcp.ready import ready
from stackcore.tcp.sack import sack_pipe
from stackcore.tcp.seq import wrap
from stackcore.tcp.state import (
    ACK,
    ESTABLISHED,
    F_ACK_NOW,
    F_FIN,
    F_FIN_SENT,
    F_NODELAY,
    F_PROBE,
    F_PROBED,
    F_RTT,
    F_SACK,
    F_TS,
    F_WSCALE,
    FAST,
    FIN,
    HEADROOM,
    MS,
    OPEN,
    PSH,
    SYN,
    SYN_RCVD,
    SYN_SENT,
    T_DELACK,
    T_PACE,
    T_RETRANSMIT,
    TICK_SHIFT,
    TIME_WAIT,
)
from stackcore.tcp.wheel import timer_running, timer_set, timer_stop

SHARE = 16
"""Segments a connection may send in one visit while others wait."""
EVERYTHING = 1 << 62
_IP_TCP = 40


@kernel
def timestamp(cfg, con):
    """TSval: milliseconds, from a start of the connection's own (RFC 7323 section 5.4)."""
    return (cfg["now"] // MS + con["ts_offset"]) & 0xFFFFFFFF


@kernel
def first_unacked(con):
    """Sequence number of the first byte in the tx fifo."""
    return con["snd_una"] if con["snd_una"] > con["iss"] else con["iss"] + 1


@kernel
def unsent_bytes(t, c):
    """Bytes the owner has written that were never sent."""
    con = t.con[c]
    if con["slot"] < 0 or con["flags"] & F_FIN_SENT:
        return 0
    return fifo_avail(tx_end(t.cfg[0], int(con["slot"])), EVERYTHING) - (con["snd_nxt"] - first_unacked(con))


@kernel
def window_to_offer(cfg, con):
    """The window field for a segment that is sent now; moves ``rcv_adv``. RFC 9293 section 3.8.6.2.2: the right edge
    never goes back, and moves on only by a full segment or half the buffer at least."""
    slot = int(con["slot"])
    nxt = con["rcv_nxt"]
    offered = con["rcv_adv"] - nxt
    if offered < 0:
        offered = 0
    size = cfg["fifo_size"]
    room = offered
    if slot >= 0:
        end = rx_end(cfg, slot)
        room = fifo_room(end, size // 2 + 1)
        if room < size // 2 and fifo_want(end, min(size // 2, 2 * con["mss"])) == 0:
            room = fifo_room(end, size)
    elif con["state"] == SYN_RCVD:
        room = size
    step = min(size // 2, con["mss"])
    scale = con["rcv_scale"] if con["state"] != SYN_SENT and con["state"] != SYN_RCVD else 0
    if room - offered < step:
        field = (offered + (1 << scale) - 1) >> scale  # as before: the edge must not go back
    else:
        field = room >> scale
    if field > 65535:
        field = 65535
    if nxt + (field << scale) > con["rcv_adv"]:
        con["rcv_adv"] = nxt + (field << scale)
    return field


@kernel
def put_sack(t, con, buf, i, options, n):
    """Out-of-order pieces as SACK blocks, that of the segment that came last first (RFC 2018 section 4); as many as fit
    beside the other options and ``n`` bytes of data."""
    pieces = pieces_at(t, int(con["slot"]))
    if pieces == 0:
        return options
    count = load32(pieces)
    room = min(40 - options, t.cfg[0]["mtu"] - _IP_TCP - options - n)
    blocks = min(count, (room - 4) // 8) if room >= 12 else 0
    if blocks <= 0:
        return options
    start = con["irs"] + 1
    first = 0
    for i_piece in range(count):
        if load64(pieces + 8 + 16 * i_piece) + start <= con["last_ooo"] < load64(pieces + 16 + 16 * i_piece) + start:
            first = i_piece
    options = option_sack(buf, i, options, blocks)
    for k in range(blocks):
        at = pieces + 8 + 16 * ((first + k) % count)
        options = option_block(buf, i, options, wrap(load64(at) + start), wrap(load64(at + 8) + start))
    return options


@kernel
def emit(t, c, buf, lengths, used, seq, n, flags):
    """One segment of connection ``c``: ``n`` bytes from ``seq`` on. The new number of packets in the frame; unchanged
    when the fifo does not hold those bytes, which only a lying owner brings about."""
    cfg = t.cfg[0]
    con = t.con[c]
    options = 0
    if flags & SYN:
        options = options_syn(
            buf, used, cfg["mtu"] - _IP_TCP, int(con["rcv_scale"]) if con["flags"] & F_WSCALE else -1,
            con["flags"] & F_SACK, con["flags"] & F_TS, timestamp(cfg, con), con["ts_recent"],
        )  # fmt: skip
    elif con["flags"] & F_TS:
        options = option_ts(buf, used, 0, timestamp(cfg, con), con["ts_recent"])
    if con["flags"] & F_SACK and flags & SYN == 0 and con["slot"] >= 0:
        options = put_sack(t, con, buf, used, options, n)
    if n > 0:
        to = buf.ctypes.data + used * buf.shape[1] + HEADROOM + _IP_TCP + options
        if fifo_peek(tx_end(cfg, int(con["slot"])), seq - first_unacked(con), to, n) < n:
            return used
    acknowledged = wrap(con["rcv_nxt"]) if flags & ACK else 0
    cfg["ip_id"] = (cfg["ip_id"] + 1) & 0xFFFF
    put_header(
        buf, used, con["local_addr"], con["remote_addr"], con["local_port"], con["remote_port"], wrap(seq), acknowledged,
        flags, window_to_offer(cfg, con), cfg["ip_id"],
    )  # fmt: skip
    put8(buf, used, IP_AT + 1, con["tos"])
    lengths[used] = finish(cfg, buf, used, options, n)
    if flags & ACK:
        con["last_ack"] = con["rcv_nxt"]
        con["flags"] &= ~F_ACK_NOW
        timer_stop(t, c, T_DELACK)
    stat = t.stat[0]
    stat["segments_out"] += 1
    stat["bytes_out"] += n
    return used + 1


@kernel
def send_syn(t, c, buf, lengths, used):
    """SYN, or SYN,ACK."""
    con = t.con[c]
    con["flags"] &= ~F_ACK_NOW
    flags = SYN if con["state"] == SYN_SENT else SYN | ACK
    if con["backoff"] == 0 and con["rtt_at"] == 0:
        con["rtt_at"] = t.cfg[0]["now"]
        con["rtt_seq"] = con["iss"] + 1
        con["flags"] |= F_RTT
    if not timer_running(t, c, T_RETRANSMIT):
        timer_set(t, c, T_RETRANSMIT, t.cfg[0]["now"] + con["rto"])
    return emit(t, c, buf, lengths, used, con["iss"], 0, flags)


@kernel
def sent(t, c, end, now):
    """Book-keeping behind a segment of new data or a FIN that ended at ``end``."""
    con = t.con[c]
    con["snd_nxt"] = end
    con["sent_at"] = now
    if con["flags"] & F_RTT == 0:
        con["flags"] |= F_RTT
        con["rtt_seq"] = end
        con["rtt_at"] = now
    if not timer_running(t, c, T_RETRANSMIT):
        timer_set(t, c, T_RETRANSMIT, now + con["rto"])


@kernel
def send_probe(t, c, buf, lengths, used, unsent):
    """A window probe of one octet (RFC 9293 section 3.8.6.1), or a keep-alive without any (section 3.8.4). A window that
    is open, but too small to be worth a segment, is filled after that wait (section 3.8.6.2.1, the override timeout)."""
    con = t.con[c]
    con["flags"] &= ~F_PROBE
    before = used
    if unsent > 0 and con["snd_nxt"] == con["snd_una"] and con["snd_wnd"] > 0:
        n = min(unsent, min(int(con["mss"]), con["snd_wnd"]))
        used = emit(t, c, buf, lengths, used, con["snd_nxt"], n, ACK | PSH)
        if used > before:
            sent(t, c, con["snd_nxt"] + n, t.cfg[0]["now"])
    elif unsent > 0 and con["snd_nxt"] == con["snd_una"]:
        used = emit(t, c, buf, lengths, used, con["snd_nxt"], 1, ACK)
        if used > before:
            con["snd_nxt"] += 1
            con["flags"] |= F_PROBED
        t.stat[0]["window_probes"] += 1
    elif con["flags"] & F_PROBED and con["snd_nxt"] == con["snd_una"] + 1:
        used = emit(t, c, buf, lengths, used, con["snd_una"], 1, ACK)
        t.stat[0]["window_probes"] += 1
    else:
        used = emit(t, c, buf, lengths, used, con["snd_una"] - 1, 0, ACK)
        t.stat[0]["keepalives"] += 1
    return used


@kernel
def congestion_room(t, c):
    """Bytes that the congestion window leaves for new data."""
    con = t.con[c]
    if con["recovery"] == OPEN:
        return con["snd_una"] + con["cwnd"] + con["limited"] * con["mss"] - con["snd_nxt"]
    if con["recovery"] == FAST and con["flags"] & F_SACK == 0:
        return con["snd_una"] + con["cwnd"] - con["snd_nxt"]
    return con["cwnd"] - sack_pipe(t, c)


@kernel
def segment_size(cfg, con, unsent, room, window):
    """How many of the unsent bytes may go now: 0 none, -1 none until the window opens (and nothing is in flight)."""
    n = min(unsent, con["mss"])
    usable = min(room, window)
    if n <= usable:
        if n < con["mss"] and con["snd_nxt"] > con["snd_una"] and con["flags"] & (F_NODELAY | F_FIN) == 0 and cfg["nagle"]:
            return 0
        return n
    if window <= room:  # the peer's window binds
        if usable > 0 and 2 * usable >= con["max_wnd"]:
            return usable
        if con["snd_nxt"] == con["snd_una"]:
            return -1
    elif usable > 0 and con["snd_nxt"] == con["snd_una"]:
        return usable  # a congestion window below one segment must not stop everything
    return 0


@kernel
def pace(t, c, n, now):
    """With pacing: when the next segment may go, 1.25 windows per round trip."""
    con = t.con[c]
    if con["srtt"] > 0:
        start = max(con["pace_at"], now)
        con["pace_at"] = start + con["srtt"] * 4 * n // (5 * max(con["cwnd"], 1))


@kernel
def paced_out(t, c, now):
    """True when the pace says later; the timer brings the connection back."""
    if t.con[c]["pace_at"] <= now + (1 << TICK_SHIFT):
        return False
    timer_set(t, c, T_PACE, t.con[c]["pace_at"])
    return True


@kernel
def send_data(t, c, buf, lengths, used, unsent, now):
    """New data as far as the windows go, then the FIN."""
    cfg = t.cfg[0]
    con = t.con[c]
    if con["snd_nxt"] == con["snd_una"] and unsent > 0 and con["sent_at"] > 0 and now - con["sent_at"] > con["rto"]:
        cc_idle(cfg["cc"], con, now)
    room = congestion_room(t, c)
    share = SHARE
    while unsent > 0 and used < cfg["frame"]:
        window = con["snd_una"] + con["snd_wnd"] - con["snd_nxt"]
        n = segment_size(cfg, con, unsent, room, window)
        if n <= 0:
            if n < 0 and not timer_running(t, c, T_RETRANSMIT):
                timer_set(t, c, T_RETRANSMIT, now + con["rto"])  # the persist timer
            return used
        if share == 0:
            ready(t, c)
            return used
        if cfg["pacing"] != 0 and paced_out(t, c, now):
            return used
        flags = ACK | PSH if n == unsent else ACK
        last = n == unsent and con["flags"] & F_FIN != 0
        before = used
        used = emit(t, c, buf, lengths, used, con["snd_nxt"], n, flags | FIN if last else flags)
        if used == before:
            return used
        share -= 1
        unsent -= n
        room -= n
        end = con["snd_nxt"] + n
        if last:
            con["fin_seq"] = end
            con["flags"] |= F_FIN_SENT
            end += 1
        sent(t, c, end, now)
        if cfg["pacing"] != 0:
            pace(t, c, n, now)
    if unsent > 0:
        ready(t, c)
    elif con["flags"] & F_FIN and con["flags"] & F_FIN_SENT == 0:
        if used >= cfg["frame"]:
            ready(t, c)
            return used
        con["fin_seq"] = con["snd_nxt"]
        con["flags"] |= F_FIN_SENT
        used = emit(t, c, buf, lengths, used, con["snd_nxt"], 0, FIN | ACK)
        sent(t, c, con["snd_nxt"] + 1, now)
    return used


@kernel
def send_connection(t, c, buf, lengths, used, now):
    """Everything connection ``c`` may send now, while there is room in the frame."""
    con = t.con[c]
    state = con["state"]
    if state == SYN_SENT or state == SYN_RCVD:
        if con["flags"] & F_ACK_NOW:
            used = send_syn(t, c, buf, lengths, used)
        return used
    slot = int(con["slot"])
    if slot >= 0 and state >= ESTABLISHED and state != TIME_WAIT and con["flags"] & F_FIN_SENT == 0:
        if con["flags"] & F_PROBE:
            used = send_probe(t, c, buf, lengths, used, unsent_bytes(t, c))
            if con["flags"] & F_PROBED:
                return used
        used = send_data(t, c, buf, lengths, used, unsent_bytes(t, c), now)
    elif con["flags"] & F_PROBE:
        used = send_probe(t, c, buf, lengths, used, 0)
    if con["flags"] & F_ACK_NOW:
        if used >= t.cfg[0]["frame"]:
            ready(t, c)
            return used
        used = emit(t, c, buf, lengths, used, con["snd_nxt"], 0, ACK)
        t.stat[0]["pure_acks_out"] += 1
    return used


@kernel
def send_strays(t, buf, lengths, used):
    """Resets that belong to no connection."""
    cfg = t.cfg[0]
    while cfg["stray_head"] != cfg["stray_tail"] and used < cfg["frame"]:
        r = t.stray[cfg["stray_head"] % len(t.stray)]
        cfg["stray_head"] += 1
        cfg["ip_id"] = (cfg["ip_id"] + 1) & 0xFFFF
        put_header(
            buf, used, int(r["src"]), int(r["dst"]), int(r["sport"]), int(r["dport"]), int(r["seq"]), int(r["ack"]),
            int(r["flags"]), 0, cfg["ip_id"],
        )  # fmt: skip
        lengths[used] = finish(cfg, buf, used, 0, 0)
        t.stat[0]["segments_out"] += 1
        t.stat[0]["resets_out"] += 1
        used += 1
    return used

