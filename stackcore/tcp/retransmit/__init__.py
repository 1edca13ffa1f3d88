"""D1: what the core does about a retransmission that is still queued when its connection is gone.

A connection that has to retransmit is *programmed*; the retransmit pass of a later dispatch sends for it, at most
``budget`` segments in all, and what is over budget waits. Meanwhile the connection can be freed without the queue being
told. Each recovery mode is a file with three kernels:

* ``program(t, c)``: connection ``c`` wants to retransmit (called at most once until it was served);
* ``check(t, c, generation)``: may the pass serve this queue entry? 1 or 0;
* ``forget(t, c)``: ``c`` is being freed while it is queued.

A queue policy (``--retransmit-policy``) is a file with ``insert`` and ``take``, see :mod:`stackcore.tcp.retransmit.queue`.
"""

from __future__ import annotations

from stackcore.kernel import compose
from stackcore.tcp.retransmit import (  # in the order of their values
    flag,
    generation,
    purge,
    state_aware,
    unchecked,
)

_MODES = [m.__name__ for m in (unchecked, state_aware, generation, purge, flag)]

program = compose("program", [(m, "program") for m in _MODES], "t, c")
check = compose("check", [(m, "check") for m in _MODES], "t, c, generation")
forget = compose("forget", [(m, "forget") for m in _MODES], "t, c")
