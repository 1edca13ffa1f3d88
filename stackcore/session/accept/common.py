"""What all accept policies ask."""

from __future__ import annotations

from stackcore.abi import abi
from stackcore.kernel import kernel

_ATTACHED = abi.WORKER_ATTACHED


@kernel
def may_take(lis, wrk, li, worker):
    """True when ``worker`` listens on listener ``li``, lives, and is not congested."""
    return (
        (lis[li]["listening"] >> worker) & 1 == 1
        and wrk[worker]["state"] == _ATTACHED
        and wrk[worker]["congested"] == 0
    )
