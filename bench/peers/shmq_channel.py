"""shmq.Channel: messages of variable length, single producer and consumer."""

from __future__ import annotations

import shmq
from bench.peers.base import Adapter
from shmq.benchmark import ChannelLink


class ShmqChannelAdapter(Adapter):
    name = "shmq.Channel"
    role = "shmq"
    kinds = ChannelLink.kinds

    def link(self, size: int, kind: str) -> ChannelLink:
        return ChannelLink(size)

    def missing(self) -> str | None:
        return None if hasattr(shmq, "Channel") else "this version of shmq has no Channel"
