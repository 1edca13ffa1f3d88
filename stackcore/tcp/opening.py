"""Opening: passive (a SYN for a listener), active, simultaneous (RFC 9293 sections 3.5 and 3.10.7.2 to 3.10.7.4).

The table of half-open connections is bounded (RFC 4987 section 3): beyond ``half_open_limit``, or a listener's backlog, a
SYN is dropped and counted, and whoever means it sends another. A half-open connection has a record, no fifos; a slot is
reserved for it, so that a completed handshake is never turned away.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.congestion import cc_init
from stackcore.tcp.isn import flow_hash, isn
from stackcore.tcp.pool import con_alloc, con_free, enter, finish, half_open_over, note, slot_take, slots_left
from stackcore.tcp.ready import ready
from stackcore.tcp.rtt import rtt_sample
from stackcore.tcp.seq import unwrap
from stackcore.tcp.state import (
    ACK,
    D_BACKLOG,
    D_BAD_ACK,
    D_HALF_OPEN,
    D_NO_ACK,
    D_NO_CONNECTION,
    D_NO_LISTENER,
    D_NO_SLOT,
    D_STRAY_FULL,
    F_ACK_NOW,
    F_FIN,
    F_HALF_OPEN,
    F_KEEPALIVE,
    F_PASSIVE,
    F_RTT,
    F_SACK,
    F_TS,
    F_WSCALE,
    FIN,
    LISTEN,
    MS,
    NOTE_ACCEPT,
    NOTE_CONNECTED,
    RST,
    SYN,
    SYN_RCVD,
    SYN_SENT,
    T_KEEPALIVE,
    T_RETRANSMIT,
    S,
)
from stackcore.tcp.transitions import E_ACK_OF_SYN, E_CLOSE, E_SYN, E_SYN_ACK, NEXT
from stackcore.tcp.wheel import timer_set, timer_stop

DEFAULT_MSS = 536
"""RFC 9293 section 3.7.1, MUST-15: when the peer names none."""
MIN_MSS = 64
"""A peer that names less (or zero) would make us send headers only; so does everybody's minimum."""
RTO_UNKNOWN = 3 * S
"""RFC 6298 rule 5.7: when data begins to flow and the SYN's timer had expired."""
_TS_BYTES = 12
_IP_TCP = 40
_ECONNREFUSED = 111
_WIRE = 1 << 32


@kernel
def stray(t, src, dst, sport, dport, seq, ack, flags):
    """Have a segment sent that belongs to no connection."""
    cfg = t.cfg[0]
    if cfg["stray_tail"] - cfg["stray_head"] >= len(t.stray):
        t.dropped[D_STRAY_FULL] += 1
        return
    r = t.stray[cfg["stray_tail"] % len(t.stray)]
    r["src"] = src
    r["dst"] = dst
    r["sport"] = sport
    r["dport"] = dport
    r["seq"] = seq
    r["ack"] = ack
    r["flags"] = flags
    cfg["stray_tail"] += 1


@kernel
def refuse(t, seg):
    """The reset that answers a segment nobody has a connection for (RFC 9293 section 3.10.7.1)."""
    if seg["flags"] & RST:
        return
    if seg["flags"] & ACK:
        stray(t, seg["dst"], seg["src"], seg["dport"], seg["sport"], seg["ack"], 0, RST)
        return
    length = seg["len"] + (1 if seg["flags"] & SYN else 0) + (1 if seg["flags"] & FIN else 0)
    ack = (seg["seq"] + length) & 0xFFFFFFFF
    stray(t, seg["dst"], seg["src"], seg["dport"], seg["sport"], 0, ack, RST | ACK)


@kernel
def find_listener(t, addr, port):
    """The listener of a port at an address (one for the very address goes before one for any), or -1."""
    found = -1
    for i in range(len(t.lis)):
        if t.lis[i]["port"] == port:
            if t.lis[i]["addr"] == addr:
                return i
            if t.lis[i]["addr"] == 0:
                found = i
    return found


