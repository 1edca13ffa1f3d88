"""multiprocessing.Queue: a pipe under locks, a feeder thread, pickled objects."""

from __future__ import annotations

import multiprocessing

from bench.peers.base import Adapter
from bench.peers.object_queue import QueueLink
from shmq.measure import slots


class MpQueueAdapter(Adapter):
    name = "multiprocessing.Queue"
    objects = True
    kinds = frozenset({"single", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> QueueLink:
        return QueueLink(multiprocessing.get_context("fork").Queue(slots(size)))
