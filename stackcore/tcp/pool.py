"""Connections, slots, and who stands in which queue: everything that is taken and given back.

A connection that is freed is poisoned: whoever still holds its index and looks without asking finds a slot number that
leads far outside of every mapping. That is deliberate (D1: the ``unchecked`` retransmit queue must fail as its model
failed, by a fault, not by quietly reading old bytes); all other code reaches a connection through the hash table, a timer,
a slot, or a queue that is checked.
"""

from __future__ import annotations

from stackcore.abi import abi
from stackcore.histogram import bucket_of
from stackcore.kernel import kernel
from stackcore.native import fifo_bind, fifo_reset
from stackcore.tcp.isn import flow_hash
from stackcore.tcp.pieces import pieces_drop
from stackcore.tcp.retransmit import forget
from stackcore.tcp.sack import sack_clear
from stackcore.tcp.state import (
    CLOSED,
    F_HALF_OPEN,
    F_QUEUED,
    NOTE_DONE,
    NOTE_ERROR,
    TIMERS,
)
from stackcore.tcp.wheel import timer_stop

POISON = 0x7AFAFAFA
"""In ``con["slot"]`` of a freed connection."""
END_BYTES = 40
"""sizeof(shmq_fifo_end)"""
_FIFO_HEADER = 2 * abi.LINE
"""sizeof(shmq_fifo)"""


@kernel
def rx_end(cfg, slot):
    """Address of the engine's writer end of a slot's rx fifo. ``cfg`` is the record."""
    return cfg["ends_at"] + 2 * slot * END_BYTES


@kernel
def tx_end(cfg, slot):
    """Address of the engine's reader end of a slot's tx fifo."""
    return cfg["ends_at"] + (2 * slot + 1) * END_BYTES


# ---- the table of connections ----


@kernel
def find(t, laddr, lport, raddr, rport):
    """The connection of these four, or -1."""
    c = int(t.hash[flow_hash(t.cfg[0], laddr, lport, raddr, rport) & t.cfg[0]["hash_mask"]])
    while c >= 0:
        con = t.con[c]
        if (
            con["remote_port"] == rport
            and con["remote_addr"] == raddr
            and con["local_port"] == lport
            and con["local_addr"] == laddr
        ):
            return c
        c = int(con["hash_next"])
    return -1


@kernel
def bucket_of_connection(t, con):
    cfg = t.cfg[0]
    h = flow_hash(cfg, con["local_addr"], int(con["local_port"]), con["remote_addr"], int(con["remote_port"]))
    return h & cfg["hash_mask"]


@kernel
def enter(t, c):
    """Make connection ``c``, whose addresses are set, findable."""
    con = t.con[c]
    bucket = bucket_of_connection(t, con)
    con["hash_next"] = t.hash[bucket]
    t.hash[bucket] = c


@kernel
def leave(t, c):
    con = t.con[c]
    bucket = bucket_of_connection(t, con)
    at = int(t.hash[bucket])
    if at == c:
        t.hash[bucket] = con["hash_next"]
        return
    while at >= 0:
        after = int(t.con[at]["hash_next"])
        if after == c:
            t.con[at]["hash_next"] = con["hash_next"]
            return
        at = after


@kernel
def con_alloc(t):
    """A zeroed connection in state CLOSED, or -1. Not in the table yet."""
    cfg = t.cfg[0]
    if cfg["con_free"] == 0:
        return -1
    cfg["con_free"] -= 1
    c = int(t.free[cfg["con_free"]])
    clear(t.con[c])
    return c


@kernel
def clear(con):
    """All variables to their start; generation and ``in_ready`` belong to the index and stay."""
    con["iss"] = con["snd_una"] = con["snd_nxt"] = con["snd_wnd"] = con["snd_wl1"] = con["snd_wl2"] = con["max_wnd"] = 0
    con["fin_seq"] = con["irs"] = con["rcv_nxt"] = con["rcv_adv"] = con["rcv_fin"] = con["last_ack"] = con["last_ooo"] = 0
    con["ts_recent"] = con["ts_recent_at"] = con["ts_offset"] = 0
    con["srtt"] = con["rttvar"] = con["rto"] = con["rtt_seq"] = con["rtt_at"] = 0
    con["cwnd"] = con["ssthresh"] = con["cc0"] = con["cc1"] = con["cc2"] = con["cc3"] = con["cc4"] = con["cc5"] = 0
    con["recover"] = con["high_rxt"] = con["rescue"] = con["sacked"] = con["pipe"] = 0
    con["progress_at"] = con["heard_at"] = con["sent_at"] = con["closed_at"] = con["pace_at"] = 0
    con["state"] = CLOSED
    con["slot"] = con["listener"] = con["board"] = con["queue_at"] = -1
    con["flags"] = con["mss"] = con["snd_scale"] = con["rcv_scale"] = con["recovery"] = con["dupacks"] = 0
    con["backoff"] = con["probes"] = con["error"] = con["retransmits"] = con["limited"] = con["tos"] = 0


