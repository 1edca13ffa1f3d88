"""Accept policy ``hash``: the peer's address decides, as SO_REUSEPORT does without a BPF program."""

from __future__ import annotations

from stackcore.kernel import kernel
from stackcore.registry import register
from stackcore.session.accept.common import may_take
from stackcore.session.switches import ACCEPT


@register(ACCEPT, "hash", "by a hash of the peer's address, as SO_REUSEPORT")
@kernel
def choose(lis, wrk, li, key):
    able = 0
    for i in range(len(wrk)):
        if may_take(lis, wrk, li, i):
            able += 1
    if able == 0:
        return -1
    mixed = (key * 0x9E3779B1) & 0xFFFFFFFF
    place = (mixed >> 16) % able
    for i in range(len(wrk)):
        if may_take(lis, wrk, li, i):
            if place == 0:
                return i
            place -= 1
    return -1
