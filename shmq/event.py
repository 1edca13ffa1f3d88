"""`Event`: a flag in shared memory that any number of threads and processes can set, clear and wait for.

Promise. Works as `threading.Event`: a `wait` that began before a `set` returns True, even when the flag is cleared at
once; `set` wakes everybody. Waiting uses no CPU, and signal handlers run meanwhile. Nobody owns the flag, so a dead
process is not reported; should a setter die in the middle of `set`, the waiters notice within 50 ms. The proof is in
`shmq/native/event.h`.

>>> with Event.create() as event:
...     event.wait(timeout=0.01)
...     event.set()
...     event.wait()
False
True
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from shmq import _native, handover
from shmq.segment import Segment

__all__ = ["Event"]

_KIND, _ABI = "event", "1"
_BYTES = _native.layout()["event"][0]


class Event:
    """A flag to wait for. One object may be used by many threads, and in the children of a fork."""

    def __init__(self, memory: object, at: int = 0) -> None:
        """Open the event that lies at offset `at` of a writable buffer; zeroed memory is an event that is not set.

        For events inside memory of one's own, for example a Segment's: 128 bytes, 128-byte aligned.
        """
        self._segment: Segment | None = None
        self._native = native = _native.Event(memory, at)
        self.is_set = native.is_set
        self.set = native.set
        self.clear = native.clear
        self.wait = native.wait
        self.stats = native.stats

    @classmethod
    def create(cls, name: str | None = None, *, persist: bool = False) -> Self:
        """Make an event that is not set, in a segment of its own; name and persist as for `Segment.create`."""
        return cls._in(Segment.create(_BYTES, _KIND, _ABI, name, persist=persist))

    @classmethod
    def attach(cls, name: str) -> Self:
        """Open the event of this name. Raises as `Segment.attach`."""
        return cls._in(Segment.attach(name, _KIND, _ABI))

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Open the event behind a segment's descriptor. `fd` stays the caller's."""
        return cls._in(Segment.from_fd(fd, _KIND, _ABI))

    @classmethod
    def _in(cls, segment: Segment) -> Self:
        try:
            event = cls(segment.mapping, segment.payload_at)
        except BaseException:
            segment.close()
            raise
        event._segment = segment
        return event

    @property
    def segment(self) -> Segment | None:
        """The segment made or attached for this event; None when it lies in memory of the caller's."""
        return self._segment

    @property
    def closed(self) -> bool:
        """True once closed."""
        return self._native.closed

    def close(self) -> None:
        """Let go of the memory. RuntimeError while a thread of this process waits; a second call does nothing."""
        self._native.close()
        if self._segment is not None:
            self._segment.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process, see `shmq.handover`."""
        if self._segment is None:
            raise TypeError("this event lies in memory of yours: send the memory's Segment, and open the event there")
        handover.pack(self, ())
        return _receive, (type(self), self._segment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        name = self._segment.name if self._segment is not None else None
        state = "closed" if self.closed else "set" if self.is_set() else "not set"
        return f"<Event {name or 'unnamed'}, {state}>"


def _receive(cls: type[Event], segment: Segment) -> Event:
    """Make the handle of a pickled event in the receiving process."""
    return cls._in(segment)
