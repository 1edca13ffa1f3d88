"""shmq.Queue: Python objects, many producers and consumers."""

from __future__ import annotations

import shmq
from bench.peers.base import Adapter
from bench.peers.object_queue import QueueLink
from shmq.measure import slots


class ShmqQueueAdapter(Adapter):
    name = "shmq.Queue"
    objects = True
    role = "shmq"
    kinds = frozenset({"single", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> QueueLink:
        return QueueLink(shmq.Queue(slots(size)))