@kernel
def con_free(t, c):
    """The connection is over: out of the table, timers stopped, poisoned. Its place in the retransmit queue stays,
    unless the recovery mode takes it out."""
    cfg = t.cfg[0]
    con = t.con[c]
    leave(t, c)
    for kind in range(TIMERS):
        timer_stop(t, c, kind)
    sack_clear(t, c)
    if con["flags"] & F_HALF_OPEN:
        half_open_over(t, c)
    if con["flags"] & F_QUEUED:
        t.stat[0]["freed_queued"] += 1
        forget(cfg["recovery"], t, c)
    con["state"] = CLOSED
    con["flags"] = 0
    con["slot"] = POISON
    con["generation"] += 1
    t.free[cfg["con_free"]] = c
    cfg["con_free"] += 1
    t.stat[0]["closed"] += 1


@kernel
def half_open_over(t, c):
    """No longer half open: established, or gone."""
    con = t.con[c]
    con["flags"] &= ~F_HALF_OPEN
    t.cfg[0]["half_open"] -= 1
    t.cfg[0]["reserved"] -= 1
    t.lis[con["listener"]]["half_open"] -= 1


# ---- slots ----


@kernel
def slots_left(t):
    """Free slots that no half-open connection counts on."""
    cfg = t.cfg[0]
    return cfg["slot_tail"] - cfg["slot_head"] - cfg["reserved"]


@kernel
def slot_take(t, c):
    """Give connection ``c`` a slot with empty fifos; the slot, or -1 when there is none."""
    cfg = t.cfg[0]
    if cfg["slot_head"] == cfg["slot_tail"]:
        return -1
    s = int(t.slots_free[cfg["slot_head"] & cfg["slot_mask"]])
    cfg["slot_head"] += 1
    fifos = cfg["fifos_at"] + s * cfg["fifo_stride"]
    fifo_reset(fifos)
    fifo_reset(fifos + _FIFO_HEADER)
    data = fifos + 2 * _FIFO_HEADER
    fifo_bind(rx_end(cfg, s), fifos, data, cfg["fifo_size"])
    fifo_bind(tx_end(cfg, s), fifos + _FIFO_HEADER, data + cfg["fifo_size"], cfg["fifo_size"])
    slot = t.slot[s]
    slot["con"] = c
    slot["generation"] = t.con[c]["generation"]
    slot["used"] = 1
    slot["pieces"] = -1
    slot["closed"] = 0
    slot["note"] = 0
    slot["error"] = 0
    slot["listener"] = t.con[c]["listener"]
    t.con[c]["slot"] = s
    return s


@kernel
def slot_release(t, s):
    """Owner and transport are both done with it."""
    cfg = t.cfg[0]
    t.slot[s]["used"] = 0
    t.slot[s]["note"] = 0
    t.slots_free[cfg["slot_tail"] & cfg["slot_mask"]] = s
    cfg["slot_tail"] += 1


@kernel
def accepted(t, s):
    """The owner has taken a connection that came to a listener (or given it up): it no longer counts as waiting."""
    slot = t.slot[s]
    if slot["listener"] >= 0:
        t.lis[slot["listener"]]["waiting"] -= 1
        slot["listener"] = -1


@kernel
def note(t, s, bits):
    """Something for the owner of slot ``s``; nothing once the owner has closed."""
    slot = t.slot[s]
    if slot["closed"] != 0:
        return
    slot["note"] |= bits
    if slot["queued"] == 0:
        slot["queued"] = 1
        t.notes[t.cfg[0]["note_tail"] & t.cfg[0]["slot_mask"]] = s
        t.cfg[0]["note_tail"] += 1


@kernel
def take_note(t):
    """The next slot that has something for its owner, who takes and clears ``slot["note"]``; -1: none."""
    cfg = t.cfg[0]
    while cfg["note_head"] != cfg["note_tail"]:
        s = int(t.notes[cfg["note_head"] & cfg["slot_mask"]])
        cfg["note_head"] += 1
        t.slot[s]["queued"] = 0
        if t.slot[s]["note"] != 0 and t.slot[s]["used"] != 0:
            return s
    return -1


@kernel
def detach(t, c, error):
    """Connection ``c`` touches its slot no more; ``error`` (a positive errno) is for the owner, 0: all was well."""
    con = t.con[c]
    s = int(con["slot"])
    if s < 0:
        return
    con["slot"] = -1
    if con["closed_at"] > 0:
        t.close_hist[bucket_of(t.cfg[0]["now"] - con["closed_at"])] += 1
    pieces_drop(t, s)
    slot = t.slot[s]
    slot["con"] = -1
    if slot["closed"] != 0:
        slot_release(t, s)
        return
    if error != 0:
        slot["error"] = error
        note(t, s, NOTE_ERROR | NOTE_DONE)
    else:
        note(t, s, NOTE_DONE)


@kernel
def finish(t, c, error):
    """The connection is over, and its slot's owner hears of it."""
    detach(t, c, error)
    con_free(t, c)
