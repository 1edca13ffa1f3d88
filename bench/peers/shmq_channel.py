"""shmq.Channel: messages of variable length, single producer and consumer."""

from __future__ import annotations

from bench.peers.base import Adapter
from shmq.benchmark import ChannelLink


class ShmqChannelAdapter(Adapter):
    name = "shmq.Channel"
    role = "shmq"
    kinds = ChannelLink.kinds

    def link(self, size: int, kind: str) -> ChannelLink:
        return ChannelLink(size)
