"""`Queue`: what `multiprocessing.Queue` is, in shared memory: objects, many producers, many consumers.

Promise. Every object that was put is got once; those of one producer thread in the order they were put. The methods,
their arguments, exceptions and time-outs are those of `multiprocessing.Queue`, so replacing the constructor is enough.
A process that is killed at any step neither hangs the others nor damages what they see: an object it was putting is
discarded, one it had got is gone with it, nothing else is lost or doubled. Objects of any size pass; what is too large
for the ring goes by way of the segment's file. Nothing is left behind when the last process ends, however it ends.

How. Objects are pickled by `put` itself (protocol 5; large buffers, as of numpy arrays, are copied once, from the object
into shared memory), so an unpicklable object raises there and then, and a later change of the object does not show. The
message goes straight into the segment: no feeder thread, no pipe, no lock that a dead process could keep. See
`shmq/native/queue.h` for the algorithm and its proof.

Without maxsize `put` never fails and, as in multiprocessing, never blocks for long: what the ring cannot hold waits in the
process and a thread hands it over, which `close` lets finish, `join_thread` waits for, and the exit of the process
waits for unless `cancel_join_thread` was called. With maxsize nothing waits in the process.

Differences. An unpicklable object raises from `put`, not in a thread. A queue may be sent through a Pipe or another
queue, too. After `close` every call but `close` and the two about the thread raises ValueError.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import threading
import weakref
from collections import deque
from queue import Full
from types import TracebackType
from typing import Any, Self

from shmq import _native, handover
from shmq.segment import Segment

__all__ = ["Queue"]

_KIND, _ABI = "queue", "1"
_dumps, _loads = pickle.dumps, pickle.loads
_LINE = 64  # bytes, SHMQ_QUEUE_LINE
_LEAST_LINES = 64
_SPINS, _YIELDS = 2000, 20  # as the "adaptive" strategy of rings
# How long an unbounded put waits for room before the object waits in the process: longer than a consumer needs to make
# room, shorter than anybody notices once.
_PATIENCE_S = 0.01
_FEEDER_SLICE_S = 0.1
_MAX_PARTS = 1000  # a message has at most 1024 pieces
_ALIGN = 64  # of buffers in a message of parts: numpy computes faster on aligned memory
_COUNT = struct.Struct("<Q")
_A_GLOBAL = pickle.STACK_GLOBAL  # the opcode by which protocol 5 names a class or function


class _QueueSegment(Segment):
    """A segment whose file grows behind the mapped part: spilled messages."""

    _GROWS = True


class Queue:
    """A queue of objects between processes. `Queue(maxsize)` makes one; it reaches other processes by fork, as a
    Process argument or through a Pipe (any start method), or by name. Safe for threads.

    >>> with Queue(maxsize=10) as queue:
    ...     queue.put({"answer": 42})
    ...     queue.get(timeout=1)
    {'answer': 42}
    """

    def __init__(
        self, maxsize: int = 0, *, capacity: int = 1 << 20, name: str | None = None, persist: bool = False
    ) -> None:
        """Make a queue of at most maxsize objects (0 or less: no bound), with a ring of about `capacity` bytes.

        capacity is rounded up to a power of two of 64-byte lines, at least one line per object of maxsize. name and
        persist as for `Segment.create`, whose errors it raises: OSError when /dev/shm has not enough room.
        """
        maxsize = max(maxsize, 0)
        lines = 1 << (max(-(-capacity // _LINE), maxsize, _LEAST_LINES) - 1).bit_length()
        size = _native.queue_bytes(lines)
        if capacity < 1 or not size:
            raise ValueError(f"a queue of {capacity} bytes for {maxsize} objects is impossible: capacity must be 1 byte to 1 TiB")
        segment = _QueueSegment.create(size, _KIND, _ABI)
        try:
            _native.queue_init(segment.mapping, segment.payload_at, lines, maxsize)
            self._open(segment)
            if name is not None:
                segment.publish(name, persist=persist)
        except BaseException:
            if hasattr(self, "_core"):
                self._core.close()
            segment.close()
            raise

    @classmethod
    def attach(cls, name: str) -> Self:
        """Open the queue of this name. Raises as `Segment.attach`."""
        return cls._in(_QueueSegment.attach(name, _KIND, _ABI))

    @classmethod
    def _in(cls, segment: Segment) -> Self:
        queue = cls.__new__(cls)
        try:
            queue._open(segment)
        except BaseException:
            segment.close()
            raise
        return queue

    def _open(self, segment: Segment) -> None:
        spins = _SPINS if os.cpu_count() != 1 else 0
        self._core = _native.QueueCore(segment.mapping, segment.payload_at, segment.fd, spins, _YIELDS)
        self._put = self._core.put
        self._get = self._core.get
        self._bounded = self._core.maxsize > 0
        self._segment = segment
        self._closed = False
        self._joinable = True
        self._after_fork()
        _queues.add(self)

    def _after_fork(self) -> None:
        """What waits in the parent is the parent's to put."""
        self._backlog: deque[Any] = deque()
        self._lock = threading.Lock()
        self._feeder: threading.Thread | None = None

    # ---- putting

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an object in, waiting up to timeout seconds for room (None: for ever; block=False: not at all).

        Raises queue.Full when a bounded queue had no room in time, ValueError when the queue is closed, OSError when
        /dev/shm is full, and what pickle raises when the object cannot be pickled; the queue stays usable.
        """
        if self._closed:
            raise self._is_closed()
        parts: list[pickle.PickleBuffer] = []
        try:
            message: Any = _dumps(obj, 5, buffer_callback=parts.append)
        except (TypeError, pickle.PicklingError, AttributeError):
            message = None
        if message is None or (_A_GLOBAL in message and _needs_reducers(message)):
            parts.clear()
            message = _forking_dumps(obj, parts)
        if parts:
            message = _join(message, parts, obj)
        if self._bounded:
            self._put(message, _seconds(block, timeout))
        elif self._backlog:
            self._defer(message)
        else:
            try:
                self._put(message, _PATIENCE_S if block else 0)
            except Full:
                self._defer(message)

    def put_nowait(self, obj: Any) -> None:
        """Put an object in, or raise queue.Full."""
        self.put(obj, False)

    def _defer(self, message: Any) -> None:
        """Let a message wait in this process for the feeder thread."""
        if type(message) is tuple:  # of views on objects that may change
            message = tuple(map(bytes, message))
        with self._lock:
            self._backlog.append(message)
            if self._feeder is None:
                self._feeder = threading.Thread(target=self._feed, name="shmq-queue-feeder")
                self._feeder.start()

    def _feed(self) -> None:
        while True:
            with self._lock:
                if not self._backlog:
                    self._feeder = None
                    if self._closed:
                        self._shut()
                    return
            try:
                self._put(self._backlog[0], _FEEDER_SLICE_S)
            except Full:
                if not self._joinable and not threading.main_thread().is_alive():
                    return  # cancel_join_thread: the process may end without
            except OSError:
                threading.Event().wait(_FEEDER_SLICE_S)  # /dev/shm is full: until consumers have made room
            else:
                self._backlog.popleft()

    # ---- getting

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest object out, waiting up to timeout seconds for one (None: for ever; block=False: not at all).

        Raises queue.Empty when there was none in time, ValueError when the queue is closed.
        """
        if self._closed:
            raise self._is_closed()
        message = self._get(_seconds(block, timeout))
        if type(message) is bytes:
            return _loads(message)
        return _load_parts(memoryview(message))

    def get_nowait(self) -> Any:
        """Take the oldest object out, or raise queue.Empty."""
        return self.get(False)

    # ---- looking

    def qsize(self) -> int:
        """Objects in the queue, those that still wait in this process included; out of date at once, as always."""
        if self._closed:
            raise self._is_closed()
        return self._core.size() + len(self._backlog)

    def empty(self) -> bool:
        """True when there was nothing to get."""
        return self.qsize() == 0

    def full(self) -> bool:
        """True when maxsize objects were in the queue; an unbounded one is never full."""
        return self._bounded and self.qsize() >= self._core.maxsize

    def stats(self) -> dict[str, int]:
        """Return the queue's counters since it was made: puts, gets, bytes used, spilled, hits, parks, wakes; and
        `waiting`, the objects that wait in this process."""
        if self._closed:
            raise self._is_closed()
        return self._core.stats() | {"waiting": len(self._backlog)}

    @property
    def maxsize(self) -> int:
        """Most objects at a time, 0 for no bound."""
        return self._core.maxsize

    @property
    def name(self) -> str | None:
        """The name to attach by, or None."""
        return self._segment.name

    @property
    def segment(self) -> Segment:
        """The segment the queue lies in."""
        return self._segment

    @property
    def closed(self) -> bool:
        """True once closed by this process."""
        return self._closed

    # ---- ending

    def close(self) -> None:
        """Say that this process neither puts nor gets any more. What waits here is still handed over; the creator's
        name is removed after that. Other threads' calls end with ValueError. A second call does nothing."""
        with self._lock:
            self._closed = True
            if self._feeder is None:
                self._shut()

    def _shut(self) -> None:
        self._core.close()
        try:
            self._segment.close()
        except BufferError:
            pass  # a call of another thread is about to end, and the memory goes with it
        else:
            _queues.discard(self)

    def join_thread(self) -> None:
        """Wait until everything put here has been handed over. Only after `close` (AssertionError otherwise)."""
        if not self._closed:
            raise AssertionError(f"{self!r} is not closed: close it before join_thread")
        feeder = self._feeder
        if feeder is not None and self._joinable:
            feeder.join()

    def cancel_join_thread(self) -> None:
        """Let the process end although objects put here have not been handed over: they are lost then."""
        self._joinable = False

    def unlink(self) -> None:
        """Remove the name; processes that have attached keep the queue."""
        self._segment.unlink()

    def _is_closed(self) -> ValueError:
        return ValueError(f"{self!r} is closed")

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process, see `shmq.handover`. What waits here stays here."""
        handover.pack(self, ())
        return _receive, (type(self), self._segment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        bound = f"maxsize {self.maxsize}" if self._bounded else "unbounded"
        return f"<Queue {self._segment.name or 'unnamed'}, {bound}{', closed' if self._closed else ''}>"


def _receive(cls: type[Queue], segment: Segment) -> Queue:
    """Make the handle of a pickled queue in the receiving process."""
    return cls._in(segment)


_queues: weakref.WeakSet[Queue] = weakref.WeakSet()


def _after_fork() -> None:
    for queue in list(_queues):
        queue._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _seconds(block: bool, timeout: float | None) -> float | None:
    """Return the time to wait; a negative one is none, as in multiprocessing."""
    if not block:
        return 0
    return timeout if timeout is None or not timeout < 0 else 0


# ---- objects and messages


def _needs_reducers(message: bytes) -> bool:
    """True when a type that multiprocessing pickles in its own way may be in the message, judged by module names."""
    reduction = sys.modules.get("multiprocessing.reduction")
    if reduction is None:
        return False
    if len(reduction.ForkingPickler._extra_reducers) != _reducers_known[0]:
        types = list(reduction.ForkingPickler._extra_reducers)
        modules = {t.__module__ for t in types} - {"builtins", "functools"}
        _reducers_known[:] = [len(types), *(module.encode() for module in sorted(modules))]
    return any(module in message for module in _reducers_known[1:])


_reducers_known: list[Any] = [0]


def _forking_dumps(obj: Any, parts: list[pickle.PickleBuffer]) -> bytes:
    """Pickle with multiprocessing's reducers (sockets, connections): slower, so only when needed."""
    import io
    from multiprocessing.reduction import ForkingPickler

    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=parts.append)
    pickler.dispatch_table = ForkingPickler(file, 5).dispatch_table
    pickler.dump(obj)
    return file.getvalue()


def _join(message: bytes, parts: list[pickle.PickleBuffer], obj: Any) -> Any:
    """Return a message of parts: their lengths, the pickle, the buffers, each padded so that the next is aligned."""
    if len(parts) > _MAX_PARTS // 2:
        return pickle.dumps(obj, 5)
    views = [memoryview(message), *(part.raw() for part in parts)]
    head = _COUNT.pack(len(views)) + b"".join(_COUNT.pack(view.nbytes) for view in views)
    pieces: list[Any] = []
    for piece in (memoryview(head), *views):
        pieces += (piece, bytes(-piece.nbytes % _ALIGN))
    return tuple(pieces)


def _load_parts(whole: memoryview) -> Any:
    """Return the object of a message that `_join` made; its buffers stay parts of the message."""
    (count,) = _COUNT.unpack_from(whole, 0)
    at = (count + 1) * _COUNT.size
    buffers = []
    for i in range(count):
        at += -at % _ALIGN
        (length,) = _COUNT.unpack_from(whole, (i + 1) * _COUNT.size)
        buffers.append(whole[at : at + length])
        at += length
    return pickle.loads(buffers[0], buffers=buffers[1:])
