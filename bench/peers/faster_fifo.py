"""faster-fifo: pickled objects in a circular buffer under a process-shared mutex; batches on both sides."""

from __future__ import annotations

from bench.peers.base import Adapter, load
from bench.peers.object_queue import QueueLink
from shmq.measure import slots


class FasterFifoAdapter(Adapter):
    name = "faster-fifo"
    objects = True
    package = "faster-fifo"
    module = "faster_fifo"
    kinds = frozenset({"single", "batch", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> QueueLink:
        faster_fifo = load("faster_fifo")

        # Messages are bytes already: without pickling it is measured at its best.
        return QueueLink(faster_fifo.Queue(slots(size) * (size + 64), loads=bytes, dumps=bytes), many=True)
