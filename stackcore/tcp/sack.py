"""The sender's scoreboard of selective acknowledgments, and what RFC 6675 computes from it.

Promise: a board holds up to RANGES disjoint, non-adjacent ranges in ascending order, all within [SND.UNA, SND.NXT);
what a peer reports beyond that is cut off or ignored, so it cannot make the board wrong, only useless to itself.
``con["sacked"]`` is the number of bytes in it. A connection has a board only while something is in it:
``con["board"]`` -1 means an empty one. There are fewer boards than connections; who finds none left recovers as if
SACK had not been negotiated.

Names of RFC 6675 section 2 and 4: HighACK is SND.UNA, HighData SND.NXT, DupThresh 3. HighRxt and the ranges' right
edges are *exclusive* here: ``con["high_rxt"]`` is the octet after the last one retransmitted in this recovery (at
most SND.UNA: none), ``con["rescue"]`` below SND.UNA means that the rescue retransmission may be made. Whoever enters
a recovery sets ``high_rxt`` to SND.UNA, ``rescue`` to 0 and ``recover`` to SND.NXT (RFC 6582 section 3.2, 4); whoever
retransmits moves them on.

Two departures. After a timeout (LOSS) all that was outstanding counts as lost, up to ``recover`` (section 5.1 leaves
it open), and is sent again in order. And with an empty board fast recovery is NewReno's: the segment at SND.UNA, once
per partial acknowledgment (RFC 6582 section 3.2 step 3).

Doubtful: the ranges are looked at one by one, up to 32; a board is empty or short in nearly every connection.
"""

from __future__ import annotations

import stackcore.native  # noqa: F401  (before any kernel)
from stackcore.kernel import kernel
from stackcore.tcp.boards import board_give, board_take
from stackcore.tcp.state import FAST, LOSS, OPEN, RANGES

DUP_THRESH = 3
"""Duplicate acknowledgments, or as much evidence, that a segment is lost (RFC 5681 section 3.2, RFC 6675 section 2)."""


@kernel
def _left(board, i):
    """Left edge of range ``i``; so does ``_right``."""
    return int(board[1 + 2 * i])


@kernel
def _right(board, i):
    return int(board[2 + 2 * i])


@kernel
def sack_clear(t, c):
    """Forget everything, give the board back: the connection ends, or the peer has reneged (RFC 2018 section 8)."""
    b = int(t.con[c]["board"])
    t.con[c]["sacked"] = 0
    if b < 0:
        return
    board_give(t, b)
    t.con[c]["board"] = -1


@kernel
def _replace(board, first, after, left, right):
    """Put the range [left, right) in the place of ranges ``first`` to ``after`` - 1 (none if equal); there is room."""
    count = int(board[0])
    shift = 2 * (1 - (after - first))
    low = 1 + 2 * after
    high = 1 + 2 * count
    if shift > 0:
        for k in range(high - 1, low - 1, -1):
            board[k + shift] = board[k]
    elif shift < 0:
        for k in range(low, high):
            board[k + shift] = board[k]
    board[1 + 2 * first] = left
    board[2 + 2 * first] = right
    board[0] = count + (shift >> 1)


@kernel
def sack_add(t, c, left, right):
    """Note that the peer has [left, right) (64-bit numbers): how many bytes of it are news. 0, too, when the board is full."""
    con = t.con[c]
    left = max(left, int(con["snd_una"]))
    right = min(right, int(con["snd_nxt"]))
    if left >= right:
        return 0
    if con["board"] < 0:
        con["board"] = board_take(t)
        if con["board"] < 0:
            t.stat[0]["sack_ignored"] += 1
            return 0
    board = t.boards[int(con["board"])]
    count = int(board[0])
    first = 0
    while first < count and _right(board, first) < left:
        first += 1
    after = first
    known = 0
    while after < count and _left(board, after) <= right:  # ranges that touch it become one with it
        known += _right(board, after) - _left(board, after)
        after += 1
    if after == first and count == RANGES:
        t.stat[0]["sack_ignored"] += 1
        return 0
    if after > first:
        left = min(left, _left(board, first))
        right = max(right, _right(board, after - 1))
    _replace(board, first, after, left, right)
    news = right - left - known
    con["sacked"] += news
    return news


@kernel
def sack_ack(t, c):
    """SND.UNA has moved: forget what is below it, and the board when nothing is left."""
    con = t.con[c]
    if con["board"] < 0:
        return
    una = int(con["snd_una"])
    board = t.boards[int(con["board"])]
    count = int(board[0])
    gone = 0
    forgotten = 0
    while gone < count and _right(board, gone) <= una:
        forgotten += _right(board, gone) - _left(board, gone)
        gone += 1
    if gone == count:
        sack_clear(t, c)
        return
    if _left(board, gone) < una:
        forgotten += una - _left(board, gone)
        board[1 + 2 * gone] = una
    if gone > 0:
        for k in range(1 + 2 * gone, 1 + 2 * count):
            board[k - 2 * gone] = board[k]
        board[0] = count - gone
    con["sacked"] -= forgotten


