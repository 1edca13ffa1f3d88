"""Recovery mode ``state-aware``: the entry is dropped unless its connection lives and has something to recover.

The outline's fix, a packet-drop policy for the local retransmit queue. It looks at the connection, not at the handle: when
the index belongs to somebody else by now who is in recovery, too, that one is served. Then a stranger's segment goes out
that the stranger would have sent anyway, a little later: harmless, counted.
"""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.tcp.retransmit.queue import enqueue
from stackcore.tcp.retransmit.switches import RECOVERY
from stackcore.tcp.state import CLOSED, OPEN

NAME = "state-aware"
RECOVERY.add(NAME, "entries of connections that are closed, or recover nothing, are dropped (the outline)")


@kernel
def program(t, c):
    return enqueue(t, c)


@kernel
def check(t, c, generation):
    con = t.con[c]
    return 1 if con["state"] != CLOSED and con["recovery"] != OPEN else 0


@kernel
def forget(t, c):
    return 0
