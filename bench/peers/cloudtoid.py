"""cloudtoid-interprocess: a byte queue in a shared file, messages of any length, lossless; batches on the sending side."""

from __future__ import annotations

from bench.peers.base import Adapter, FolderLink, Receiver, Sender, load
from shmq.measure import slots


class CloudtoidAdapter(Adapter):
    name = "cloudtoid-interprocess"
    package = "cloudtoid-interprocess"
    module = "cloudtoid_interprocess"
    kinds = frozenset({"single", "batch", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> _CloudtoidLink:
        return _CloudtoidLink(size)


class _CloudtoidLink(FolderLink):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._capacity = slots(size) * (size + 16)

    def sender(self) -> Sender:
        Publisher = load("cloudtoid_interprocess").Publisher

        end = Publisher("messages", self._capacity, self.folder)
        return Sender(end.try_send, send_batch=end.try_send_batch, close=end.close)

    def receiver(self) -> Receiver:
        Subscriber = load("cloudtoid_interprocess").Subscriber

        end = Subscriber("messages", self._capacity, self.folder)
        receive = end.try_receive

        def receive_batch(most: int) -> list[bytes]:  # it has none of its own
            message = receive()
            return [] if message is None else [message]

        return Receiver(receive, wait=end.receive, receive_batch=receive_batch, close=end.close)
