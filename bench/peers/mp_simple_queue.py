"""multiprocessing.SimpleQueue: a pipe under two locks, pickled objects, no thread."""

from __future__ import annotations

import multiprocessing

from bench.peers.base import Adapter, Link, Receiver, Sender


class MpSimpleQueueAdapter(Adapter):
    name = "multiprocessing.SimpleQueue"
    objects = True
    kinds = frozenset({"single", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> _SimpleQueueLink:
        return _SimpleQueueLink()


class _SimpleQueueLink(Link):
    def __init__(self) -> None:
        self._queue = multiprocessing.get_context("fork").SimpleQueue()

    def sender(self) -> Sender:
        return Sender(self._queue.put, waits=True)

    def receiver(self) -> Receiver:
        empty, get = self._queue.empty, self._queue.get
        return Receiver(get, waits=True, poll=lambda: None if empty() else get(), wait=get)

    def close(self) -> None:
        self._queue.close()
