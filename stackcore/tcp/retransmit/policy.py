"""The queue policies, composed: ``begin(policy, t)`` and ``take(policy, t)``."""

from __future__ import annotations

from stackcore.kernel import compose
from stackcore.tcp.retransmit import drop_front, earliest_deadline, fifo  # in the order of their values

_POLICIES = [m.__name__ for m in (fifo, drop_front, earliest_deadline)]

begin = compose("begin", [(m, "begin") for m in _POLICIES], "t")
take = compose("take", [(m, "take") for m in _POLICIES], "t")
