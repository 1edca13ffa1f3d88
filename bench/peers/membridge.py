"""membridge: an SPSC byte ring in a named segment, messages of any length, polling only."""

from __future__ import annotations

from bench.peers.base import Adapter, Link, Receiver, Sender, load, unique_name
from shmq.measure import slots

_HEADER = 24


class MembridgeAdapter(Adapter):
    name = "membridge"
    package = "membridge"
    module = "membridge"
    kinds = frozenset({"single", "busy"})

    def link(self, size: int, kind: str) -> _MembridgeLink:
        return _MembridgeLink(size)


class _MembridgeLink(Link):
    def __init__(self, size: int) -> None:
        membridge = load("membridge")

        self._name = f"/{unique_name()}"
        capacity = 1 << (slots(size) * (size + 4) - 1).bit_length()
        self._memory = membridge.SharedMemory.create(self._name, capacity + _HEADER)
        self._ring = self._memory.spsc()  # writes the header

    def sender(self) -> Sender:
        return Sender(self._ring.push)

    def receiver(self) -> Receiver:
        return Receiver(self._ring.pop)

    def close(self) -> None:
        membridge = load("membridge")

        membridge.SharedMemory.remove(self._name)
