"""The queue in one process: the calls of multiprocessing.Queue with its exceptions and time-outs, sizes, objects, errors.

The cases of CPython's own tests of multiprocessing.Queue are here as far as they concern behaviour, in other words.
"""

import contextlib
import errno
import math
import multiprocessing
import os
import pickle
import queue as stdlib_queue
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from shmq import CorruptSegment, Mutex, Queue, Ring, _native
from tests.shmq.helpers import until


@pytest.fixture
def queue() -> Iterator[Queue]:
    with Queue() as queue:
        yield queue


@pytest.fixture
def bounded() -> Iterator[Queue]:
    with Queue(3) as queue:
        yield queue


def fill(queue: Queue) -> None:
    for i in range(queue.maxsize):
        queue.put_nowait(i)


# ---- the interface of multiprocessing.Queue


def test_it_has_the_interface_of_the_standard_queue(queue: Queue) -> None:
    theirs = multiprocessing.Queue()
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public <= set(dir(queue))
    theirs.close()


@pytest.mark.parametrize("put", [
    lambda q: q.put(9, False), lambda q: q.put(9, block=False, timeout=5), lambda q: q.put_nowait(9),
    lambda q: q.put(9, True, 0), lambda q: q.put(9, timeout=-1), lambda q: q.put(9, timeout=0.05),
])  # fmt: skip
def test_put_when_full(bounded: Queue, put) -> None:
    fill(bounded)
    assert bounded.full()
    began = time.monotonic()
    with pytest.raises(stdlib_queue.Full):
        put(bounded)
    assert time.monotonic() - began < 2
    assert [bounded.get() for _ in range(3)] == [0, 1, 2], "and nothing was put"
    assert bounded.empty()


@pytest.mark.parametrize("get", [
    lambda q: q.get(False), lambda q: q.get(block=False, timeout=5), lambda q: q.get_nowait(),
    lambda q: q.get(True, 0), lambda q: q.get(timeout=-1), lambda q: q.get(timeout=0.05),
])  # fmt: skip
def test_get_when_empty(bounded: Queue, get) -> None:
    began = time.monotonic()
    with pytest.raises(stdlib_queue.Empty):
        get(bounded)
    assert time.monotonic() - began < 2
    bounded.put("it still works")
    assert get(bounded) == "it still works"


def test_timeouts_are_waited_for(bounded: Queue) -> None:
    fill(bounded)
    for call, error in ((lambda: bounded.put(1, timeout=0.12), stdlib_queue.Full),):
        began = time.monotonic()
        with pytest.raises(error):
            call()
        assert 0.12 <= time.monotonic() - began < 2
    while not bounded.empty():
        bounded.get()
    began = time.monotonic()
    with pytest.raises(stdlib_queue.Empty):
        bounded.get(timeout=0.12)
    assert 0.12 <= time.monotonic() - began < 2


def test_impossible_arguments(queue: Queue) -> None:
    for timeout in (math.nan, "1"):
        with pytest.raises((ValueError, TypeError)):
            queue.get(timeout=timeout)
    queue.put(1, timeout=math.inf)
    assert queue.get(timeout=math.inf) == 1
    for capacity in (0, -1, 1 << 60):
        with pytest.raises(ValueError, match="impossible"):
            Queue(capacity=capacity)
    with pytest.raises(TypeError):
        Queue("many")  # type: ignore[arg-type]


def test_qsize(bounded: Queue) -> None:
    assert bounded.qsize() == 0
    assert bounded.empty()
    assert not bounded.full()
    for i in range(1, 4):
        bounded.put(i)
        assert bounded.qsize() == i
        assert not bounded.empty()
    assert bounded.full()
    bounded.get()
    bounded.get_nowait()
    assert bounded.qsize() == 1
    assert not bounded.full()


@pytest.mark.parametrize("maxsize", [0, -5])
def test_no_maxsize_is_no_bound(maxsize: int) -> None:
    with Queue(maxsize) as queue:
        queue.put(1)
        assert not queue.full()
        assert queue.maxsize == 0
        assert queue.get() == 1


def test_after_close_every_call_is_a_value_error() -> None:
    queue = Queue()
    queue.put(1)
    with pytest.raises(AssertionError, match="close it before"):
        queue.join_thread()
    queue.close()
    queue.close()
    queue.join_thread()
    queue.cancel_join_thread()
    for call in (lambda: queue.put(1), queue.get, queue.get_nowait, lambda: queue.put_nowait(1), queue.qsize, queue.empty,
                 queue.stats):  # fmt: skip
        with pytest.raises(ValueError, match="closed"):
            call()
    assert queue.closed
    assert "closed" in repr(queue)