@kernel
def sack_highest(t, c):
    """The octet after the highest one selectively acknowledged; SND.UNA when none is."""
    con = t.con[c]
    if con["board"] < 0:
        return int(con["snd_una"])
    board = t.boards[int(con["board"])]
    return _right(board, int(board[0]) - 1)


@kernel
def sack_lost(t, c, seq):
    """IsLost(seq), section 4: three ranges, or more than two segments' bytes, above ``seq`` have been acknowledged."""
    con = t.con[c]
    if con["board"] < 0:
        return False
    board = t.boards[int(con["board"])]
    above = 0
    total = 0
    for i in range(int(board[0]) - 1, -1, -1):
        if _right(board, i) <= seq + 1:
            break
        above += 1
        total += _right(board, i) - max(_left(board, i), seq + 1)
    return above >= DUP_THRESH or total > (DUP_THRESH - 1) * int(con["mss"])


@kernel
def _overlap(left, right, low, high):
    """How much of [left, right) lies in [low, high)."""
    return max(0, min(right, high) - max(left, low))


@kernel
def sack_pipe(t, c):
    """SetPipe(), section 4: bytes that are thought to be in the network."""
    con = t.con[c]
    una = int(con["snd_una"])
    if con["board"] < 0 and con["recovery"] != LOSS:
        return int(con["snd_nxt"]) - una  # FlightSize; what fast recovery retransmitted without SACK had left the network
    again = una  # [una, again) has been retransmitted
    given_up = una  # [again, given_up) was lost in a timeout
    recovery = int(con["recovery"])
    if recovery != OPEN:
        again = max(una, int(con["high_rxt"]))
    if recovery == LOSS:
        given_up = max(again, int(con["recover"]))
    pipe = 0
    above = 0
    total = 0
    right = int(con["snd_nxt"])
    b = int(con["board"])
    i = int(t.boards[b][0]) - 1 if b >= 0 else -1
    while True:  # over the gaps, from the highest down
        left = _right(t.boards[b], i) if i >= 0 else una
        lost = above >= DUP_THRESH or total > (DUP_THRESH - 1) * int(con["mss"])
        if not lost:
            pipe += _overlap(left, right, given_up, right)
        pipe += _overlap(left, right, una, again)
        if i < 0:
            return pipe
        right = _left(t.boards[b], i)
        total += left - right
        above += 1
        i -= 1


@kernel
def _next_without(con, high_rxt):
    """What to retransmit when nothing is known of the data above SND.UNA."""
    una = int(con["snd_una"])
    recovery = int(con["recovery"])
    if recovery == FAST and high_rxt > una:
        return 0, 0, 0
    end = int(con["snd_nxt"]) if recovery == FAST else min(int(con["recover"]), int(con["snd_nxt"]))
    length = min(end - high_rxt, int(con["mss"]))
    if recovery == OPEN or length <= 0:
        return 0, 0, 0
    return high_rxt, length, 1


@kernel
def _next_lost(con, board, high_rxt):
    """After a timeout: what comes next in order and was not acknowledged."""
    end = min(int(con["recover"]), int(con["snd_nxt"]))
    seq = high_rxt
    for i in range(int(board[0])):
        if _left(board, i) > seq:
            end = min(end, _left(board, i))
            break
        seq = max(seq, _right(board, i))
    length = min(end - seq, int(con["mss"]))
    if length <= 0:
        return 0, 0, 0
    return seq, length, 1


@kernel
def _rescue(con, board, high_rxt):
    """NextSeg() rule 4: the last segment of the highest gap, once in a recovery. The RFC would also send what was just
    retransmitted a second time, back to back; that is left to the timer."""
    una = int(con["snd_una"])
    if con["rescue"] >= una:
        return 0, 0, 0
    i = int(board[0]) - 1
    right = int(con["snd_nxt"])
    if _right(board, i) >= right:
        right = _left(board, i)
        i -= 1
    left = _right(board, i) if i >= 0 else una
    length = min(right - left, int(con["mss"]))
    if length <= 0 or right <= high_rxt:
        return 0, 0, 0
    return right - length, length, 4


@kernel
def sack_next(t, c):
    """NextSeg(), section 4, without rule 2: (seq, length, rule), at most a segment; rule 0 when there is nothing to retransmit.

    Rule 1 is for what is lost; 3 for what is not known to be, when there is no new data to send (rule 2, the caller's);
    4 is the rescue retransmission, after which ``con["rescue"]`` is set to ``recover`` and ``high_rxt`` stays.
    """
    con = t.con[c]
    high_rxt = max(int(con["high_rxt"]), int(con["snd_una"]))
    if con["board"] < 0:
        return _next_without(con, high_rxt)
    board = t.boards[int(con["board"])]
    if con["recovery"] == LOSS:
        return _next_lost(con, board, high_rxt)
    seq = high_rxt
    for i in range(int(board[0])):
        if _left(board, i) > seq:
            length = min(_left(board, i) - seq, int(con["mss"]))
            return seq, length, 1 if sack_lost(t, c, seq) else 3
        seq = max(seq, _right(board, i))
    return _rescue(con, board, high_rxt)
