"""subetha-ipc: `SpscRing` of 64-byte slots (a shorter message comes out padded with zeros), and `Channel`, which can wait."""

from __future__ import annotations

from typing import Any

from bench.peers.base import Adapter, FolderLink, Receiver, Sender, load
from shmq.measure import slots

_SLOT = 64
_SLEEPING = ("blocking", "idle")


class SubethaAdapter(Adapter):
    name = "subetha-ipc"
    package = "subetha-ipc"
    module = "subetha"
    kinds = frozenset({"single", "batch", "array", "busy", "blocking", "idle"})
    largest = 52

    def link(self, size: int, kind: str) -> FolderLink:
        return _ChannelLink(size) if kind in _SLEEPING else _RingLink(size)

    def as_received(self, message: bytes, kind: str) -> bytes:
        return message if kind in _SLEEPING else message.ljust(_SLOT, b"\0")


class _RingLink(FolderLink):
    def __init__(self, size: int) -> None:
        subetha = load("subetha")

        super().__init__()
        self._size, self._path = size, f"{self.folder}/ring"
        self._made: Any = subetha.SpscRing(self._path, slots(size))

    def _end(self) -> Any:
        subetha = load("subetha")

        return subetha.SpscRing.open(self._path, slots(self._size))

    def sender(self) -> Sender:
        end, size = self._end(), self._size
        push_buffer = end.push_buffer
        return Sender(end.push, send_batch=end.push_many, send_array=lambda records: push_buffer(bytes(records), size))

    def receiver(self) -> Receiver:
        end = self._end()
        return Receiver(end.pop, receive_batch=end.pop_many, receive_array=end.pop_buffer)


class _ChannelLink(FolderLink):
    def __init__(self, size: int) -> None:
        subetha = load("subetha")

        super().__init__()
        self._size, self._path = size, f"{self.folder}/channel"
        self._made: Any = subetha.Channel(self._path, slots(size))

    def _end(self) -> Any:
        subetha = load("subetha")

        return subetha.Channel.open(self._path, slots(self._size))

    def sender(self) -> Sender:
        return Sender(self._end().send)

    def receiver(self) -> Receiver:
        end = self._end()
        return Receiver(end.recv, wait=end.recv_for)