@kernel
def take_options(cfg, con, seg):
    """What the peer's SYN says: MSS, window scale, SACK, timestamps; each is on only if both sides want it."""
    flags = 0
    if seg["wscale"] >= 0 and cfg["wscale"] >= 0:
        flags |= F_WSCALE
        con["snd_scale"] = min(seg["wscale"], 14)
        con["rcv_scale"] = cfg["wscale"]
    else:
        con["snd_scale"] = 0
        con["rcv_scale"] = 0
    if seg["sack_ok"] != 0 and cfg["sack"] != 0:
        flags |= F_SACK
    mss = seg["mss"] if seg["mss"] > 0 else DEFAULT_MSS
    mss = max(MIN_MSS, min(mss, cfg["mtu"] - _IP_TCP))
    if seg["has_ts"] != 0 and cfg["timestamps"] != 0:
        flags |= F_TS
        con["ts_recent"] = seg["tsval"]
        con["ts_recent_at"] = cfg["now"]
        mss -= _TS_BYTES
    con["flags"] = (con["flags"] & ~(F_WSCALE | F_SACK | F_TS)) | flags
    con["mss"] = mss


@kernel
def start(t, c, now):
    """What an active and a passive opening have in common: own sequence numbers, timers' start."""
    cfg, con = t.cfg[0], t.con[c]
    number = isn(cfg, con["local_addr"], int(con["local_port"]), con["remote_addr"], int(con["remote_port"]), now)
    con["iss"] = _WIRE + number
    con["snd_una"] = con["iss"]
    con["snd_nxt"] = con["iss"] + 1
    con["recover"] = con["iss"]
    con["rto"] = cfg["rto_init"]
    con["ts_offset"] = flow_hash(cfg, con["remote_addr"], int(con["remote_port"]), con["local_addr"], int(con["local_port"]))
    con["progress_at"] = now
    con["heard_at"] = now
    con["mss"] = DEFAULT_MSS


@kernel
def syn_for_listener(t, li, seg, now):
    """A SYN where somebody listens. The new connection, or -1 when it was dropped."""
    cfg = t.cfg[0]
    lis = t.lis[li]
    reason = -1
    if cfg["half_open"] >= cfg["half_open_limit"]:
        reason = D_HALF_OPEN
    elif lis["waiting"] + lis["half_open"] >= lis["backlog"]:
        reason = D_BACKLOG
    elif slots_left(t) <= 0:
        reason = D_NO_SLOT
    c = -1
    if reason < 0:
        c = con_alloc(t)
        if c < 0:
            reason = D_NO_CONNECTION
    if c < 0:
        t.dropped[reason] += 1
        t.stat[0]["syns_dropped"] += 1
        return -1
    con = t.con[c]
    con["local_addr"] = seg["dst"]
    con["remote_addr"] = seg["src"]
    con["local_port"] = seg["dport"]
    con["remote_port"] = seg["sport"]
    con["listener"] = li
    con["flags"] = F_PASSIVE | F_HALF_OPEN
    start(t, c, now)
    con["state"] = NEXT[LISTEN, E_SYN]
    take_syn(t, c, seg)
    enter(t, c)
    cfg["half_open"] += 1
    cfg["reserved"] += 1
    lis["half_open"] += 1
    return c


@kernel
def take_syn(t, c, seg):
    """The peer's SYN: its numbers and options; answered with ours."""
    cfg, con = t.cfg[0], t.con[c]
    con["irs"] = _WIRE + seg["seq"]
    con["rcv_nxt"] = con["irs"] + 1
    con["rcv_adv"] = con["rcv_nxt"]
    take_options(cfg, con, seg)
    con["snd_wnd"] = seg["wnd"]
    con["max_wnd"] = seg["wnd"]
    con["snd_wl1"] = con["irs"]
    con["snd_wl2"] = con["snd_una"]
    con["flags"] |= F_ACK_NOW
    ready(t, c)


@kernel
def no_connection(t, seg, now):
    """A segment for which there is no connection: a SYN for a listener, or refused."""
    li = find_listener(t, seg["dst"], seg["dport"])
    if li < 0 or seg["flags"] & (RST | ACK):
        t.dropped[D_NO_LISTENER] += 1
        refuse(t, seg)
    elif seg["flags"] & SYN:
        syn_for_listener(t, li, seg, now)
    else:
        t.dropped[D_NO_ACK] += 1


