"""Queue policy ``fifo``: in the order of arrival."""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.retransmit.switches import POLICY

NAME = "fifo"
POLICY.add(NAME, "in the order of arrival")


@kernel
def begin(t):
    """Before a pass: how many entries it may take."""
    return t.cfg[0]["queue_tail"] - t.cfg[0]["queue_head"]


@kernel
def take(t):
    """Take one entry out: its place in ``t.queue``, where it stays readable until the queue has gone round."""
    cfg = t.cfg[0]
    at = cfg["queue_head"] & cfg["queue_mask"]
    cfg["queue_head"] += 1
    return at
