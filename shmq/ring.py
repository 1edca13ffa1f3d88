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

import os
import struct
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from shmq import _native, handover
from shmq.errors import CorruptSegment
from shmq.segment import Segment

if TYPE_CHECKING:
    import numpy

__all__ = ["Ring", "Wait"]

Wait = Literal["spin", "adaptive", "park", "eventfd"]

# Index = shmq_wait_kind in wait.h; then busy looks and sched_yield looks before sleeping, as shmq_wait_default.
_STRATEGIES: dict[str, tuple[int, int, int]] = {
    "spin": (0, 2000, 0),
    "adaptive": (1, 2000, 20),
    "park": (2, 0, 0),
    "eventfd": (3, 0, 0),
}
_KIND, _ABI = "ring", "1"
_EVENTFD_FLAG = 1  # SHMQ_RING_EVENTFD
# Behind the slots of a ring with a dtype: a mark and the length of the text that names it. Other rings end there.
_DTYPE = struct.Struct("8sQ")
_DTYPE_MARK = b"shmqtype"


class Ring:
    """A ring and the segment it lies in. Made by `create`, `attach` or `from_fd`.

    The object itself moves no records: take an end with `producer()` or `consumer()`. It works across fork. As a
    context manager it closes itself.

    >>> with Ring.create(8, 16) as ring, ring.producer() as tx, ring.consumer() as rx:
    ...     tx.push(b"sixteen bytes!!!")
    ...     rx.pop()
    b'sixteen bytes!!!'
    """

    def __init__(self, segment: Segment, eventfds: tuple[int, int] | None = None) -> None:
        """Wrap a segment that holds a ring; takes the segment and the two descriptors over."""
        info = _native.ring_info(segment.mapping, segment.payload_at)
        if info is None:
            raise CorruptSegment("the segment holds no valid ring")
        if info["flags"] & _EVENTFD_FLAG and eventfds is None:
            raise ValueError("this ring was made with eventfd=True: attach needs eventfds=(consumer's, producer's)")
        self._segment = segment
        self._eventfds = eventfds
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
        segment = Segment.create(size + len(text), _KIND, _ABI)
        eventfds = None
        try:
            flags = _EVENTFD_FLAG if eventfd else 0
            _native.ring_init(segment.mapping, segment.payload_at, capacity, slot_size, flags)
            segment.buf[size:] = text
            if eventfd:
                eventfds = _new_eventfds()
            ring = cls(segment, eventfds)
            if name is not None:
                segment.publish(name, persist=persist)
        except BaseException:
            segment.close()
            _close_all(eventfds)
            raise
        return ring

    @classmethod
    def attach(cls, name: str, *, eventfds: tuple[int, int] | None = None) -> Self:
        """Open the ring of this name. Raises as `Segment.attach`. `eventfds` stay the caller's."""
        return cls._adopt(Segment.attach(name, _KIND, _ABI), eventfds)

    @classmethod
    def from_fd(cls, fd: int, *, eventfds: tuple[int, int] | None = None) -> Self:
        """Open the ring behind a descriptor, for example one received over a socket. `fd` stays the caller's."""
        return cls._adopt(Segment.from_fd(fd, _KIND, _ABI), eventfds)

    @classmethod
    def _adopt(cls, segment: Segment, eventfds: tuple[int, int] | None) -> Self:
        own = None
        try:
            if eventfds is not None:
                own = (os.dup(eventfds[0]), os.dup(eventfds[1]))
            return cls(segment, own)
        except BaseException:
            segment.close()
            _close_all(own)
            raise

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

    def _how(self, wait: str, spins: int | None, own: int) -> tuple[int, int, int, int, int]:
        """Return the native arguments of an end: strategy, spins, yields, own eventfd, the peer's eventfd."""
        try:
            kind, default_spins, yields = _STRATEGIES[wait]
        except KeyError:
            raise ValueError(f"unknown wait strategy {wait!r}: choose one of {', '.join(_STRATEGIES)}") from None
        if wait == "eventfd" and self._eventfds is None:
            raise ValueError('wait="eventfd" needs a ring made with eventfd=True')
        if spins is None:
            spins = default_spins if os.cpu_count() != 1 else 0
        if not 0 <= spins <= 0xFFFFFFFF:
            raise ValueError(f"spins must be between 0 and 2**32 - 1, not {spins}")
        if self._eventfds is None:
            return kind, spins, yields, -1, -1
        own_efd = self._eventfds[own] if wait == "eventfd" else -1
        return kind, spins, yields, own_efd, self._eventfds[1 - own]

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

    @property
    def name(self) -> str | None:
        """The name to attach by, or None."""
        return self._segment.name

    @property
    def fd(self) -> int:
        """The segment's descriptor, to be sent to processes that shall open the ring with `from_fd`."""
        return self._segment.fd

    @property
    def eventfds(self) -> tuple[int, int] | None:
        """The consumer's and the producer's eventfd of a ring made with eventfd=True."""
        return self._eventfds

    @property
    def segment(self) -> Segment:
        """The segment the ring lies in."""
        return self._segment

    def stats(self) -> dict[str, int]:
        """Return the ring's counters since it was made, read without stopping it.

        pushes, pops, used (slots), full_hits and empty_hits (tries that found no room or no record), high_water (most
        slots seen in use by the consumer), parks and wakes of both ends, and the role holders' process tokens.
        """
        info = _native.ring_info(self._segment.mapping, self._segment.payload_at)
        if info is None:
            raise CorruptSegment("the ring's header was overwritten")
        return info

    def unlink(self) -> None:
        """Remove the name; processes that have attached keep the ring."""
        self._segment.unlink()

    def close(self) -> None:
        """Unmap; the creator's name is removed, too. BufferError while an end is open; a second call does nothing."""
        self._segment.close()
        _close_all(self._eventfds)
        self._eventfds = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process, see `shmq.handover`. Roles do not travel: the receiver takes its own."""
        return _receive, (type(self), self._segment, handover.pack(self, self._eventfds or ()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        _close_all(getattr(self, "_eventfds", None))

    def __repr__(self) -> str:
        state = "closed" if self._segment.closed else f"{self.capacity} x {self.slot_size} bytes"
        return f"<Ring {self.name or 'unnamed'}, {state}>"


def _receive(cls: type[Ring], segment: Segment, packed: tuple[Any, ...]) -> Ring:
    """Make the handle of a pickled ring in the receiving process."""
    eventfds = None
    try:
        if packed:
            first, second = handover.unpack(packed)
            eventfds = (first, second)
        return cls(segment, eventfds)
    except BaseException:
        segment.close()
        _close_all(eventfds)
        raise


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


def _new_eventfds() -> tuple[int, int]:
    first = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        return first, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    except BaseException:
        os.close(first)
        raise


def _close_all(fds: tuple[int, int] | None) -> None:
    for fd in fds or ():
        os.close(fd)
