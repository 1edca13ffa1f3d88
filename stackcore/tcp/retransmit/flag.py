"""Recovery mode ``flag``: no queue; a flag in the connection and an ordinary event for the output node (VPP since 19.08).

The event is checked as every other: an index whose connection has nothing to send is passed over.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.ready import ready
from stackcore.tcp.retransmit.switches import RECOVERY
from stackcore.tcp.state import F_RXT

NAME = "flag"
RECOVERY.add(NAME, "no queue: a flag in the connection and an ordinary output event (VPP since 19.08)")


@kernel
def program(t, c):
    t.con[c]["flags"] |= F_RXT
    ready(t, c)
    return 0


@kernel
def check(t, c, generation):
    return 0


@kernel
def forget(t, c):
    return 0
