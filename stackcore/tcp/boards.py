"""The pool of boards: lists of up to RANGES ranges, for connections with a gap in what they have sent or received.

A sender needs one for what its peer reports by SACK (:mod:`stackcore.tcp.sack`), a receiver for the pieces that arrived
ahead of the stream (:mod:`stackcore.tcp.pieces`). Most connections need neither at most times, so boards are lent: an idle
connection costs none. When none is left, a sender does as if there were no SACK, and a receiver takes data in order only.
"""

from __future__ import annotations

import stackcore.native  # noqa: F401  (before any kernel)
from stackcore.kernel import kernel


@kernel
def board_take(t):
    """An empty board; -1: all are lent."""
    left = int(t.cfg[0]["board_free"])
    if left == 0:
        return -1
    t.cfg[0]["board_free"] = left - 1
    b = int(t.boards_free[left - 1])
    t.boards[b][0] = 0
    return b


@kernel
def board_give(t, b):
    """Board ``b`` is no longer needed."""
    left = int(t.cfg[0]["board_free"])
    t.boards_free[left] = b
    t.cfg[0]["board_free"] = left + 1
