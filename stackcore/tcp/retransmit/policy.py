"""The queue policies, composed: ``begin(policy, t)`` and ``take(policy, t)``."""

from __future__ import annotations

from stackcore.kernel import compose
from stackcore.tcp.retransmit import drop_front, earliest_deadline, fifo
from stackcore.tcp.retransmit.switches import POLICY

_POLICIES = sorted((drop_front, earliest_deadline, fifo), key=lambda policy: POLICY[policy.NAME].value)
"""In the order of their values: by those a composed kernel branches."""

begin = compose("begin", [(m.__name__, "begin") for m in _POLICIES], "t")
take = compose("take", [(m.__name__, "take") for m in _POLICIES], "t")
