"""The retransmit queue itself: a ring in the order of arrival, from which a policy takes.

``con["queue_at"]`` says where a connection's entry is: the position in the ring, or ``-2 - i`` for place ``i`` of the
deadline heap, so that one connection stands in the queue at most once and its entry can be removed without a search.
An entry is a copy of the handle: freeing the connection does not touch it.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.state import F_QUEUED


@kernel
def deadline_of(cfg, con):
    """Until when a retransmission is of use: the moment at which the connection is given up without progress."""
    if con["closed_at"] > 0:
        return con["progress_at"] + cfg["close_timeout"]
    return con["progress_at"] + cfg["retries"] * cfg["rto_max"]


@kernel
def enqueue(t, c):
    """Put connection ``c`` at the end; 0, or -1 when the queue is full (the timer tries again)."""
    cfg = t.cfg[0]
    con = t.con[c]
    if con["flags"] & F_QUEUED:
        return 0
    if cfg["queue_tail"] - cfg["queue_head"] > cfg["queue_mask"]:
        t.stat[0]["rxt_dropped"] += 1
        return -1
    at = cfg["queue_tail"]
    entry = t.queue[at & cfg["queue_mask"]]
    entry["con"] = c
    entry["generation"] = con["generation"]
    entry["at"] = cfg["now"]
    entry["deadline"] = deadline_of(cfg, con)
    con["queue_at"] = at & cfg["queue_mask"]
    con["flags"] |= F_QUEUED
    cfg["queue_tail"] += 1
    t.stat[0]["rxt_queued"] += 1
    depth = cfg["queue_tail"] - cfg["queue_head"] + cfg["heap_size"]
    if depth > t.stat[0]["rxt_depth_max"]:
        t.stat[0]["rxt_depth_max"] = depth
    return 0


@kernel
def remove(t, c):
    """Take connection ``c``'s entry out, wherever it is."""
    con = t.con[c]
    at = int(con["queue_at"])
    if at >= 0:
        t.queue[at]["con"] = -1
    else:
        t.heap[-2 - at]["con"] = -1
    con["flags"] &= ~F_QUEUED
    return 1


@kernel
def unmark(t, c, generation):
    """The entry was taken: if its connection is still the one that was meant, it may be queued again."""
    if t.con[c]["generation"] == generation:
        t.con[c]["flags"] &= ~F_QUEUED
        t.con[c]["queue_at"] = -1
