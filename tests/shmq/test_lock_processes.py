"""Locks between real processes: mutual exclusion, death of readers and writers, fork, signals."""

import os
import signal
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from shmq import FutexRwLock, Mutex, OwnerDied, PthreadRwLock, Segment, SpinLock, SpinRwLock
from tests.shmq.helpers import Child, Flag

Fork = Callable[[Callable[[], None]], Child]
MakeFlag = Callable[[], Flag]
RW = [SpinRwLock, FutexRwLock]  # those that survive a death
EXCLUSIVE = [SpinLock, Mutex]


@pytest.fixture(params=RW)
def lock(request: pytest.FixtureRequest) -> Iterator[SpinRwLock]:
    with request.param.create() as lock:
        yield lock


@pytest.fixture(params=[*RW, PthreadRwLock])
def any_lock(request: pytest.FixtureRequest) -> Iterator[SpinRwLock]:
    with request.param.create() as lock:
        yield lock


class Pair:
    """Two counters in shared memory that are equal whenever no writer is at work. Not atomic on purpose: the
    interpreter is between the two stores for long enough that a second writer would be seen."""

    def __init__(self) -> None:
        self.segment = Segment.create(16, "pair", "1")

    def bump(self) -> None:
        a, b = struct.unpack("QQ", self.segment.buf)
        assert a == b
        self.segment.buf[:8] = struct.pack("Q", a + 1)
        self.segment.buf[8:] = struct.pack("Q", b + 1)

    def check(self) -> int:
        a, b = struct.unpack("QQ", self.segment.buf)
        assert a == b, "a reader saw a writer's half-done work"
        return a


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    with pair.segment:
        yield pair


def test_writers_and_readers_exclude_each_other(any_lock: SpinRwLock, pair: Pair, fork: Fork) -> None:
    rounds = 1500

    def writer() -> None:
        for _ in range(rounds):
            with any_lock.write(timeout=20):
                pair.bump()

    def reader() -> None:
        last = 0
        while last < 2 * rounds:
            with any_lock.read(timeout=20):
                now = pair.check()
            assert now >= last
            last = now

    children = [fork(work) for work in (writer, writer, reader, reader)]
    for child in children:
        child.join()
    with any_lock.read():
        assert pair.check() == 2 * rounds


@pytest.mark.parametrize("kind", EXCLUSIVE)
def test_exclusive_locks_exclude(kind: type[SpinLock], pair: Pair, fork: Fork) -> None:
    rounds = 3000
    with kind.create() as lock:

        def work() -> None:
            for _ in range(rounds):
                with lock.hold(timeout=20):
                    pair.bump()

        children = [fork(work) for _ in range(3)]
        for child in children:
            child.join()
    assert pair.check() == 3 * rounds


@pytest.mark.parametrize("acquire", ["acquire_read", "acquire_write"])
def test_a_writers_death_ends_the_wait_and_is_reported_until_a_writer_knows(
    lock: SpinRwLock, acquire: str, fork: Fork, flag: MakeFlag
) -> None:
    held = flag()

    def die() -> None:
        lock.acquire_write()
        held.set()
        signal.pause()

    child = fork(die)
    held.wait()
    assert getattr(lock, acquire)(timeout=0.05) is False, "alive: no report"
    child.kill()
    before = time.monotonic()
    with pytest.raises(OwnerDied, match="held by the caller"):
        getattr(lock, acquire)()
    assert time.monotonic() - before < 1
    assert lock.held
    getattr(lock, acquire.replace("acquire", "release"))()
    if acquire == "acquire_read":  # a reader cannot have repaired anything
        for _ in range(2):
            with pytest.raises(OwnerDied):
                lock.acquire_read(timeout=1)
            lock.release_read()
        with pytest.raises(OwnerDied):
            lock.acquire_write(timeout=1)
        lock.release_write()
    for guard in (lock.write, lock.read):
        with guard(timeout=1):
            pass


