"""tachyon-ipc: an SPSC ring behind a socket for the meeting of the ends; spins for a while, then sleeps on a futex.

It has no call that returns at once when there is nothing, so `busy` is its spinning wait with a spin that does not end.
"""

from __future__ import annotations

import time

from bench.peers.base import Adapter, FolderLink, Receiver, Sender, load
from shmq.measure import slots

_SPINS = 10_000  # the package's own default
_SPINS_BUSY = (1 << 31) - 1
_PATIENCE_SECONDS = 10.0
_MIN_SLOTS = 128
"""With room for 31 messages a bus was seen to stay full for ever once it had wrapped round."""


class TachyonAdapter(Adapter):
    name = "tachyon-ipc"
    package = "tachyon-ipc"
    module = "tachyon"
    kinds = frozenset({"single", "batch", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> _TachyonLink:
        return _TachyonLink(size, _SPINS_BUSY if kind == "busy" else _SPINS)


class _TachyonLink(FolderLink):
    def __init__(self, size: int, spins: int) -> None:
        super().__init__()
        self._spins, self._path = spins, f"{self.folder}/socket"
        self._capacity = 1 << (max(slots(size), _MIN_SLOTS) * (size + 64) - 1).bit_length()

    def sender(self) -> Sender:
        tachyon = load("tachyon")

        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                bus = tachyon.Bus.connect(self._path)
                break
            except (tachyon.TachyonError, OSError):  # the receiver is not listening yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.001)
        bus_send, full = bus.send, tachyon.TachyonError

        def send(message: bytes) -> bool:
            try:
                bus_send(message)
            except full:
                return False
            return True

        def send_batch(messages: list[bytes]) -> int:  # it has none of its own
            return next((i for i, message in enumerate(messages) if not send(message)), len(messages))

        return Sender(send, send_batch=send_batch, close=lambda: bus.__exit__(None, None, None))

    def receiver(self) -> Receiver:
        tachyon = load("tachyon")

        bus = tachyon.Bus.listen(self._path, self._capacity)
        acquire, spins = bus._bus.acquire_rx, self._spins

        def receive() -> bytes:
            with acquire(spins) as message:
                return bytes(message)

        def receive_batch(most: int) -> list[bytes]:
            with bus.drain_batch(most) as batch:
                return [bytes(batch[i]) for i in range(len(batch))]

        return Receiver(
            receive, waits=True, poll=receive, wait=receive, receive_batch=receive_batch,
            close=lambda: bus.__exit__(None, None, None),
        )  # fmt: skip
