"""`Ring`: a lock-free single-producer, single-consumer ring of fixed-size records in shared memory.

Promise. Every record that was pushed is popped once, in order, whoever dies: a record is either published whole or not
at all. No call touches memory outside the segment, whatever the other end writes into it. A wait notices a dead peer
within a second. The proof is in `shmq/native/ring.h`.

Roles. A ring has one producer and one consumer at a time, in any processes (or one). `producer()` and `consumer()`
take the role; it is given back by `close`, by dropping the end, or by the death of the process, after which another
process may take it and goes on where the dead one stopped. Records that were peeked but not released are then seen
again. A role does not survive fork: take it in the process that uses it.

Source: the cached remote cursors are those of Lee, Bu, Chandranmenon: "MCRingBuffer" (2010), as in rigtorp/SPSCQueue.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Self, overload

from shmq import _native
from shmq.errors import CorruptSegment
from shmq.segment import Segment
from shmq.shared import SharedEnds, Wait

if TYPE_CHECKING:
    import numpy

__all__ = ["Ring", "Wait"]

# Behind the slots of a ring with a dtype: a mark and the length of the text that names it. Other rings end there.
_DTYPE = struct.Struct("8sQ")
_DTYPE_MARK = b"shmqtype"


class Ring(SharedEnds):
    """A ring and the segment it lies in. Made by `create`, `attach` or `from_fd`.

    The object itself moves no records: take an end with `producer()` or `consumer()`. It works across fork. As a
    context manager it closes itself.

    >>> with Ring.create(8, 16) as ring, ring.producer() as tx, ring.consumer() as rx:
    ...     tx.push(b"sixteen bytes!!!")
    ...     rx.pop()
    b'sixteen bytes!!!'
    """

    _KIND = "ring"
    _ABI = "1"

    def __init__(self, segment: Segment, eventfds: tuple[int, int] | None = None) -> None:
        """Wrap a segment that holds a ring; takes the segment and the two descriptors over."""
        info = _native.ring_info(segment.mapping, segment.payload_at)
        if info is None:
            raise CorruptSegment("the segment holds no valid ring")
        self._take_over(segment, eventfds, info["flags"])
        self._capacity: int = info["capacity"]
        self._slot_size: int = info["slot_size"]
        self._dtype = self._read_dtype()

    @classmethod
    def create(
        cls,
        capacity: int,
        slot_size: int | None = None,
        name: str | None = None,
        *,
        dtype: Any = None,
        eventfd: bool = False,
        persist: bool = False,
    ) -> Self:
        """Make a ring of `capacity` slots (a power of two) of `slot_size` bytes each.

        Instead of slot_size a numpy dtype can be given (anything `numpy.dtype` takes, structured ones included): one
        record per slot, and ends whose array calls take and give arrays of it, see `shmq.arrays`.

        Without a name it is shared by fork or by passing `fd`. With eventfd=True its ends may use wait="eventfd";
        the two descriptors are inherited by fork, other processes need them for `attach`. name and persist: see
        `Segment.create`.
        """
        text = b""
        if dtype is not None:
            from shmq import arrays

            dtype = arrays.checked_dtype(dtype)
            if slot_size not in (None, dtype.itemsize):
                raise ValueError(f"a record of {dtype} has {dtype.itemsize} bytes, not {slot_size}: leave slot_size out")
            slot_size = dtype.itemsize
            described = arrays.describe(dtype)
            text = _DTYPE.pack(_DTYPE_MARK, len(described)) + described
        elif slot_size is None:
            raise TypeError("a ring needs slot_size or dtype")
        size = _checked_size(capacity, slot_size)

        def lay_out(segment: Segment, flags: int) -> None:
            _native.ring_init(segment.mapping, segment.payload_at, capacity, slot_size, flags)
            segment.buf[size:] = text

        return cls._build(size + len(text), lay_out, name, eventfd, persist)

    def _read_dtype(self) -> numpy.dtype[Any] | None:
        """Return what lies behind the slots; CorruptSegment when that is neither nothing nor a dtype of their size."""
        at = _native.ring_bytes(self._capacity, self._slot_size)
        if self._segment.size < at + _DTYPE.size:
            return None
        mark, length = _DTYPE.unpack_from(self._segment.buf, at)
        start = at + _DTYPE.size
        if mark != _DTYPE_MARK or length > self._segment.size - start:
            return None
        from shmq import arrays

        dtype = arrays.restore(bytes(self._segment.buf[start : start + length]))
        if dtype.itemsize != self._slot_size:
            raise CorruptSegment(f"the ring's slots have {self._slot_size} bytes, its records {dtype.itemsize}")
        return dtype

    @overload
    def producer(self, wait: Wait = ..., *, spins: int | None = ...) -> _native.RingProducer: ...
    @overload
    def producer(self, wait: str = ..., *, spins: int | None = ...) -> Any: ...
    def producer(self, wait: str = "adaptive", *, spins: int | None = None) -> Any:
        """Take the producer's role; RoleTaken while another live holder has it.

        wait says how a blocking push waits: "spin" (never sleeps), "adaptive" (spins, yields, then sleeps), "park"
        (sleeps at once), "eventfd" (as park, and `fileno()` serves select, poll and asyncio). spins: busy looks before
        anything else; give 0 when both ends share one CPU, where spinning only burns the other's time.

        Returns a RingProducer, or for a ring with a dtype an `arrays.ArrayProducer`.
        """
        native = _native.RingProducer(self._segment.mapping, self._segment.payload_at, *self._how(wait, spins, 1))
        if self._dtype is None:
            return native
        from shmq import arrays

        return arrays.ArrayProducer(native, self._dtype)

    @overload
    def consumer(self, wait: Wait = ..., *, spins: int | None = ...) -> _native.RingConsumer: ...
    @overload
    def consumer(self, wait: str = ..., *, spins: int | None = ...) -> Any: ...
    def consumer(self, wait: str = "adaptive", *, spins: int | None = None) -> Any:
        """Take the consumer's role; arguments, errors and result as for `producer`."""
        native = _native.RingConsumer(self._segment.mapping, self._segment.payload_at, *self._how(wait, spins, 0))
        if self._dtype is None:
            return native
        from shmq import arrays

        return arrays.ArrayConsumer(native, self._dtype)

    @property
    def capacity(self) -> int:
        """Slots."""
        return self._capacity

    @property
    def slot_size(self) -> int:
        """Bytes per slot."""
        return self._slot_size

    @property
    def dtype(self) -> numpy.dtype[Any] | None:
        """The records' numpy dtype, None for a ring of bytes."""
        return self._dtype

    def stats(self) -> dict[str, int]:
        """Return the ring's counters since it was made, read without stopping it.

        pushes, pops, used (slots), full_hits and empty_hits (tries that found no room or no record), high_water (most
        slots seen in use by the consumer), parks and wakes of both ends, and the role holders' process tokens.
        """
        info = _native.ring_info(self._segment.mapping, self._segment.payload_at)
        if info is None:
            raise CorruptSegment("the ring's header was overwritten")
        return info

    def __repr__(self) -> str:
        state = "closed" if self._segment.closed else f"{self.capacity} x {self.slot_size} bytes"
        return f"<Ring {self.name or 'unnamed'}, {state}>"


def _checked_size(capacity: int, slot_size: int) -> int:
    """Return the bytes a ring needs, or raise ValueError with what to change."""
    if slot_size < 1 or slot_size > 0xFFFFFFFF:
        raise ValueError(f"slot_size must be between 1 and 2**32 - 1 bytes, not {slot_size}")
    if capacity < 1 or capacity & (capacity - 1):
        nearest = 1 << max(capacity - 1, 0).bit_length()
        raise ValueError(f"capacity must be a power of two, not {capacity}: take {nearest}")
    if capacity * slot_size > 1 << 40:
        raise ValueError(f"{capacity} slots of {slot_size} bytes are more than 1 TiB")
    return _native.ring_bytes(capacity, slot_size)