def test_with_keeps_the_report_until_somebody_repairs(lock: SpinRwLock, fork: Fork, flag: MakeFlag) -> None:
    held = flag()

    def die() -> None:
        lock.acquire_write()
        held.set()
        signal.pause()

    child = fork(die)
    held.wait()
    child.kill()
    for guard in (lock.write, lock.write):
        with pytest.raises(OwnerDied), guard(timeout=5):
            pass
        assert not lock.held
    with pytest.raises(OwnerDied):
        lock.acquire_write(timeout=5)
    lock.release_write()
    with lock.read(timeout=5):
        pass


def test_tries_alone_learn_of_a_death(lock: SpinRwLock, fork: Fork, flag: MakeFlag) -> None:
    held = flag()

    def die() -> None:
        lock.acquire_write()
        held.set()
        signal.pause()

    child = fork(die)
    held.wait()
    child.kill()
    deadline = time.monotonic() + 5
    with pytest.raises(OwnerDied):
        while time.monotonic() < deadline:
            assert lock.acquire_write(timeout=0) is False
    lock.release_write()


def test_a_readers_death_lets_the_writer_in(lock: SpinRwLock, fork: Fork, flag: MakeFlag) -> None:
    held = flag()

    def die() -> None:
        lock.acquire_read()
        held.set()
        signal.pause()

    child = fork(die)
    held.wait()
    assert lock.acquire_write(timeout=0.05) is False
    child.kill()
    before = time.monotonic()
    with lock.write(timeout=5):  # no OwnerDied: a reader changed nothing
        assert time.monotonic() - before < 1


def test_death_of_a_writer_that_waits_for_readers(lock: SpinRwLock, fork: Fork, flag: MakeFlag) -> None:
    ready = flag()
    lock.acquire_read()

    def die() -> None:
        ready.set()
        lock.acquire_write()

    child = fork(die)
    ready.wait()
    segment = lock.segment
    assert segment is not None
    while not segment.buf[8]:  # until it has registered as the writer
        os.sched_yield()
    child.kill()
    lock.release_read()
    # it never wrote, but from outside that cannot be told: one report is right, a hang is not
    with pytest.raises(OwnerDied):
        lock.acquire_write(timeout=5)
    lock.release_write()


@pytest.mark.parametrize("kind", EXCLUSIVE)
def test_exclusive_lock_owner_death(kind: type[SpinLock], fork: Fork, flag: MakeFlag) -> None:
    held = flag()
    with kind.create() as lock:

        def die() -> None:
            lock.acquire()
            held.set()
            signal.pause()

        child = fork(die)
        held.wait()
        assert lock.acquire(timeout=0.03) is False
        child.kill()
        with pytest.raises(OwnerDied), lock.hold():
            pass
        with pytest.raises(OwnerDied):
            lock.acquire(timeout=5)
        lock.release()
        with lock.hold(timeout=0):
            pass


def test_a_child_takes_its_own_slot(any_lock: SpinRwLock, fork: Fork) -> None:
    any_lock.acquire_read()

    def child() -> None:
        assert not any_lock.held
        with pytest.raises(RuntimeError, match="does not hold"):
            any_lock.release_read()
        assert any_lock.acquire_read(timeout=0)
        any_lock.release_read()
        assert any_lock.acquire_write(timeout=0) is False

    fork(child).join()
    assert any_lock.held
    any_lock.release_read()
    with any_lock.write(timeout=1):  # the child has ended without close: its slot must not matter
        pass


def test_a_childs_exit_does_not_release_the_parents_lock(any_lock: SpinRwLock, fork: Fork) -> None:
    any_lock.acquire_write()
    fork(lambda: any_lock.close()).join()

    def child() -> None:
        assert any_lock.acquire_read(timeout=0.03) is False

    fork(child).join()
    any_lock.release_write()


def test_slots_of_dead_processes_are_reused(lock: SpinRwLock, fork: Fork) -> None:
    for _ in range(70):

        def child() -> None:
            with lock.read(timeout=5):
                os.kill(os.getpid(), signal.SIGKILL)

        process = fork(child)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        process.kill()
    with lock.write(timeout=5):
        pass


