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
from stackcore.tcp.retransmit import flag, generation, purge, state_aware, unchecked
from stackcore.tcp.retransmit.switches import RECOVERY

_MODES = sorted((flag, generation, purge, state_aware, unchecked), key=lambda mode: RECOVERY[mode.NAME].value)
"""In the order of their values: by those a composed kernel branches."""

program = compose("program", [(m.__name__, "program") for m in _MODES], "t, c")
check = compose("check", [(m.__name__, "check") for m in _MODES], "t, c, generation")
forget = compose("forget", [(m.__name__, "forget") for m in _MODES], "t, c")
