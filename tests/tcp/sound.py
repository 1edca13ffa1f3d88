"""What must hold in a stack's memory between any two calls, whatever happened before: nothing lost, nothing shared."""

from __future__ import annotations

from collections import Counter

import numpy as np

from stackcore.tcp import Host
from stackcore.tcp.state import CLOSED, ESTABLISHED, F_HALF_OPEN, F_QUEUED, TIMERS, WHEEL_SLOTS


def check_sound(host: Host) -> None:
    """AssertionError naming what does not fit."""
    check_connections(host)
    check_slots(host)
    check_boards(host)
    check_timers(host)
    check_numbers(host)


def living(host: Host) -> list[int]:
    """Connections in use."""
    t = host.tcp
    free = t.free[: int(t.cfg[0]["con_free"])].tolist()
    assert len(set(free)) == len(free), f"a connection is free twice: {sorted(free)}"
    return sorted(set(range(len(t.con))) - set(free))


def check_connections(host: Host) -> None:
    t, cfg = host.tcp, host.tcp.cfg[0]
    alive = living(host)
    for c in range(len(t.con)):
        assert (t.con[c]["state"] != CLOSED) == (c in alive), f"connection {c} is in state {t.con[c]['state']}"
    found = []
    for first in t.hash.tolist():
        while first >= 0:
            found.append(first)
            assert len(found) <= len(t.con), "a chain of the hash table goes round"
            first = int(t.con[first]["hash_next"])
    assert sorted(found) == alive, f"in the table: {sorted(found)}, in use: {alive}"
    half = [c for c in alive if t.con[c]["flags"] & F_HALF_OPEN]
    assert len(half) == cfg["half_open"] == cfg["reserved"] == t.lis["half_open"].sum()
    ready = [int(t.ready[i & cfg["con_mask"]]) for i in range(int(cfg["ready_head"]), int(cfg["ready_tail"]))]
    assert sorted(ready) == [c for c in range(len(t.con)) if t.con[c]["in_ready"]], "the ready queue and its marks differ"
    entries = [t.queue[i & cfg["queue_mask"]] for i in range(int(cfg["queue_head"]), int(cfg["queue_tail"]))]
    entries += list(t.heap[: int(cfg["heap_size"])])
    current = Counter(int(e["con"]) for e in entries if e["con"] >= 0 and t.con[e["con"]]["generation"] == e["generation"])
    assert dict(current) == {c: 1 for c in alive if t.con[c]["flags"] & F_QUEUED}, "the retransmit queue and its marks differ"


def check_slots(host: Host) -> None:
    t, cfg = host.tcp, host.tcp.cfg[0]
    free = [int(t.slots_free[i & cfg["slot_mask"]]) for i in range(int(cfg["slot_head"]), int(cfg["slot_tail"]))]
    assert len(set(free)) == len(free), f"a slot is free twice: {sorted(free)}"
    for s in range(len(t.slot)):
        slot = t.slot[s]
        assert (slot["used"] == 0) == (s in free), f"slot {s}: used {slot['used']}, free {sorted(free)}"
        if slot["used"] and slot["con"] >= 0:
            con = t.con[slot["con"]]
            assert con["slot"] == s and con["generation"] == slot["generation"], f"slot {s} and its connection disagree"
    for c in living(host):
        s = int(t.con[c]["slot"])
        assert s < 0 or (t.slot[s]["used"] and t.slot[s]["con"] == c), f"connection {c} has slot {s}, which has another"
    owned = set(host.sockets)
    open_slots = {s for s in range(len(t.slot)) if t.slot[s]["used"] and not t.slot[s]["closed"]}
    assert owned == open_slots, f"sockets on {sorted(owned)}, slots that nobody closed: {sorted(open_slots)}"
    for li, listener in host.listeners.items():
        assert t.lis[li]["waiting"] == len(listener._waiting) <= t.lis[li]["backlog"], "who waits to be accepted"


def check_boards(host: Host) -> None:
    t = host.tcp
    lent = [int(t.con[c]["board"]) for c in living(host)] + t.slot["pieces"][t.slot["used"] != 0].tolist()
    lent = [board for board in lent if board >= 0]
    free = t.boards_free[: int(t.cfg[0]["board_free"])].tolist()
    assert sorted(lent + free) == list(range(len(t.boards))), f"boards lent {sorted(lent)}, free {len(free)}"


def check_timers(host: Host) -> None:
    t = host.tcp
    linked = []
    used = np.flatnonzero(t.wheel >= 0)
    marked = [32 * int(word) + i for word in np.flatnonzero(t.wheel_map) for i in range(32) if int(t.wheel_map[word]) >> i & 1]
    assert used.tolist() == marked, "the map of the wheel is wrong"
    for slot in marked:
        timer, before = int(t.wheel[slot]), -1
        while timer >= 0:
            assert t.tmr[timer]["prev"] == before and t.tmr[timer]["due"] & (WHEEL_SLOTS - 1) == slot
            linked.append(timer)
            before, timer = timer, int(t.tmr[timer]["next"])
    assert sorted(linked) == [i for i in range(len(t.tmr)) if t.tmr[i]["due"] >= 0], "timers and wheel differ"
    running = {i // TIMERS for i in range(len(t.tmr)) if t.tmr[i]["expiry"]}
    assert running <= set(living(host)), "a timer of a connection that is over runs"


def check_numbers(host: Host) -> None:
    t = host.tcp
    for c in living(host):
        con = t.con[c]
        assert con["iss"] <= con["snd_una"] <= con["snd_nxt"], f"connection {c} sends nonsense"
        if con["state"] >= ESTABLISHED:
            assert con["cwnd"] >= con["mss"] >= 64, f"connection {c}: a window of {con['cwnd']}, segments of {con['mss']}"
            assert 0 <= con["sacked"] <= con["snd_nxt"] - con["snd_una"]
            assert con["rto"] >= t.cfg[0]["rto_min"]
