"""Locks in shared memory that report their owner's death instead of hanging.

Promise. `SpinLock` and `Mutex` exclude everybody, `SpinRwLock` and `FutexRwLock` let up to 62 handles read together and
one write alone, writers first. A waiter notices within some 20 ms that the holder died, and gets the lock with
`OwnerDied`; a dead reader needs no report. The proofs are in `shmq/native/lock.h` and `mutex.h`.

`PthreadRwLock` is the C library's lock with the same interface, as a yardstick. It cannot be taken over: after a death
in it every acquire that would have to wait raises `OwnerDied` WITHOUT holding the lock (`held` tells), and the lock is
lost. A dead reader is reported, too, because it blocks every writer.

Handles. One object is one handle, for one thread at a time; give each thread its own. A forked child that uses an
inherited object gets a place of its own in the lock and holds nothing, whatever the parent holds. The two rwlocks have
one layout and may be mixed: they differ in how this handle waits (spinning with sched_yield, or sleeping in the kernel).

After a death. `acquire`, `acquire_read` and `acquire_write` raise `OwnerDied` with the lock held: repair what it
protects, then release. Readers are told until a writer was, because only a writer can repair. The `with` forms cannot
leave the lock held, so they release it again and leave the report for the next one: every `with` raises until somebody
has repaired after an explicit `acquire`.

>>> with FutexRwLock.create() as lock:
...     try:
...         done = lock.acquire_write()
...     except OwnerDied:
...         pass  # repair here; the lock is held
...     lock.release_write()
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from shmq import _native
from shmq.errors import OwnerDied
from shmq.shared import Placed

__all__ = ["FutexRwLock", "Mutex", "PthreadRwLock", "SpinLock", "SpinRwLock"]

_Native = _native.SpinLock | _native.Mutex | _native.RwLock | _native.PthreadRwLock


class _Guard:
    """What `with lock.read()` runs: acquire or raise, then release."""

    __slots__ = ("_acquire", "_native", "_release", "_timeout")

    def __init__(
        self,
        native: _Native,
        acquire: Callable[[float | None], bool],
        release: Callable[[], None],
        timeout: float | None,
    ) -> None:
        self._native = native
        self._acquire = acquire
        self._release = release
        self._timeout = timeout

    def __enter__(self) -> None:
        try:
            acquired = self._acquire(self._timeout)
        except OwnerDied:
            if self._native.held:  # not so when a pthread lock was lost
                self._native.abandon()
            raise
        if not acquired:
            raise TimeoutError(f"the lock was not free within {self._timeout} s")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._release()


class _Lock(Placed):
    """What all locks share.

    `Lock(memory, at)` opens the lock that lies at offset `at` of a writable buffer, for example a Segment's; zeroed memory
    is a free lock. It needs 8 bytes for a SpinLock (8-byte aligned), 16 for a Mutex (16-byte aligned), 768 for a
    PthreadRwLock, 640 for the others (128-byte aligned). `close` gives this handle's place back; RuntimeError while it holds
    the lock.
    """

    _NOUN = "lock"
    _native: _Native

    def _shut(self) -> None:
        self._native.close()

    @property
    def held(self) -> bool:
        """True while this handle holds the lock, for reading or writing."""
        return self._native.held


class _Exclusive(_Lock):
    _NATIVE: type[_native.SpinLock] | type[_native.Mutex]

    def _open(self, memory: object, at: int) -> None:
        self._native = native = self._NATIVE(memory, at)
        self.acquire = native.acquire
        self.release = native.release
        self.stats = native.stats

    def hold(self, timeout: float | None = None) -> _Guard:
        """Return a context manager that holds the lock; TimeoutError when it was not free within timeout seconds."""
        return _Guard(self._native, self.acquire, self.release, timeout)


class SpinLock(_Exclusive):
    """Mutual exclusion by one word, for critical sections of nanoseconds. `with lock.hold(): ...`"""

    _KIND = "spinlock"
    _BYTES = _native.layout()["spinlock"][0]
    _NATIVE = _native.SpinLock


class Mutex(_Exclusive):
    """Mutual exclusion whose waiters sleep in the kernel, for critical sections of any length. `with lock.hold(): ...`"""

    _KIND = "mutex"
    _BYTES = _native.layout()["mutex"][0]
    _NATIVE = _native.Mutex


class _RwLock(_Lock):
    _KIND = "rwlock"
    _BYTES = _native.layout()["rwlock"][0]
    _FUTEX = False

    def _open(self, memory: object, at: int) -> None:
        self._native = native = self._make(memory, at)
        self.acquire_read = native.acquire_read
        self.acquire_write = native.acquire_write
        self.release_read = native.release_read
        self.release_write = native.release_write
        self.stats = native.stats

    def _make(self, memory: object, at: int) -> _native.RwLock | _native.PthreadRwLock:
        return _native.RwLock(memory, at, self._FUTEX)

    def read(self, timeout: float | None = None) -> _Guard:
        """Return a context manager that reads; TimeoutError when the lock was not free within timeout seconds."""
        return _Guard(self._native, self.acquire_read, self.release_read, timeout)

    def write(self, timeout: float | None = None) -> _Guard:
        """Return a context manager that writes; TimeoutError when the lock was not free within timeout seconds."""
        return _Guard(self._native, self.acquire_write, self.release_write, timeout)


class SpinRwLock(_RwLock):
    """A read-write lock whose waiters spin, with sched_yield when it takes long."""


class FutexRwLock(_RwLock):
    """A read-write lock whose waiters spin briefly, then sleep in the kernel."""

    _FUTEX = True


class PthreadRwLock(_RwLock):
    """The C library's read-write lock between processes; a death in it is reported, but loses the lock."""

    _KIND = "pthread-rwlock"
    _BYTES = _native.layout()["prwlock"][0]

    def _make(self, memory: object, at: int) -> _native.PthreadRwLock:
        return _native.PthreadRwLock(memory, at)
