"""NewReno's window arithmetic (RFC 5681, 6582), in bytes; what other controls build on.

Promise: ``cwnd`` is at least a segment, ``ssthresh`` at least two after a loss, and neither grows by more than the
RFCs allow.

* The window does not grow when it is not what limits the sender (RFC 7661, RFC 9438 section 5.8). Asking "is as much
  in flight as the window allows?" at each acknowledgment would be wrong where acknowledgments come in vectors: the
  first ones of a vector empty the flight before anything new is sent. So the answer of a moment when the window was
  full holds for everything then in flight: ``cc5`` is the SND.NXT of that moment.
* Slow start counts bytes (RFC 3465), all of them: a receiver that works in vectors acknowledges a vector at once, and
  with a limit per ACK its senders would grow by so much a round trip instead of doubling.

Doubtful: one ACK for a whole window lets two windows go at once; pacing, not a limit, is the remedy.

Doubtful, too: ``FlightSize`` after limited transmit counts up to two segments that RFC 5681 section 3.2 step 2 leaves
out; taking the smaller of it and ``cwnd`` leaves them out whenever the window was full.
"""

from __future__ import annotations

import stackcore.native  # noqa: F401  (before any kernel)
from stackcore.kernel import kernel
from stackcore.tcp.state import LOSS

SSTHRESH_MAX = 1 << 40
"""'Arbitrarily high' (RFC 5681 section 3.1)."""


@kernel
def initial_window(mss):
    """RFC 6928 section 2: ten segments, 14600 bytes of larger ones, two at least."""
    return min(10 * mss, max(2 * mss, 14600))


@kernel
def flight(con):
    """FlightSize (RFC 5681 section 2), without what limited transmit sent beyond the window."""
    return min(int(con["snd_nxt"]) - int(con["snd_una"]), int(con["cwnd"]))


@kernel
def window_full(con, acked):
    """Was the window what held the sender back when the ``acked`` bytes were in flight?"""
    una = int(con["snd_una"])
    nxt = int(con["snd_nxt"])
    if nxt - una + acked + int(con["mss"]) > int(con["cwnd"]):
        con["cc5"] = nxt
        return True
    return una <= con["cc5"]


@kernel
def slow_start(con, acked):
    """Open the window by ``acked`` (RFC 5681 section 3.1), up to ``ssthresh``: the bytes left over."""
    cwnd = int(con["cwnd"])
    room = int(con["ssthresh"]) - cwnd
    used = min(acked, room)
    con["cwnd"] = cwnd + used
    return acked - used


@kernel
def init(con, now):
    """Where the caller has set no window: the initial one, and no threshold."""
    if con["cwnd"] <= 0:
        con["cwnd"] = initial_window(int(con["mss"]))
    if con["ssthresh"] <= 0:
        con["ssthresh"] = SSTHRESH_MAX
    con["cc0"] = 0
    con["cc1"] = 0
    con["cc2"] = 0
    con["cc3"] = 0
    con["cc4"] = 0
    con["cc5"] = 0


@kernel
def ack(con, acked, rtt, now):
    """Slow start, then a segment per window acknowledged (RFC 5681 section 3.1, counting bytes); ``cc0``: bytes counted."""
    if not window_full(con, acked):
        return
    if con["cwnd"] < con["ssthresh"]:
        acked = slow_start(con, acked)
        con["cc0"] = 0
    cwnd = int(con["cwnd"])
    count = int(con["cc0"]) + acked
    if count >= cwnd:
        count = min(count - cwnd, cwnd)
        con["cwnd"] = cwnd + int(con["mss"])
    con["cc0"] = count


@kernel
def reduce(con, kind, ssthresh):
    """Set ``ssthresh`` (two segments at least, equation 4 of RFC 5681) and the window that follows from it.

    After a timeout the window is a segment (the loss window), and ``ssthresh`` stays if the same segment has timed out before.
    """
    mss = int(con["mss"])
    if kind != LOSS:
        con["ssthresh"] = max(ssthresh, 2 * mss)
        con["cwnd"] = con["ssthresh"]
        return
    if con["backoff"] == 0:
        con["ssthresh"] = max(ssthresh, 2 * mss)
    con["cwnd"] = mss


@kernel
def loss(con, kind, now):
    """Half of what was in flight (RFC 5681 section 3.1, equation 4)."""
    reduce(con, kind, flight(con) >> 1)
    con["cc0"] = 0


@kernel
def recovered(con, now):
    """Leave fast recovery with a window that permits no burst: RFC 6582 section 3.2 step 3, option 1."""
    if con["recovery"] == LOSS:
        return  # slow start or congestion avoidance simply goes on
    mss = int(con["mss"])
    room = max(int(con["snd_nxt"]) - int(con["snd_una"]), mss) + mss
    con["cwnd"] = min(int(con["cwnd"]), int(con["ssthresh"]), room)


@kernel
def idle(con, now):
    """The restart window, RFC 5681 section 4.1."""
    con["cwnd"] = min(int(con["cwnd"]), initial_window(int(con["mss"])))
