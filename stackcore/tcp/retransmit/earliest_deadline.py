"""Queue policy ``earliest-deadline``: the shortest remaining lifetime first.

What arrived since the last pass is moved into a binary heap by deadline; what a pass queues anew waits in the ring, so a
connection that cannot send now does not come first again in the same pass.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.retransmit.switches import POLICY

NAME = "earliest-deadline"
POLICY.add(NAME, "the shortest remaining lifetime first")


@kernel
def put(t, i, con, generation, at, deadline):
    """Write an entry to place ``i`` of the heap, and let its connection know."""
    entry = t.heap[i]
    entry["con"] = con
    entry["generation"] = generation
    entry["at"] = at
    entry["deadline"] = deadline
    if con >= 0 and t.con[con]["generation"] == generation:
        t.con[con]["queue_at"] = -2 - i


@kernel
def move(t, source, target):
    e = t.heap[source]
    put(t, target, int(e["con"]), int(e["generation"]), int(e["at"]), int(e["deadline"]))


@kernel
def push(t, con, generation, at, deadline):
    i = t.cfg[0]["heap_size"]
    t.cfg[0]["heap_size"] += 1
    while i > 0 and t.heap[(i - 1) // 2]["deadline"] > deadline:
        move(t, (i - 1) // 2, i)
        i = (i - 1) // 2
    put(t, i, con, generation, at, deadline)


@kernel
def begin(t):
    cfg = t.cfg[0]
    while cfg["queue_head"] != cfg["queue_tail"] and cfg["heap_size"] < len(t.heap):
        e = t.queue[cfg["queue_head"] & cfg["queue_mask"]]
        cfg["queue_head"] += 1
        if e["con"] >= 0:
            push(t, int(e["con"]), int(e["generation"]), int(e["at"]), int(e["deadline"]))
    return cfg["heap_size"]


@kernel
def take(t):
    """``-2 - i``: place ``i`` of ``t.heap``, one behind the heap's new end."""
    cfg = t.cfg[0]
    cfg["heap_size"] -= 1
    last = cfg["heap_size"]
    top = t.heap[0]
    con, generation, at, deadline = int(top["con"]), int(top["generation"]), int(top["at"]), int(top["deadline"])
    e = t.heap[last]
    moved, moved_generation, moved_at, moved_deadline = int(e["con"]), int(e["generation"]), int(e["at"]), int(e["deadline"])
    i = 0
    while True:
        child = 2 * i + 1
        if child + 1 < last and t.heap[child + 1]["deadline"] < t.heap[child]["deadline"]:
            child += 1
        if child >= last or t.heap[child]["deadline"] >= moved_deadline:
            break
        move(t, child, i)
        i = child
    if last > 0:
        put(t, i, moved, moved_generation, moved_at, moved_deadline)
    put(t, last, con, generation, at, deadline)
    return -2 - last
