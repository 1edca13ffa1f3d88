"""Queue policy ``drop-front``: in the order of arrival, but when there are too many, the oldest are dropped.

Who was dropped is not lost: its retransmission timer, or the next acknowledgment, programs it again. What has waited
longest is what the peer has most probably given up on, or will soon ask for again.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.retransmit.queue import unmark
from stackcore.tcp.retransmit.switches import POLICY

NAME = "drop-front"
POLICY.add(NAME, "when more than the limit wait (default: four budgets), the oldest are dropped")


@kernel
def begin(t):
    cfg = t.cfg[0]
    limit = cfg["queue_limit"] if cfg["queue_limit"] > 0 else 4 * cfg["budget"]
    while cfg["queue_tail"] - cfg["queue_head"] > limit:
        entry = t.queue[cfg["queue_head"] & cfg["queue_mask"]]
        cfg["queue_head"] += 1
        if entry["con"] >= 0:
            unmark(t, int(entry["con"]), int(entry["generation"]))
            t.stat[0]["rxt_dropped"] += 1
    return cfg["queue_tail"] - cfg["queue_head"]


@kernel
def take(t):
    cfg = t.cfg[0]
    at = cfg["queue_head"] & cfg["queue_mask"]
    cfg["queue_head"] += 1
    return at
