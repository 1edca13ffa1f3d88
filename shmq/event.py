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

from shmq import _native
from shmq.shared import Placed

__all__ = ["Event"]


class Event(Placed):
    """A flag to wait for. One object may be used by many threads, and in the children of a fork.

    `Event(memory, at)` opens the event that lies at offset `at` of a writable buffer, for example a Segment's: 128 bytes,
    128-byte aligned; zeroed memory is an event that is not set. `close` raises RuntimeError while a thread of this process
    waits.
    """

    _KIND = "event"
    _BYTES = _native.layout()["event"][0]
    _NOUN = "event"

    def _open(self, memory: object, at: int) -> None:
        self._native = native = _native.Event(memory, at)
        self.is_set = native.is_set
        self.set = native.set
        self.clear = native.clear
        self.wait = native.wait
        self.stats = native.stats

    def _shut(self) -> None:
        self._native.close()

    @property
    def closed(self) -> bool:
        """True once closed."""
        return self._native.closed

    def __repr__(self) -> str:
        name = self._segment.name if self._segment is not None else None
        state = "closed" if self.closed else "set" if self.is_set() else "not set"
        return f"<Event {name or 'unnamed'}, {state}>"