def test_an_unpicklable_object_raises_from_put(queue: Queue) -> None:
    class Refuses:
        def __reduce__(self) -> str:
            raise NotImplementedError("never")

    with pytest.raises(NotImplementedError, match="never"):
        queue.put(Refuses())
    for thing in (lambda: None, threading.Lock(), (i for i in [])):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            queue.put(thing)
    queue.put("fine")
    assert queue.get(timeout=5) == "fine"
    assert queue.empty()


def _breaks() -> None:
    raise KeyError("on the way out")


class _BreaksOutside:
    def __reduce__(self):
        return _breaks, ()


def test_an_object_that_cannot_be_unpickled_is_gone_and_no_more(queue: Queue) -> None:
    queue.put(_BreaksOutside())
    queue.put("next")
    with pytest.raises(KeyError, match="way out"):
        queue.get()
    assert queue.get() == "next"


# ---- what blocks and what wakes


def test_a_waiting_get_is_woken(queue: Queue) -> None:
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(queue.get(timeout=20)))
    thread.start()
    until(lambda: queue.stats()["consumer_parks"] > 0)
    queue.put("wake")
    thread.join()
    assert got == ["wake"]


def test_a_waiting_put_is_woken(bounded: Queue) -> None:
    fill(bounded)
    thread = threading.Thread(target=lambda: bounded.put("late", timeout=20))
    thread.start()
    until(lambda: bounded.stats()["producer_parks"] > 0)
    assert bounded.get() == 0
    thread.join()
    assert [bounded.get() for _ in range(3)] == [1, 2, "late"]


def test_a_call_without_time_does_not_wait_for_one_that_waits(bounded: Queue) -> None:
    """A consumer that waits holds its side's mutex; another one must be told at once that there is nothing."""
    thread = threading.Thread(target=lambda: bounded.get(timeout=20))
    thread.start()
    until(lambda: bounded.stats()["consumer_parks"] > 0)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(stdlib_queue.Empty):
            bounded.get_nowait()
    assert time.monotonic() - began < 1
    bounded.put(None)
    thread.join()


def test_close_ends_the_calls_of_other_threads() -> None:
    queue = Queue()
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            queue.get()
        except ValueError as error:
            raised.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: queue.stats()["consumer_parks"] > 0)
    queue.close()
    for thread in threads:
        thread.join()
    assert len(raised) == 3


def test_threads_share_a_queue(bounded: Queue) -> None:
    count, got = 400, []

    def put(n: int) -> None:
        for i in range(count):
            bounded.put((n, i), timeout=20)

    def get() -> None:
        for _ in range(count):
            got.append(bounded.get(timeout=20))

    threads = [threading.Thread(target=put, args=(n,)) for n in range(3)] + [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [(n, i) for n in range(3) for i in range(count)]


# ---- an unbounded queue keeps what the ring cannot


def test_unbounded_puts_do_not_block_and_keep_the_order() -> None:
    with Queue(capacity=4096) as queue:
        for i in range(5000):
            queue.put(i)
        assert queue.stats()["waiting"] > 4000
        assert queue.qsize() >= 5000
        assert [queue.get(timeout=20) for _ in range(5000)] == list(range(5000))
        until(lambda: queue.qsize() == 0)


def test_close_hands_over_what_waits_and_join_thread_waits_for_it() -> None:
    queue = Queue(capacity=4096)
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        ours.send(queue)
        with theirs.recv() as same:
            for i in range(500):
                queue.put(i)
            queue.close()
            assert queue._feeder is not None
            assert [same.get(timeout=20) for _ in range(500)] == list(range(500))
            queue.join_thread()
            assert queue._core.closed
    _stop_sharing()


# ---- objects


@pytest.mark.parametrize("size", [0, 1, 30, 31, 32, 33, 40, 100, 500, 511, 512, 513, 4000, 4096, 100_000, 3_000_000])
def test_sizes(size: int) -> None:
    with Queue(capacity=4096) as queue:
        for _ in range(70):  # often enough to pass the ring's end at every offset
            thing = os.urandom(size)
            queue.put(thing)
            assert queue.get(timeout=5) == thing
            if size > 100_000:
                break


def test_spilled_memory_is_given_back() -> None:
    with Queue(4) as queue:
        before = os.fstat(queue.segment.fd).st_blocks
        for round_ in range(3):
            for i in range(4):
                queue.put(bytes([i]) * 1_000_000, timeout=0)
            assert os.fstat(queue.segment.fd).st_blocks * 512 > 4_000_000
            assert [queue.get(timeout=0)[:1] for _ in range(4)] == [b"\0", b"\1", b"\2", b"\3"]
            assert os.fstat(queue.segment.fd).st_blocks == before, round_


def test_a_bounded_queue_takes_maxsize_objects_of_any_size() -> None:
    with Queue(64, capacity=4096) as queue:
        things = [os.urandom(i * 40) for i in range(64)]
        for thing in things:
            queue.put_nowait(thing)
        with pytest.raises(stdlib_queue.Full):
            queue.put_nowait(b"")
        assert [queue.get_nowait() for _ in things] == things


@pytest.mark.parametrize("make", [
    lambda: np.arange(12.0).reshape(3, 4), lambda: np.zeros((0, 3)), lambda: np.arange(10_000, dtype="i2")[::-1],
    lambda: np.asfortranarray(np.ones((50, 60))), lambda: np.array(["a", None], dtype=object),
    lambda: np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]), lambda: np.float32(7),
])  # fmt: skip
def test_arrays(queue: Queue, make) -> None:
    array = make()
    queue.put({"one": array, "two": [array, array]})
    got = queue.get()
    np.testing.assert_array_equal(got["one"], array)
    assert got["one"].dtype == array.dtype
    assert got["two"][0] is got["two"][1] is got["one"], "one object before, one object after"


