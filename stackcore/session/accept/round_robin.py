"""Accept policy ``round-robin``: each listening worker in turn (VPP's app_listener_select_worker)."""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.registry import register
from stackcore.session.accept.common import may_take
from stackcore.session.switches import ACCEPT


@register(ACCEPT, "round-robin", "each listening worker in turn (VPP)")
@kernel
def choose(lis, wrk, li, key):
    last = int(lis[li]["rotor"])
    for step in range(1, len(wrk) + 1):
        i = (last + step) % len(wrk)
        if may_take(lis, wrk, li, i):
            lis[li]["rotor"] = i
            return i
    return -1
