"""shmq.Ring: fixed-size records, single producer and consumer."""

from __future__ import annotations

from bench.peers.base import Adapter
from shmq.benchmark import RingLink


class ShmqRingAdapter(Adapter):
    name = "shmq.Ring"
    role = "shmq"
    kinds = RingLink.kinds

    def link(self, size: int, kind: str) -> RingLink:
        return RingLink(size)
