"""Recovery mode ``purge``: a connection that is freed takes its entry along; what is in the queue is alive."""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.retransmit.queue import enqueue, remove
from stackcore.tcp.retransmit.switches import RECOVERY

NAME = "purge"
RECOVERY.add(NAME, "freeing a connection removes its entry")


@kernel
def program(t, c):
    return enqueue(t, c)


@kernel
def check(t, c, generation):
    return 1


@kernel
def forget(t, c):
    t.stat[0]["purges"] += 1
    return remove(t, c)
