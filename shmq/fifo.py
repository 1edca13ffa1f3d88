"""`ByteFifo`: a lock-free single-writer, single-reader byte stream in shared memory.

Promise. Bytes come out in the order they went in, once, whoever dies. Reading at an offset consumes nothing. Bytes may
be written ahead of the stream, as a TCP receiver must when a segment is missing: they are kept, and become visible only
when nothing before them is missing. No call touches memory outside the segment, whatever the other end writes into it. A
wait notices a dead peer within a second. The proof is in `shmq/native/fifo.h`. With wait="eventfd" both ends can be awaited
(`shmq.aio`).

Roles. One writer and one reader at a time, in any processes; a dead holder's role can be taken over, and its successor
goes on where it stopped. A role does not survive fork. Bytes that were held ahead are the writer's own: they are gone
with it.
"""

from __future__ import annotations

from typing import Self

from shmq import _native
from shmq.errors import CorruptSegment
from shmq.segment import Segment
from shmq.shared import SharedEnds, Wait

__all__ = ["ByteFifo"]


class ByteFifo(SharedEnds):
    """A byte stream and the segment it lies in. Made by `create`, `attach` or `from_fd`.

    The object itself moves no bytes: take an end with `writer()` or `reader()`. It works across fork. As a context
    manager it closes itself.

    >>> with ByteFifo.create(64) as fifo, fifo.writer() as tx, fifo.reader() as rx:
    ...     tx.write_at(6, b"world")
    ...     rx.try_read(64)
    ...     tx.write(b"hello ")
    ...     rx.read(64)
    5
    b''
    6
    b'hello world'
    """

    _KIND = "fifo"
    _ABI = "1"

    def __init__(self, segment: Segment, eventfds: tuple[int, int] | None = None) -> None:
        """Wrap a segment that holds a byte fifo; takes the segment and the two descriptors over."""
        info = _native.stream_info(segment.mapping, segment.payload_at)
        if info is None:
            raise CorruptSegment("the segment holds no valid byte fifo")
        self._take_over(segment, eventfds, info["flags"])
        self._capacity: int = info["capacity"]

    @classmethod
    def create(cls, capacity_bytes: int, name: str | None = None, *, eventfd: bool = False, persist: bool = False) -> Self:
        """Make a fifo of `capacity_bytes`, a power of two up to 2**40.

        Without a name it is shared by fork or by passing `fd`. With eventfd=True its ends may use wait="eventfd"; the
        two descriptors (the reader's, the writer's) are inherited by fork, other processes need them for `attach`. name
        and persist: see `Segment.create`.
        """
        if capacity_bytes < 1 or capacity_bytes & (capacity_bytes - 1):
            nearest = 1 << max(capacity_bytes - 1, 0).bit_length()
            raise ValueError(f"capacity must be a power of two, not {capacity_bytes}: take {nearest}")
        size = _native.stream_bytes(capacity_bytes)
        if not size:
            raise ValueError(f"{capacity_bytes} bytes are more than 1 TiB")

        def lay_out(segment: Segment, flags: int) -> None:
            _native.stream_init(segment.mapping, segment.payload_at, capacity_bytes, flags)

        return cls._build(size, lay_out, name, eventfd, persist)

    def writer(self, wait: Wait = "adaptive", *, spins: int | None = None) -> _native.FifoWriter:
        """Take the writer's role; RoleTaken while another live holder has it. wait and spins: see `Ring.producer`."""
        return _native.FifoWriter(self._segment.mapping, self._segment.payload_at, *self._how(wait, spins, 1))

    def reader(self, wait: Wait = "adaptive", *, spins: int | None = None) -> _native.FifoReader:
        """Take the reader's role; arguments and errors as for `writer`."""
        return _native.FifoReader(self._segment.mapping, self._segment.payload_at, *self._how(wait, spins, 0))

    @property
    def capacity(self) -> int:
        """Bytes."""
        return self._capacity

    def stats(self) -> dict[str, int]:
        """Return the fifo's counters since it was made, read without stopping it.

        pushes, pops, used and high_water count bytes; full_hits and empty_hits are tries that found no room or nothing
        to read; then parks and wakes of both ends, and the role holders' process tokens.
        """
        info = _native.stream_info(self._segment.mapping, self._segment.payload_at)
        if info is None:
            raise CorruptSegment("the fifo's header was overwritten")
        return info

    def __repr__(self) -> str:
        state = "closed" if self._segment.closed else f"{self.capacity} bytes"
        return f"<ByteFifo {self.name or 'unnamed'}, {state}>"
