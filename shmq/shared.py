"""What classes have in common: `Ring`, `Channel` and `ByteFifo` (`SharedEnds`) the segment, the eventfds, how an end waits,
closing; `Event` and the locks (`Placed`) that they lie anywhere in memory, by default alone in a segment."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from shmq import handover
from shmq.segment import Segment

__all__ = ["Placed", "SharedEnds", "Wait"]

Wait = Literal["spin", "adaptive", "park", "eventfd"]

# Index = shmq_wait_kind in wait.h; then busy looks and sched_yield looks before sleeping, as shmq_wait_default.
_STRATEGIES: dict[str, tuple[int, int, int]] = {
    "spin": (0, 2000, 0),
    "adaptive": (1, 2000, 20),
    "park": (2, 0, 0),
    "eventfd": (3, 0, 0),
}
_EVENTFD_FLAG = 1  # SHMQ_RING_EVENTFD


class SharedEnds:
    """A segment with two ends. A subclass says its kind, lays it out, and makes the ends."""

    _KIND: ClassVar[str]
    _ABI: ClassVar[str]
    _segment: Segment
    _eventfds: tuple[int, int] | None

    def __init__(self, segment: Segment, eventfds: tuple[int, int] | None = None) -> None:
        raise NotImplementedError

    def _take_over(self, segment: Segment, eventfds: tuple[int, int] | None, flags: int) -> None:
        """Keep what the subclass's constructor was given, once it has found its header valid."""
        if flags & _EVENTFD_FLAG and eventfds is None:
            raise ValueError(
                f"this {self._KIND} was made with eventfd=True: attach needs eventfds=(consumer's, producer's)"
            )
        self._segment = segment
        self._eventfds = eventfds

    @classmethod
    def _build(
        cls, size: int, lay_out: Callable[[Segment, int], None], name: str | None, eventfd: bool, persist: bool
    ) -> Self:
        """Make a segment of `size` bytes, lay it out with the given flags, wrap it, and only then give it its name."""
        segment = Segment.create(size, cls._KIND, cls._ABI)
        eventfds = None
        try:
            lay_out(segment, _EVENTFD_FLAG if eventfd else 0)
            if eventfd:
                eventfds = _new_eventfds()
            made = cls(segment, eventfds)
            if name is not None:
                segment.publish(name, persist=persist)
        except BaseException:
            segment.close()
            _close_all(eventfds)
            raise
        return made

    @classmethod
    def attach(cls, name: str, *, eventfds: tuple[int, int] | None = None) -> Self:
        """Open the one of this name. Raises as `Segment.attach`. `eventfds` stay the caller's."""
        return cls._adopt(Segment.attach(name, cls._KIND, cls._ABI), eventfds)

    @classmethod
    def from_fd(cls, fd: int, *, eventfds: tuple[int, int] | None = None) -> Self:
        """Open the one behind a descriptor, for example one received over a socket. `fd` stays the caller's."""
        return cls._adopt(Segment.from_fd(fd, cls._KIND, cls._ABI), eventfds)

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

    def _how(self, wait: str, spins: int | None, own: int) -> tuple[int, int, int, int, int]:
        """Return the native arguments of an end: strategy, spins, yields, own eventfd, the peer's eventfd."""
        try:
            kind, default_spins, yields = _STRATEGIES[wait]
        except KeyError:
            raise ValueError(f"unknown wait strategy {wait!r}: choose one of {', '.join(_STRATEGIES)}") from None
        if wait == "eventfd" and self._eventfds is None:
            raise ValueError(f'wait="eventfd" needs a {self._KIND} made with eventfd=True')
        if spins is None:
            spins = default_spins if os.cpu_count() != 1 else 0
        if not 0 <= spins <= 0xFFFFFFFF:
            raise ValueError(f"spins must be between 0 and 2**32 - 1, not {spins}")
        if self._eventfds is None:
            return kind, spins, yields, -1, -1
        own_efd = self._eventfds[own] if wait == "eventfd" else -1
        return kind, spins, yields, own_efd, self._eventfds[1 - own]

    @property
    def name(self) -> str | None:
        """The name to attach by, or None."""
        return self._segment.name

    @property
    def fd(self) -> int:
        """The segment's descriptor, to be sent to processes that shall open it with `from_fd`."""
        return self._segment.fd

    @property
    def eventfds(self) -> tuple[int, int] | None:
        """The consumer's and the producer's eventfd, if made with eventfd=True."""
        return self._eventfds

    @property
    def segment(self) -> Segment:
        """The segment it lies in."""
        return self._segment

    def unlink(self) -> None:
        """Remove the name; processes that have attached keep the memory."""
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


def _receive(cls: type[SharedEnds], segment: Segment, packed: tuple[Any, ...]) -> SharedEnds:
    """Make a pickled handle in the receiving process."""
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


class Placed:
    """Something small in shared memory: in a segment of its own (`create`, `attach`, `from_fd`), or at a place of memory that
    the caller has. A subclass says its kind and size, opens the place, and lets go of it."""

    _KIND: ClassVar[str] = ""
    _ABI: ClassVar[str] = "1"
    _BYTES: ClassVar[int] = 0
    _NOUN: ClassVar[str]

    def __init__(self, memory: object, at: int = 0) -> None:
        """Open the one that lies at offset `at` of a writable buffer, for example a Segment's; zeroed memory is a new one.

        ValueError says how many bytes it needs, and how aligned.
        """
        self._segment: Segment | None = None
        self._open(memory, at)

    def _open(self, memory: object, at: int) -> None:
        raise NotImplementedError

    def _shut(self) -> None:
        """Let go of the memory; raises when that must not be now."""
        raise NotImplementedError

    @classmethod
    def create(cls, name: str | None = None, *, persist: bool = False) -> Self:
        """Make one in a segment of its own; name and persist as for `Segment.create`."""
        return cls._in(Segment.create(cls._BYTES, cls._KIND, cls._ABI, name, persist=persist))

    @classmethod
    def attach(cls, name: str) -> Self:
        """Open the one of this name. Raises as `Segment.attach`."""
        return cls._in(Segment.attach(name, cls._KIND, cls._ABI))

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Open the one behind a segment's descriptor. `fd` stays the caller's."""
        return cls._in(Segment.from_fd(fd, cls._KIND, cls._ABI))

    @classmethod
    def _in(cls, segment: Segment) -> Self:
        try:
            made = cls(segment.mapping, segment.payload_at)
        except BaseException:
            segment.close()
            raise
        made._segment = segment
        return made

    @property
    def segment(self) -> Segment | None:
        """The segment made or attached for it; None when it lies in memory of the caller's."""
        return self._segment

    def close(self) -> None:
        """Let go of the memory. RuntimeError while this process needs it; a second call does nothing."""
        self._shut()
        if self._segment is not None:
            self._segment.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process, see `shmq.handover`. What this handle holds, the receiver's does not."""
        if self._segment is None:
            raise TypeError(
                f"this {self._NOUN} lies in memory of yours: send the memory's Segment, and open the {self._NOUN} there"
            )
        handover.pack(self, ())
        return _receive_placed, (type(self), self._segment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _receive_placed(cls: type[Placed], segment: Segment) -> Placed:
    """Make a pickled handle in the receiving process."""
    return cls._in(segment)


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
