"""Frame buffers as the kernels take them, filled and read as bytes."""

from __future__ import annotations

import hashlib

import numpy as np

from stackcore.tcp.state import HEADROOM
from stackcore.wire.link import Link, link_deliver, link_send


class Frame:
    """``rows`` packets of at most ``mtu`` bytes: ``buf`` and ``lengths`` for kernels."""

    def __init__(self, rows: int = 8, mtu: int = 1500) -> None:
        self.rows = rows
        self.buf = np.zeros((rows, HEADROOM + mtu), "u1")
        self.lengths = np.zeros(rows, "i8")

    def put(self, row: int, packet: bytes) -> int:
        """Its length."""
        self.buf[row, HEADROOM : HEADROOM + len(packet)] = np.frombuffer(packet, "u1")
        self.lengths[row] = len(packet)
        return len(packet)

    def get(self, row: int) -> bytes:
        return self.buf[row, HEADROOM : HEADROOM + int(self.lengths[row])].tobytes()

    def fill(self, packets: list[bytes]) -> int:
        for row, packet in enumerate(packets):
            self.put(row, packet)
        return len(packets)

    def take(self, n: int) -> list[bytes]:
        return [self.get(row) for row in range(n)]


class Pipe:
    """A link with packets in and out as bytes."""

    def __init__(self, link: Link, rows: int = 8, mtu: int = 1500) -> None:
        self.link, self.frame = link, Frame(rows, mtu)

    def send(self, packet: bytes, now: int) -> int:
        return int(link_send(self.link, self.frame.buf, 0, self.frame.put(0, packet), now))

    def deliver(self, now: int) -> list[bytes]:
        """Everything that has arrived until ``now``."""
        found: list[bytes] = []
        while True:
            n = int(link_deliver(self.link, self.frame.buf, self.frame.lengths, 0, self.frame.rows, now))
            found += self.frame.take(n)
            if n < self.frame.rows:
                return found


def numbered(k: int, length: int = 40) -> bytes:
    """A packet that is recognised by its number and whole only if every byte is right; at least 4 bytes."""
    head = k.to_bytes(4, "big")
    return (head + hashlib.shake_128(head).digest(length))[:length]


def number_of(packet: bytes) -> int:
    """The number, or -1 when the packet is not as it was made."""
    k = int.from_bytes(packet[:4], "big")
    return k if packet == numbered(k, len(packet)) else -1
