"""Recovery mode ``unchecked``: the entry's index is believed, as in VPP 18.10 to 19.04. The defect under test.

The deliberate exception to "the core never uses what it has not checked": a freed connection leads the pass to an
address outside of every mapping, a reused one makes it retransmit for a stranger.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.retransmit.queue import enqueue
from stackcore.tcp.retransmit.switches import RECOVERY

NAME = "unchecked"
RECOVERY.add(NAME, "the queue's index is believed: crashes, or retransmits for a stranger (VPP 19.04)")


@kernel
def program(t, c):
    return enqueue(t, c)


@kernel
def check(t, c, generation):
    return 1


@kernel
def forget(t, c):
    return 0
