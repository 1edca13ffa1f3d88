"""Congestion control ``cubic`` (RFC 9438).

Promise: the window follows W_cubic(t) = C (t - K)^3 + W_max of section 4.2, but not less than Reno would have (4.3),
never more than half again per round trip, and shrinks by beta = 0.7 (4.6) with fast convergence (4.7). Time that the
application did not fill does not count (5.8): the clock of the epoch stands still meanwhile. Slow start is Reno's,
where section 4.10 prefers HyStart++. Bytes and nanoseconds throughout.

Arithmetic is float64 with +, -, *, / only, all correctly rounded, so that compiled and interpreted agree to the last
bit; the cube root is Newton's for the same reason. The increment of an ACK is rounded down to bytes: below 1/cwnd of
the window it waits until the target is further away.

The epoch begins with the first ACK in congestion avoidance. After a timeout, or without any loss before, W_max is the
window then and K is 0 (4.8, 4.10). Not here: 4.9, undoing a spurious loss.

cc0 W_max (bytes); cc1 start of the epoch (ns), 0 none, negative: -1 - (how far it had come when it stopped); cc2 K
(ns); cc3 W_est (1/1024 bytes); cc4 cwnd_prior (bytes); cc5 see :func:`stackcore.tcp.congestion.reno.window_full`.
"""

from __future__ import annotations

import stackcore.native  # noqa: F401  (before any kernel)
from stackcore.kernel import kernel
from stackcore.tcp.congestion import reno
from stackcore.tcp.congestion.control import CongestionControl
from stackcore.tcp.congestion.reno import flight, reduce, slow_start, window_full
from stackcore.tcp.state import LOSS

C = 0.4
"""Segments per second cubed (section 5.1)."""
BETA_TENTHS = 7
"""beta_cubic, section 4.6."""
ALPHA_UP, ALPHA_DOWN = 9, 17
"""alpha_cubic = 3 (1 - beta) / (1 + beta), section 4.3: as fair to Reno as beta allows."""
SECOND = 1_000_000_000.0


@kernel
def cube_root(x):
    """The cube root of a float not below 0, to within rounding of Newton's last step."""
    if x <= 0.0:
        return 0.0
    y = 1.0
    while y * y * y < x:
        y *= 2.0
    while True:  # from above, where Newton's steps only go down
        z = (2.0 * y + x / (y * y)) / 3.0
        if z >= y:
            return y
        y = z


@kernel
def w_cubic(con, t):
    """The window (bytes, a float) at ``t`` ns of the epoch, equation 1."""
    away = (t - int(con["cc2"])) / SECOND
    return C * away * away * away * int(con["mss"]) + int(con["cc0"])


@kernel
def _begin_epoch(con, now):
    cwnd = int(con["cwnd"])
    if con["cc0"] < cwnd:
        con["cc0"] = cwnd
    con["cc1"] = now
    con["cc2"] = int(SECOND * cube_root((int(con["cc0"]) - cwnd) / (C * int(con["mss"]))))  # equation 2
    con["cc3"] = cwnd << 10
    if con["cc4"] == 0:
        con["cc4"] = cwnd


@kernel
def _reno_estimate(con, acked):
    """Advance W_est (equation 4) and return it in bytes; at cwnd_prior it goes on as Reno itself."""
    w_est = int(con["cc3"])
    gain = (acked * int(con["mss"]) << 10) // int(con["cwnd"])
    if w_est >> 10 < con["cc4"]:
        gain = gain * ALPHA_UP // ALPHA_DOWN
    con["cc3"] = w_est + gain
    return (w_est + gain) >> 10


@kernel
def _stop_clock(con, now):
    epoch = int(con["cc1"])
    if epoch > 0:
        con["cc1"] = -1 - (now - epoch)


@kernel
def ack(con, acked, rtt, now):
    if not window_full(con, acked):
        _stop_clock(con, now)
        return
    if con["cwnd"] < con["ssthresh"]:
        acked = slow_start(con, acked)
        if acked == 0:
            return
    if con["cc1"] == 0:
        _begin_epoch(con, now)
    elif con["cc1"] < 0:
        con["cc1"] += now + 1
    cwnd = int(con["cwnd"])
    t = now - int(con["cc1"])
    w_est = _reno_estimate(con, acked)
    if w_cubic(con, t) < w_est:  # the Reno-friendly region
        con["cwnd"] = max(cwnd, w_est)
        return
    target = max(1.0 * cwnd, min(1.5 * cwnd, w_cubic(con, t + int(con["srtt"]))))
    con["cwnd"] = cwnd + int((target - cwnd) * min(acked, cwnd) / cwnd)


@kernel
def loss(con, kind, now):
    if kind != LOSS or con["backoff"] == 0:
        cwnd = int(con["cwnd"])
        con["cc4"] = cwnd
        if cwnd < con["cc0"]:
            con["cc0"] = cwnd * (10 + BETA_TENTHS) // 20  # fast convergence
        else:
            con["cc0"] = cwnd
    if kind == LOSS:
        con["cc0"] = 0
    con["cc1"] = 0
    reduce(con, kind, flight(con) * BETA_TENTHS // 10)


@kernel
def idle(con, now):
    """The restart window; the epoch's clock stands still until the window is full again."""
    reno.idle(con, now)
    _stop_clock(con, now)


CONTROL = CongestionControl("cubic", "CUBIC (RFC 9438)", ack=ack, loss=loss, idle=idle)
