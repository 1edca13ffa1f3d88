"""Locks in one process: calls, errors, counters. Exclusion and deaths are tested in test_lock_processes."""

import math
import threading
import time
from collections.abc import Iterator

import pytest

from shmq import CorruptSegment, FutexRwLock, Mutex, OwnerDied, PthreadRwLock, RoleTaken, Segment, SpinLock, SpinRwLock
from tests.shmq.helpers import until

RW = [SpinRwLock, FutexRwLock, PthreadRwLock]
EXCLUSIVE = [SpinLock, Mutex]


@pytest.fixture(params=RW)
def lock(request: pytest.FixtureRequest) -> Iterator[SpinRwLock]:
    with request.param.create() as lock:
        yield lock


def other(lock: SpinRwLock) -> SpinRwLock:
    """A second handle on the same lock."""
    assert lock.segment is not None
    return type(lock)(lock.segment.mapping, lock.segment.payload_at)


def test_readers_share_writers_do_not(lock: SpinRwLock) -> None:
    second = other(lock)
    with lock.read():
        assert second.acquire_read(timeout=0)
        second.release_read()
        assert not second.acquire_write(timeout=0)
    with lock.write():
        assert not second.acquire_read(timeout=0)
        assert not second.acquire_write(timeout=0)
    assert second.acquire_write(timeout=0)
    second.release_write()
    second.close()


def test_a_failed_writer_does_not_block_readers(lock: SpinRwLock) -> None:
    second, third = other(lock), other(lock)
    lock.acquire_read()
    assert not second.acquire_write(timeout=0.01)
    assert third.acquire_read(timeout=0)
    third.release_read()
    lock.release_read()
    second.close()
    third.close()


def test_a_waiting_writer_goes_before_new_readers(lock: SpinRwLock) -> None:
    writer, reader = other(lock), other(lock)
    lock.acquire_read()
    thread = threading.Thread(target=writer.acquire_write)
    thread.start()
    until(lambda: not reader.acquire_read(timeout=0) or bool(reader.release_read()))
    assert not writer.held
    lock.release_read()
    thread.join()
    assert writer.held
    writer.release_write()
    writer.close()
    reader.close()


@pytest.mark.parametrize("timeout", [0, 0.001, 0.07])
def test_timeouts(lock: SpinRwLock, timeout: float) -> None:
    second = other(lock)
    lock.acquire_write()
    for acquire in (second.acquire_read, second.acquire_write):
        before = time.monotonic()
        assert acquire(timeout) is False
        assert time.monotonic() - before >= timeout
        assert not second.held
    for guard in (second.read, second.write):
        with pytest.raises(TimeoutError, match="not free within"), guard(timeout):
            pass
    lock.release_write()
    with second.write(timeout):
        assert second.held
    second.close()


@pytest.mark.parametrize("kind", EXCLUSIVE)
def test_impossible_timeouts(lock: SpinRwLock, kind: type[SpinLock]) -> None:
    with kind.create() as spin:
        for acquire in (lock.acquire_read, lock.acquire_write, spin.acquire):
            for timeout in (-1, math.nan):
                with pytest.raises(ValueError, match="seconds >= 0"):
                    acquire(timeout)
            with pytest.raises(TypeError):
                acquire(1, 2)  # type: ignore[call-arg]
        assert not lock.held
        assert not spin.held


def test_not_recursive(lock: SpinRwLock) -> None:
    for guard in (lock.read, lock.write):
        with guard():
            for acquire in (lock.acquire_read, lock.acquire_write):
                with pytest.raises(RuntimeError, match="not recursive"):
                    acquire()
    assert not lock.held


def test_release_of_what_is_not_held(lock: SpinRwLock) -> None:
    for release in (lock.release_read, lock.release_write):
        with pytest.raises(RuntimeError, match="does not hold"):
            release()
    with lock.read(), pytest.raises(RuntimeError, match="for writing"):
        lock.release_write()
    with lock.write(), pytest.raises(RuntimeError, match="for reading"):
        lock.release_read()


def test_guard_releases_when_the_block_raises(lock: SpinRwLock) -> None:
    with pytest.raises(KeyError), lock.write():
        raise KeyError
    assert not lock.held


def test_close_while_held(lock: SpinRwLock) -> None:
    second = other(lock)
    second.acquire_read()
    with pytest.raises(RuntimeError, match="release it first"):
        second.close()
    second.release_read()
    second.close()
    second.close()
    with pytest.raises(ValueError, match="closed"):
        second.acquire_read()


def test_a_dropped_writer_counts_as_a_death(lock: SpinRwLock) -> None:
    second = other(lock)
    second.acquire_write()
    del second
    with pytest.raises(OwnerDied), lock.read():
        pass
    with pytest.raises(OwnerDied):
        lock.acquire_write()
    assert lock.held, "the explicit form holds the lock, to repair"
    lock.release_write()
    with lock.read():
        pass


def test_a_dropped_reader_is_no_death(lock: SpinRwLock) -> None:
    second = other(lock)
    second.acquire_read()
    del second
    with lock.write(timeout=0):
        pass


@pytest.mark.parametrize("kind", EXCLUSIVE)
def test_abandon(lock: SpinRwLock, kind: type[SpinLock]) -> None:
    with pytest.raises(RuntimeError, match="does not hold"):
        lock._native.abandon()
    with kind.create() as spin:
        spin.acquire()
        spin._native.abandon()
        with pytest.raises(OwnerDied), spin.hold():
            pass
        with pytest.raises(OwnerDied):
            spin.acquire()
        spin.release()
        with spin.hold(timeout=0):
            pass