def test_waiters_that_were_killed_do_not_slow_the_lock_down_for_ever(fork: Fork, flag: MakeFlag) -> None:
    with FutexRwLock.create() as lock:
        lock.acquire_write()
        ready = flag()

        def waiter() -> None:
            ready.set()
            lock.acquire_write()

        child = fork(waiter)
        ready.wait()
        segment = lock.segment
        assert segment is not None
        while not segment.buf[12]:  # until it has announced its sleep
            os.sched_yield()
        child.kill()
        lock.release_write()
        assert segment.buf[12] == 0, "the first release cleared what the dead waiter left"


@pytest.mark.parametrize("kind", [*RW, PthreadRwLock])
def test_signal_handlers_run_while_waiting(kind: type[SpinRwLock], fork: Fork, flag: MakeFlag) -> None:
    class Alarm(Exception):
        pass

    def handler(*_: object) -> None:
        raise Alarm

    held = flag()
    with kind.create() as lock:

        def holder() -> None:
            lock.acquire_write()
            held.set()
            signal.pause()

        fork(holder)
        held.wait()
        old = signal.signal(signal.SIGALRM, handler)
        try:
            for acquire in (lock.acquire_read, lock.acquire_write):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                before = time.monotonic()
                with pytest.raises(Alarm):
                    acquire()
                assert time.monotonic() - before < 1
                assert not lock.held
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("timeout", [5, None])
@pytest.mark.parametrize(("held", "wanted"), [("write", "read"), ("write", "write"), ("read", "write")])
def test_a_death_in_a_pthread_lock_is_reported_and_loses_it(
    held: str, wanted: str, timeout: float | None, fork: Fork, flag: MakeFlag
) -> None:
    ready = flag()
    with PthreadRwLock.create() as lock:

        def die() -> None:
            getattr(lock, f"acquire_{held}")()
            ready.set()
            signal.pause()

        child = fork(die)
        ready.wait()
        assert getattr(lock, f"acquire_{wanted}")(timeout=0.05) is False, "alive: no report"
        child.kill()
        before = time.monotonic()
        for _ in range(2):  # again and again: nobody can repair it
            with pytest.raises(OwnerDied, match="NOT held"):
                getattr(lock, f"acquire_{wanted}")(timeout)
            assert not lock.held
            with pytest.raises(OwnerDied), getattr(lock, wanted)(timeout):
                pass
        assert time.monotonic() - before < 2


def test_slots_of_processes_that_ended_outside_a_pthread_lock_are_reused(fork: Fork) -> None:
    with PthreadRwLock.create() as lock:
        for _ in range(70):

            def child() -> None:
                with lock.read(timeout=5):
                    pass

            fork(child).join()
        with lock.write(timeout=0):
            pass


def test_two_processes_initialise_a_pthread_lock_in_zeroed_memory(pair: Pair, fork: Fork) -> None:
    with Segment.create(4096, "mine", "1") as segment:

        def work() -> None:
            lock = PthreadRwLock(segment.mapping, 128)
            for _ in range(500):
                with lock.write(timeout=20):
                    pair.bump()
            lock.close()

        for child in [fork(work) for _ in range(3)]:
            child.join()
    assert pair.check() == 1500


def test_deaths_in_turn_never_hang_a_mutex(pair: Pair, fork: Fork) -> None:
    """Every child dies with the mutex, while others wait for it; each waiter gets it and is told once."""
    with Mutex.create() as lock:

        def die() -> None:
            try:
                lock.acquire(timeout=20)
            except OwnerDied:
                pass
            pair.bump()
            os.kill(os.getpid(), signal.SIGKILL)

        for child in [fork(die) for _ in range(5)]:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            child.kill()
        with pytest.raises(OwnerDied):
            lock.acquire(timeout=20)
        lock.release()
    assert pair.check() == 5
