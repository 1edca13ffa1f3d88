"""The queue of connections with something to send: an index stands in it at most once, whoever it belongs to by then."""

from __future__ import annotations

from stackcore.kernel import kernel


@kernel
def ready(t, c):
    """Let the output node look at connection ``c``."""
    if t.con[c]["in_ready"] == 0:
        t.con[c]["in_ready"] = 1
        t.ready[t.cfg[0]["ready_tail"] & t.cfg[0]["con_mask"]] = c
        t.cfg[0]["ready_tail"] += 1