def test_sixty_two_handles(lock: SpinRwLock) -> None:
    handles = [other(lock) for _ in range(61)]
    with pytest.raises(RoleTaken, match="62 slots"):
        other(lock)
    for handle in handles:
        assert handle.acquire_read(0)
    assert not lock.acquire_write(0)
    for handle in handles:
        handle.release_read()
    assert lock.acquire_write(0)
    lock.release_write()
    handles.pop().close()
    handles.append(other(lock))


def test_stats_count_calls_not_slices(lock: SpinRwLock) -> None:
    second = other(lock)
    with lock.write():
        assert not second.acquire_read(timeout=0.12)
    with second.read():
        pass
    stats = second.stats()
    assert stats["acquires"] == 2
    assert stats["contended"] == 1
    # The clock of the wait starts a little after the deadline was set: microseconds, or a time slice on a busy machine.
    assert 0.06e9 <= stats["wait_ns"] < 10e9
    assert lock.stats() == {"acquires": 1, "contended": 0, "wait_ns": 0}
    second.close()


def test_one_handle_is_not_for_two_threads(lock: SpinRwLock) -> None:
    second = other(lock)
    lock.acquire_write()
    thread = threading.Thread(target=second.acquire_write)
    thread.start()

    def refused() -> bool:
        try:
            second.acquire_write(0)
        except RuntimeError as error:
            return "each thread its own" in str(error)
        return False

    until(refused)
    with pytest.raises(RuntimeError, match="release it first"):
        second.close()
    lock.release_write()
    thread.join()
    second.release_write()
    second.close()


def test_spin_and_futex_handles_mix() -> None:
    with SpinRwLock.create() as spin:
        assert spin.segment is not None
        futex = FutexRwLock(spin.segment.mapping, spin.segment.payload_at)
        futex.acquire_write()
        thread = threading.Thread(target=spin.acquire_write)
        thread.start()
        futex.release_write()
        thread.join()
        thread = threading.Thread(target=futex.acquire_read)
        thread.start()
        spin.release_write()
        thread.join()
        futex.release_read()
        futex.close()


@pytest.mark.parametrize("kind", RW)
def test_named_lock(name: str, kind: type[SpinRwLock]) -> None:
    with kind.create(name) as first, kind.attach(name) as second:
        with first.write():
            assert not second.acquire_read(0)
        with pytest.raises(CorruptSegment, match="another kind"):
            SpinLock.attach(name)


@pytest.mark.parametrize("kind", RW)
def test_lock_by_descriptor(kind: type[SpinRwLock]) -> None:
    with kind.create() as lock, kind.from_fd(lock.segment.fd) as same:
        with lock.write():
            assert same.acquire_read(0) is False
        with pytest.raises(CorruptSegment, match="another kind"):
            Mutex.from_fd(lock.segment.fd)


def test_locks_in_memory_of_ones_own() -> None:
    with Segment.create(4096, "mine", "1") as segment:
        first = SpinRwLock(segment.mapping, 128)
        second = SpinRwLock(segment.mapping, 128 + 640)
        spin = SpinLock(segment.mapping, 128 + 2 * 640)
        mutex = Mutex(segment.mapping, 128 + 2 * 640 + 16)
        pthread = PthreadRwLock(segment.mapping, 128 + 3 * 640)
        with first.write(), second.write(timeout=0), spin.hold(timeout=0), mutex.hold(0), pthread.write(0):
            pass
        for at in (64, 4096, -128, 1 << 62):
            for kind in RW:
                with pytest.raises(ValueError, match="aligned"):
                    kind(segment.mapping, at)
        for exclusive in EXCLUSIVE:
            with pytest.raises(ValueError, match="aligned"):
                exclusive(segment.mapping, 129)
        with pytest.raises(BufferError):
            SpinLock(bytes(64), 0)
        first.close()
        second.close()
        spin.close()
        mutex.close()
        pthread.close()


@pytest.mark.parametrize("kind", EXCLUSIVE)
def test_mutual_exclusion(kind: type[SpinLock]) -> None:
    with kind.create() as lock:
        assert lock.segment is not None
        second = kind(lock.segment.mapping, lock.segment.payload_at)
        with lock.hold():
            assert lock.held
            assert second.acquire(0) is False
            assert second.acquire(timeout=0.06) is False
            with pytest.raises(RuntimeError, match="not recursive"):
                lock.acquire()
            with pytest.raises(RuntimeError, match="does not hold"):
                second.release()
        with second.hold(timeout=0):
            pass
        second.close()


def test_a_released_mutex_wakes_sleepers_one_by_one() -> None:
    """Three sleepers in a row: each must be woken by the one before, although one wake-up clears the flag."""
    with Mutex.create() as lock:
        assert lock.segment is not None
        handles = [Mutex(lock.segment.mapping, lock.segment.payload_at) for _ in range(3)]
        order: list[int] = []

        def work(i: int) -> None:
            with handles[i].hold(timeout=20):
                order.append(i)

        lock.acquire()
        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: lock.segment is not None and lock.segment.buf[8] == 1)  # somebody is about to sleep
        lock.release()
        for thread in threads:
            thread.join()
        assert sorted(order) == [0, 1, 2]
        assert all(handle.stats()["acquires"] == 1 for handle in handles)
        for handle in handles:
            handle.close()
