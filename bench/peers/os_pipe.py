"""os.pipe: a byte stream of records of one known size; single records, or blocks of 8 KB with each write."""

from __future__ import annotations

import fcntl
import os

from bench.peers.base import Adapter, Link, Receiver, Sender
from shmq.measure import batch_size


class OsPipeAdapter(Adapter):
    name = "os.pipe"
    kinds = frozenset({"single", "array", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> _RawPipeLink:
        return _RawPipeLink(size, busy=kind == "busy")


class _RawPipeLink(Link):
    def __init__(self, size: int, busy: bool) -> None:
        self._size = size
        self._reading, self._writing = os.pipe()
        fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, max(1 << 16, min(1 << 20, 16 * size)))
        os.set_blocking(self._reading, not busy)

    def sender(self) -> Sender:
        fd, size, write = self._writing, self._size, os.write

        def send_array(records: bytes | memoryview) -> int:
            return write(fd, records) // size  # blocks until all is written

        return Sender(lambda message: write(fd, message), waits=True, send_array=send_array)

    def receiver(self) -> Receiver:
        fd, size, read, readv = self._reading, self._size, os.read, os.readv
        out = bytearray(batch_size(size) * size)

        def receive() -> bytes:
            message = read(fd, size)
            while len(message) < size:
                message += read(fd, size - len(message))
            return message

        def poll() -> bytes | None:
            try:
                message = read(fd, size)
            except BlockingIOError:
                return None
            while len(message) < size:
                try:
                    message += read(fd, size - len(message))
                except BlockingIOError:
                    continue
            return message

        def receive_array(most: int) -> tuple[bytearray, int]:
            done = readv(fd, [out])
            while done % size:
                done += readv(fd, [memoryview(out)[done : done + size - done % size]])
            return out, done // size

        return Receiver(receive, waits=True, poll=poll, wait=receive, receive_array=receive_array)

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)