def test_arrays_are_writable_aligned_and_apart(queue: Queue) -> None:
    array = np.arange(1000.0)
    queue.put([array, array + 1])
    array[:] = -1  # after put: does not show
    first, second = queue.get()
    assert first[10] == 10
    first[:] = 0
    assert second[10] == 11
    for got in (first, second):
        assert got.flags.writeable
        assert got.ctypes.data % 16 == 0


def test_read_only_buffers_stay_read_only(queue: Queue) -> None:
    array = np.arange(100)
    array.flags.writeable = False
    queue.put(array)
    assert not queue.get().flags.writeable


def test_more_buffers_than_a_message_has_parts(queue: Queue) -> None:
    arrays = [np.full(3, i) for i in range(3000)]
    queue.put(arrays)
    assert [int(a[0]) for a in queue.get()] == list(range(3000))


def test_what_only_multiprocessing_can_pickle(queue: Queue) -> None:
    """A connection travels as a descriptor; plain pickle would send its number."""
    ours, theirs = multiprocessing.Pipe()
    queue.put({"conn": theirs})
    theirs.close()
    with ours, queue.get()["conn"] as received:
        received.send("hello")
        assert ours.recv() == "hello"
    _stop_sharing()


def test_handles_travel_through_a_queue(queue: Queue) -> None:
    with Ring.create(4, 8) as ring, Mutex.create() as lock, Queue() as other:
        queue.put((ring, lock, other))
        same_ring, same_lock, same_other = queue.get()
        with same_ring, same_lock, same_other:
            with ring.producer() as tx, same_ring.consumer() as rx:
                tx.push(b"12345678")
                assert rx.pop() == b"12345678"
            with lock.hold():
                assert same_lock.acquire(0) is False
            same_other.put(5)
            assert other.get() == 5
    _stop_sharing()


def _stop_sharing() -> None:
    from multiprocessing import resource_sharer

    resource_sharer.stop()


