"""What arrived ahead of the stream: bytes at their final place in the rx fifo, and a list of where they are.

The list is a ``shmq_fifo_ahead``, private to the stack, in a board of the pool that it is lent while there are pieces.
Positions in it are those of the fifo: 0 is the first byte of the stream, sequence number IRS + 1.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.native import fifo_room, fifo_write, fifo_write_at, load32
from stackcore.tcp.boards import board_give, board_take
from stackcore.tcp.state import BOARD_WORDS

BOARD_BYTES = 8 * BOARD_WORDS
"""A board is as large as ``sizeof(shmq_fifo_ahead)``: a count, and 32 pairs of 64-bit positions."""


@kernel
def pieces_at(t, s):
    """Address of the list of slot ``s``; 0: it has no pieces."""
    b = int(t.slot[s]["pieces"])
    return t.cfg[0]["boards_at"] + b * BOARD_BYTES if b >= 0 else 0


@kernel
def pieces_count(t, s):
    """Separate pieces ahead of the stream of slot ``s``."""
    at = pieces_at(t, s)
    return load32(at) if at != 0 else 0


@kernel
def pieces_drop(t, s):
    """Forget the pieces of slot ``s``."""
    b = int(t.slot[s]["pieces"])
    if b >= 0:
        board_give(t, b)
        t.slot[s]["pieces"] = -1


@kernel
def put_bytes(t, s, end, offset, at, n):
    """Copy ``n`` bytes from address ``at`` into the rx fifo of slot ``s`` (``end``: its writer's), ``offset`` behind what is
    there without a gap. How many were kept; negative when there is no place for one more piece."""
    if t.slot[s]["pieces"] < 0:
        if offset == 0:
            return fifo_write(end, at, n)
        if fifo_room(end, offset + 1) <= offset:
            return 0
        t.slot[s]["pieces"] = board_take(t)
        if t.slot[s]["pieces"] < 0:
            return -1
    kept = fifo_write_at(end, pieces_at(t, s), offset, at, n)
    if pieces_count(t, s) == 0:
        pieces_drop(t, s)
    return kept
