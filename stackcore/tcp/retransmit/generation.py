"""Recovery mode ``generation``: the entry holds a handle; when index and generation do not both fit, it is dropped."""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.retransmit.queue import enqueue
from stackcore.tcp.retransmit.switches import RECOVERY

NAME = "generation"
RECOVERY.add(NAME, "entries whose generation is not the connection's are dropped")


@kernel
def program(t, c):
    return enqueue(t, c)


@kernel
def check(t, c, generation):
    return 1 if t.con[c]["generation"] == generation else 0


@kernel
def forget(t, c):
    return 0
