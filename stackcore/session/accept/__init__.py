"""Accept policies, one file each: kernels ``choose(lis, wrk, li, key) -> worker or -1``.

``lis[li]["listening"]`` has bit i set when worker i listens; ``key`` is a hash of the peer's address. A policy skips
workers that are not attached or congested (:func:`stackcore.session.accept.common.may_take`).
"""

from __future__ import annotations

from stackcore.kernel import compose
from stackcore.session.accept import hash_, round_robin  # in the order of their values

choose = compose("choose", [(m.__name__, "choose") for m in (hash_, round_robin)], "lis, wrk, li, key")
