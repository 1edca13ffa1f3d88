"""`Channel`: a lock-free single-producer, single-consumer channel of messages of any length in shared memory.

Promise. Every message that was committed is received once, whole, in order, whoever dies: a producer that is killed in
the middle of a message leaves nothing of it. Each message lies in one piece, so both ends can work in place, without a
copy (`reserve`/`commit`, `peek`/`release`). No call touches memory outside the segment, whatever the other end writes
into it. A wait notices a dead peer within a second. The proof is in `shmq/native/channel.h`.

Capacity. A message takes its bytes, rounded up to 8, and 8 more; one that would not end before the buffer does also
takes what is left there. Messages of up to half the capacity always go through; longer ones are a ValueError.

Roles. As for a ring: one producer and one consumer at a time, in any processes; a dead holder's role can be taken over,
and messages that it had peeked but not released are seen again. A role does not survive fork.
"""

from __future__ import annotations

from typing import Self

from shmq import _native
from shmq.errors import CorruptSegment
from shmq.segment import Segment
from shmq.shared import SharedEnds, Wait

__all__ = ["Channel"]


class Channel(SharedEnds):
    """A channel and the segment it lies in. Made by `create`, `attach` or `from_fd`.

    The object itself moves no messages: take an end with `producer()` or `consumer()`. It works across fork. As a
    context manager it closes itself.

    >>> with Channel.create(1 << 16) as channel, channel.producer() as tx, channel.consumer() as rx:
    ...     tx.push(b"any length")
    ...     tx.push(b"")
    ...     rx.pop_many(10)
    [b'any length', b'']
    """

    _KIND = "channel"
    _ABI = "1"

    def __init__(self, segment: Segment, eventfds: tuple[int, int] | None = None) -> None:
        """Wrap a segment that holds a channel; takes the segment and the two descriptors over."""
        info = _native.channel_info(segment.mapping, segment.payload_at)
        if info is None:
            raise CorruptSegment("the segment holds no valid channel")
        self._take_over(segment, eventfds, info["flags"])
        self._capacity: int = info["capacity"]

    @classmethod
    def create(cls, capacity_bytes: int, name: str | None = None, *, eventfd: bool = False, persist: bool = False) -> Self:
        """Make a channel of `capacity_bytes`, a power of two between 16 and 2**32; messages may have half of it.

        Without a name it is shared by fork or by passing `fd`. With eventfd=True its ends may use wait="eventfd";
        the two descriptors are inherited by fork, other processes need them for `attach`. name and persist: see
        `Segment.create`.
        """
        size = _checked_size(capacity_bytes)

        def lay_out(segment: Segment, flags: int) -> None:
            _native.channel_init(segment.mapping, segment.payload_at, capacity_bytes, flags)

        return cls._build(size, lay_out, name, eventfd, persist)

    def producer(self, wait: Wait = "adaptive", *, spins: int | None = None) -> _native.ChannelProducer:
        """Take the producer's role; RoleTaken while another live holder has it. wait and spins: see `Ring.producer`."""
        return _native.ChannelProducer(self._segment.mapping, self._segment.payload_at, *self._how(wait, spins, 1))

    def consumer(self, wait: Wait = "adaptive", *, spins: int | None = None) -> _native.ChannelConsumer:
        """Take the consumer's role; arguments and errors as for `producer`."""
        return _native.ChannelConsumer(self._segment.mapping, self._segment.payload_at, *self._how(wait, spins, 0))

    @property
    def capacity(self) -> int:
        """Bytes, those of the messages' headers included."""
        return self._capacity

    @property
    def max_message(self) -> int:
        """Bytes of the longest message: half the capacity."""
        return self._capacity // 2

    def stats(self) -> dict[str, int]:
        """Return the channel's counters since it was made, read without stopping it.

        pushes, pops and messages (pushed and not yet popped) count messages; bytes_pushed, bytes_popped, used and
        high_water count bytes, headers and padding included; full_hits and empty_hits are tries that found no room or
        no message; then parks and wakes of both ends, and the role holders' process tokens. The death of an end can
        leave the three counts of messages off by one.
        """
        info = _native.channel_info(self._segment.mapping, self._segment.payload_at)
        if info is None:
            raise CorruptSegment("the channel's header was overwritten")
        return info

    def __repr__(self) -> str:
        state = "closed" if self._segment.closed else f"{self.capacity} bytes"
        return f"<Channel {self.name or 'unnamed'}, {state}>"


def _checked_size(capacity: int) -> int:
    """Return the bytes a channel needs, or raise ValueError with what to change."""
    if not 16 <= capacity <= 1 << 32:
        raise ValueError(f"capacity must be between 16 bytes and 4 GiB, not {capacity}")
    if capacity & (capacity - 1):
        raise ValueError(f"capacity must be a power of two, not {capacity}: take {1 << capacity.bit_length()}")
    return _native.channel_bytes(capacity)