@kernel
def established(t, c, seg, event, now):
    """Both SYNs are acknowledged. False when no slot was left, which a reservation excludes."""
    cfg, con = t.cfg[0], t.con[c]
    con["snd_una"] = con["iss"] + 1
    con["backoff"] = 0
    con["progress_at"] = now
    timer_stop(t, c, T_RETRANSMIT)
    if con["flags"] & F_RTT:
        con["flags"] &= ~F_RTT
        rtt_sample(cfg, con, now - con["rtt_at"])
    elif con["flags"] & F_TS and seg["has_ts"] != 0:
        elapsed = (now // MS + con["ts_offset"] - seg["tsecr"]) & 0xFFFFFFFF
        if elapsed < cfg["rto_max"] // MS:
            rtt_sample(cfg, con, max(elapsed, 1) * MS)
    if con["srtt"] == 0:  # our SYN was sent twice, so nothing is known (RFC 6298 rule 5.7)
        con["rto"] = min(max(cfg["rto_init"], RTO_UNKNOWN), cfg["rto_max"])
    passive = con["flags"] & F_HALF_OPEN != 0
    if passive:
        half_open_over(t, c)
        if slot_take(t, c) < 0:
            return False
    con["state"] = NEXT[con["state"], event] if con["flags"] & F_FIN == 0 else NEXT[SYN_RCVD, E_CLOSE]
    cc_init(cfg["cc"], con, now)
    con["cwnd"] = initial_window(cfg, con)
    if con["flags"] & F_KEEPALIVE:
        timer_set(t, c, T_KEEPALIVE, now + cfg["keep_idle"])
    if passive:
        t.lis[con["listener"]]["waiting"] += 1
        t.stat[0]["opened_passive"] += 1
        note(t, int(con["slot"]), NOTE_ACCEPT)
    else:
        t.stat[0]["opened_active"] += 1
        note(t, int(con["slot"]), NOTE_CONNECTED)
    ready(t, c)
    return True


@kernel
def initial_window(cfg, con):
    """RFC 6928 section 2, but one segment after a SYN was lost (RFC 5681 section 3.1)."""
    if con["retransmits"] > 0:
        return con["mss"]
    return min(cfg["initial_window"] * con["mss"], max(2 * con["mss"], cfg["initial_window"] * 1460))


@kernel
def syn_sent(t, c, seg, now):
    """A segment in state SYN-SENT (RFC 9293 section 3.10.7.3)."""
    con = t.con[c]
    ack = unwrap(seg["ack"], con["snd_nxt"])
    if seg["flags"] & ACK and (ack <= con["iss"] or ack > con["snd_nxt"]):
        t.dropped[D_BAD_ACK] += 1
        refuse(t, seg)
        return
    if seg["flags"] & RST:
        if seg["flags"] & ACK:
            t.stat[0]["resets_in"] += 1
            finish(t, c, _ECONNREFUSED)
        return
    if seg["flags"] & SYN == 0:
        t.dropped[D_NO_ACK] += 1
        return
    if seg["flags"] & ACK == 0:  # simultaneous open
        con["state"] = NEXT[SYN_SENT, E_SYN]
        take_syn(t, c, seg)
        con["backoff"] = 0
        timer_set(t, c, T_RETRANSMIT, now + con["rto"])
        return
    take_syn(t, c, seg)
    established(t, c, seg, E_SYN_ACK, now)
    con["snd_wl2"] = con["snd_una"]


@kernel
def syn_received(t, c, seg, ack, now):
    """The ACK check in state SYN-RECEIVED: True when the connection is established now, False when it is over or waits."""
    con = t.con[c]
    if not con["snd_una"] < ack <= con["snd_nxt"]:
        t.dropped[D_BAD_ACK] += 1
        stray(t, con["local_addr"], con["remote_addr"], con["local_port"], con["remote_port"], seg["ack"], 0, RST)
        return False
    seq = unwrap(seg["seq"], con["rcv_nxt"])
    if not established(t, c, seg, E_ACK_OF_SYN, now):
        con_free(t, c)
        return False
    con["snd_wnd"] = seg["wnd"] << int(con["snd_scale"])
    con["max_wnd"] = max(con["max_wnd"], con["snd_wnd"])
    con["snd_wl1"] = seq
    con["snd_wl2"] = ack
    return True