def test_a_full_dev_shm_is_an_os_error(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource
    import signal

    size = os.fstat(queue.segment.fd).st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            queue.put(bytes(1_000_000))
        assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    queue.put(bytes(1_000_000))
    assert queue.get() == bytes(1_000_000), "still usable"
    assert queue.empty()


# ---- names and hostile memory


def test_by_name(name: str) -> None:
    with Queue(5, name=name) as queue, Queue.attach(name) as same:
        assert same.maxsize == 5
        with pytest.raises(CorruptSegment, match="another kind"):
            Ring.attach(name)
        queue.put(bytes(200_000))  # spilled: the file is longer than what is mapped
        with Queue.attach(name) as third:
            assert third.get() == bytes(200_000)
        assert same.name == name
        with pytest.raises(FileExistsError):
            Queue(name=name)
    with pytest.raises(FileNotFoundError):
        Queue.attach(name)


def words(queue: Queue) -> memoryview:
    return queue.segment.buf.cast("Q")


def field(struct: str, *path: str) -> int:
    """The index, in 64-bit words, of a field of the shared queue."""
    layout = _native.layout()
    offset = 0
    for part in path:
        at = layout[struct][1][part][0]
        offset += at
        struct = {"put": "queue_side", "get": "queue_side", "lock": "mutex"}.get(part, "")
    return offset // 8


@pytest.mark.parametrize("value", [1 << 20, 1 << 40, 1 << 63])
@pytest.mark.parametrize("side", ["put", "get"])
def test_impossible_cursors(side: str, value: int) -> None:
    with Queue(capacity=4096) as queue:
        memory = words(queue)
        memory[field("queue", side, "cursor")] = value
        memory.release()
        if side == "put":
            with pytest.raises(CorruptSegment):
                queue.get(timeout=0.1)
        else:
            with pytest.raises(CorruptSegment):
                for i in range(65):  # at the latest when the ring looks full
                    queue.put(i)


def test_every_header_byte_flipped() -> None:
    """Whatever stands in the header: an answer, a documented exception, never a crash or a hang."""
    size = _native.layout()["queue"][0]
    for at in range(size + 16):  # and the first message's record, but not its pickle
        for bits in (0xFF, 0x01, 0x80):
            with Queue(20, capacity=4096) as queue:
                queue.put((1, 2))
                queue.put(b"x" * 1000)
                queue.segment.buf[at] ^= bits
                for call in (queue.qsize, lambda: queue.put(3, timeout=0.001), lambda: queue.get(timeout=0.001), queue.stats,
                             lambda: queue.get(timeout=0.001), lambda: queue.put(b"y" * 3000, timeout=0.001)):  # fmt: skip
                    with contextlib.suppress(CorruptSegment, stdlib_queue.Full, stdlib_queue.Empty, pickle.UnpicklingError,
                                             EOFError, MemoryError, ValueError, struct.error, OSError):  # fmt: skip
                        call()


@pytest.mark.parametrize(("word", "value"), [(0, 0), (0, 7), (1, 1 << 61), (1, 100_000), (0, 5)])
def test_impossible_records(queue: Queue, word: int, value: int) -> None:
    """Word 0 of a record is its kind, word 1 its length; kind 5 says it was spilled, to a file that has nothing."""
    queue.put(b"x")
    memory = words(queue)
    start = _native.layout()["queue"][0] // 8
    memory[start + word] = value
    if value == 5:
        memory[start + 1], memory[start + 2] = 100, 1 << 50
    with pytest.raises(CorruptSegment):
        queue.get(timeout=0.1)
    memory.release()


@pytest.mark.parametrize("index", range(3))
def test_impossible_geometry(name: str, index: int) -> None:
    with Queue(3, name=name) as queue:
        memory = words(queue)
        memory[index] = (1 << 63) + 1
        memory.release()
        with pytest.raises(CorruptSegment):
            Queue.attach(name)


# ---- deaths at chosen steps, staged in the shared words


DEAD = 1  # a token of pid 0, which never lives


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("side", ["put", "get"])
def test_death_around_the_publishing_store(bounded: Queue, side: str, published: bool) -> None:
    """The holder died after writing next_*, before or after the cursor, and before the count."""
    bounded.put("first")
    bounded.put("second")
    memory = words(bounded)
    at = {name: field("queue", side, name) for name in ("cursor", "items", "next_cursor", "next_items", "lock")}
    if published:
        if side == "put":  # "second" is there, but not counted
            memory[at["items"]] -= 1
        else:
            assert bounded.get() == "first"
            memory[at["items"]] -= 1
    else:
        memory[at["next_cursor"]] = memory[at["cursor"]] + 1
        memory[at["next_items"]] = memory[at["items"]] + 1
    memory[at["lock"]] = DEAD
    memory.release()
    if side == "put":
        bounded.put("third", timeout=5)
        assert bounded.qsize() == 3
        assert [bounded.get(timeout=5) for _ in range(3)] == ["first", "second", "third"]
    else:
        rest = ["second"] if published else ["first", "second"]
        assert [bounded.get(timeout=5) for _ in rest] == rest
        assert bounded.qsize() == 0
    with pytest.raises(stdlib_queue.Empty):
        bounded.get_nowait()


def test_pages_of_a_message_that_a_dead_producer_was_writing_are_given_back(bounded: Queue) -> None:
    before = os.fstat(bounded.segment.fd).st_blocks
    size = os.fstat(bounded.segment.fd).st_size
    os.pwrite(bounded.segment.fd, bytes(500_000), -(-size // 4096) * 4096)
    memory = words(bounded)
    memory[field("queue", "put", "lock")] = DEAD
    memory.release()
    bounded.put(1, timeout=5)
    assert os.fstat(bounded.segment.fd).st_blocks == before
    assert bounded.get() == 1


# ---- against a plain model
