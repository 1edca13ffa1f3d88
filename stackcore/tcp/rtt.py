"""The retransmission timeout (RFC 6298).

Promise: integers only, in nanoseconds; ``con["rto"]`` is between ``cfg["rto_min"]`` and ``cfg["rto_max"]`` after each
call; ``con["srtt"]`` 0 means that nothing has been measured yet. Karn's rule (section 3: no sample from a segment
that was sent twice) is the caller's, who knows; timestamps lift it (RFC 7323 section 4).

The clock granularity G of the RFC is the timer wheel's tick. ``rto_min`` is below the RFC's one second (2.4) by
default, as in every stack of today. Doubtful: with timestamps every ACK is a sample, and the gains of section 2.3
then look back over a fraction of a window rather than over eight; RFC 7323 appendix G would weigh samples by their
number per window.
"""

from __future__ import annotations

import stackcore.native  # noqa: F401  (before any kernel)
from stackcore.kernel import kernel
from stackcore.tcp.state import TICK_SHIFT

GRANULARITY = 1 << TICK_SHIFT


@kernel
def rtt_sample(cfg, con, r):
    """Take in one round-trip time ``r`` (ns); computes the timeout anew, which undoes any backing off (section 5)."""
    srtt = int(con["srtt"])
    rttvar = int(con["rttvar"])
    if srtt == 0:  # 2.2
        srtt = r
        rttvar = r >> 1
    else:  # 2.3, in this order: the variance is about the old mean
        rttvar = (3 * rttvar + abs(srtt - r)) >> 2
        srtt = (7 * srtt + r) >> 3
    con["srtt"] = max(srtt, 1)
    con["rttvar"] = rttvar
    rto_measured(cfg, con)


@kernel
def rto_measured(cfg, con):
    """The timeout as the measurements so far have it, without any backing off: also when it was window probes that backed
    off (RFC 9293 section 3.8.6.1), which a closed window asks for and not a loss."""
    if con["srtt"] == 0:
        con["rto"] = cfg["rto_init"]
    else:
        rto = int(con["srtt"]) + max(GRANULARITY, 4 * int(con["rttvar"]))
        con["rto"] = min(max(rto, int(cfg["rto_min"])), int(cfg["rto_max"]))
    con["backoff"] = 0


@kernel
def rto_backoff(cfg, con):
    """The timer has expired: double the timeout, up to its maximum (5.5), and count it in ``con["backoff"]``."""
    con["rto"] = min(2 * int(con["rto"]), int(cfg["rto_max"]))
    con["backoff"] += 1
