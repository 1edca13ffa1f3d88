"""The state machine of RFC 9293 (figure 5 and section 3.10) as a table: the code asks it, the diagram is drawn from it.

LISTEN is a state of listeners, not of connections: a SYN for a listener makes a connection that is in SYN-RECEIVED from
its first moment. A CLOSE enters FIN-WAIT-1 (or LAST-ACK) at once, as section 3.10.4 says; the FIN follows the last byte
that the owner has written. A FIN that comes together with the ACK of ours passes through FIN-WAIT-2 into TIME-WAIT.
"""

from __future__ import annotations

import numpy as np

from stackcore.tcp.state import (
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    LISTEN,
    SYN_RCVD,
    SYN_SENT,
    TIME_WAIT,
)

EVENTS = (
    "passive OPEN", "active OPEN", "rcv SYN", "rcv SYN,ACK", "rcv ACK of SYN", "CLOSE", "rcv FIN", "rcv ACK of FIN",
    "rcv RST", "ABORT", "timeout",
)  # fmt: skip
(
    E_PASSIVE_OPEN, E_ACTIVE_OPEN, E_SYN, E_SYN_ACK, E_ACK_OF_SYN, E_CLOSE, E_FIN, E_ACK_OF_FIN, E_RST, E_ABORT,
    E_TIMEOUT,
) = range(len(EVENTS))  # fmt: skip

TRANSITIONS: list[tuple[int, int, int]] = [
    (CLOSED, E_PASSIVE_OPEN, LISTEN),
    (CLOSED, E_ACTIVE_OPEN, SYN_SENT),
    (LISTEN, E_SYN, SYN_RCVD),
    (LISTEN, E_CLOSE, CLOSED),
    (SYN_SENT, E_SYN, SYN_RCVD),
    (SYN_SENT, E_SYN_ACK, ESTABLISHED),
    (SYN_SENT, E_CLOSE, CLOSED),
    (SYN_RCVD, E_ACK_OF_SYN, ESTABLISHED),
    (SYN_RCVD, E_CLOSE, FIN_WAIT_1),
    (SYN_RCVD, E_FIN, CLOSE_WAIT),
    (ESTABLISHED, E_CLOSE, FIN_WAIT_1),
    (ESTABLISHED, E_FIN, CLOSE_WAIT),
    (FIN_WAIT_1, E_ACK_OF_FIN, FIN_WAIT_2),
    (FIN_WAIT_1, E_FIN, CLOSING),
    (FIN_WAIT_2, E_FIN, TIME_WAIT),
    (CLOSE_WAIT, E_CLOSE, LAST_ACK),
    (CLOSING, E_ACK_OF_FIN, TIME_WAIT),
    (LAST_ACK, E_ACK_OF_FIN, CLOSED),
    (TIME_WAIT, E_TIMEOUT, CLOSED),
    *[
        (state, event, CLOSED)
        for state in (SYN_SENT, SYN_RCVD, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT, CLOSING, LAST_ACK)
        for event in (E_RST, E_ABORT, E_TIMEOUT)
    ],
]
"""(state, event, next state). Every pair that is not listed leaves the state as it is."""

NEXT = np.repeat(np.arange(11, dtype="i8")[:, None], len(EVENTS), axis=1)
"""int64[state, event]: the next state."""
for _state, _event, _next in TRANSITIONS:
    NEXT[_state, _event] = _next
NEXT.flags.writeable = False
