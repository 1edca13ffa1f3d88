"""A congestion control in plain Python, compiled into the stack's loop when it is loaded:

    --plugin examples.stackcore.half:HALF --cc half

AIMD with alpha 1/2 and beta 5/7, as fair to Reno as any pair with alpha = 3 (1 - beta) / (1 + beta) (RFC 9438 section 4.3),
with smaller teeth.
"""

from stackcore.tcp.congestion import CongestionControl
from stackcore.tcp.congestion.reno import flight, reduce, slow_start, window_full


def ack(con, acked, rtt, now):
    if not window_full(con, acked):
        return
    if con["cwnd"] < con["ssthresh"]:
        acked = slow_start(con, acked)
    con["cc0"] += acked
    if con["cc0"] >= 2 * con["cwnd"]:  # two windows for a segment
        con["cc0"] = 0
        con["cwnd"] += con["mss"]


def loss(con, kind, now):
    reduce(con, kind, flight(con) * 5 // 7)


HALF = CongestionControl("half", "AIMD(1/2, 5/7): Reno's share with smaller teeth", ack=ack, loss=loss)
