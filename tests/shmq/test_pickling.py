"""Handles on their way to spawned, forked and unrelated processes."""

import contextlib
import copy
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from shmq import ByteFifo, Channel, FutexRwLock, Mutex, PthreadRwLock, Queue, Ring, RoleTaken, Segment, SpinLock, SpinRwLock
from tests.shmq import pickled

METHODS = ["spawn", "forkserver", "fork"]
PATIENCE_S = 60.0  # a forkserver starts two interpreters


@pytest.fixture(autouse=True, scope="module")
def helpers_of_multiprocessing() -> Iterator[None]:
    """multiprocessing's own helper processes and the descriptors to them are there before a test counts, and gone
    after the last one."""
    from multiprocessing import forkserver, resource_sharer, resource_tracker

    forkserver.ensure_running()
    resource_tracker.ensure_running()
    with contextlib.closing(multiprocessing.Pipe()[0]) as conn:
        resource_sharer.DupFd(conn.fileno()).detach()
    yield
    resource_sharer.stop()
    forkserver._forkserver._stop()


@contextlib.contextmanager
def running(method: str, target, *args) -> Iterator[multiprocessing.process.BaseProcess]:
    process = multiprocessing.get_context(method).Process(target=target, args=args)
    process.start()
    try:
        yield process
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        process.close()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wait", ["park", "eventfd"])
@pytest.mark.parametrize("make", [lambda eventfd: Ring.create(4, 8, eventfd=eventfd),
                                  lambda eventfd: Channel.create(64, eventfd=eventfd)])  # fmt: skip
def test_unnamed_rings_and_channels_as_process_arguments(method: str, wait: str, make) -> None:
    eventfd = wait == "eventfd"
    with (
        make(eventfd) as there,
        make(eventfd) as back,
        running(method, pickled.echo, there, back, 50, wait),
        there.producer(wait) as tx,
        back.consumer(wait) as rx,
    ):
        for i in range(50):
            tx.push(i.to_bytes(8, "little"), timeout=PATIENCE_S)
            assert rx.pop(timeout=PATIENCE_S) == i.to_bytes(8, "big")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wait", ["park", "eventfd"])
def test_unnamed_byte_fifos_as_process_arguments(method: str, wait: str) -> None:
    text = b"each letter comes back in a write of its own " * 20
    with (
        ByteFifo.create(16, eventfd=wait == "eventfd") as there,
        ByteFifo.create(1024, eventfd=wait == "eventfd") as back,
        running(method, pickled.echo_bytes, there, back, len(text), wait),
        there.writer(wait) as tx,
        back.reader(wait) as rx,
    ):
        sent = 0
        while sent < len(text):
            sent += tx.write(text[sent:], timeout=PATIENCE_S)
        came = b""
        while len(came) < len(text):
            came += rx.read(1000, timeout=PATIENCE_S)
        assert came == text.upper()


@pytest.mark.parametrize("method", METHODS)
def test_locks_and_segments_as_process_arguments(method: str) -> None:
    with contextlib.ExitStack() as stack:
        segment = stack.enter_context(Segment.create(8, "mine", "1"))
        locks = [stack.enter_context(kind.create()) for kind in (*pickled.EXCLUSIVE, *pickled.SHARED)]
        ours, theirs = multiprocessing.Pipe()
        with ours, theirs, running(method, pickled.hold_all, locks, segment, theirs) as process:
            assert ours.poll(PATIENCE_S)
            assert ours.recv() == "held"
            assert int.from_bytes(segment.buf, "little") == process.pid
            for lock in locks:
                acquire = lock.acquire if isinstance(lock, pickled.EXCLUSIVE) else lock.acquire_write
                assert acquire(timeout=0.01) is False
            ours.send("release")
        for lock in locks:
            assert (lock.acquire if isinstance(lock, pickled.EXCLUSIVE) else lock.acquire_write)(timeout=0)
            (lock.release if isinstance(lock, pickled.EXCLUSIVE) else lock.release_write)()


@pytest.mark.parametrize("method", METHODS)
def test_a_ring_through_a_pipe(method: str) -> None:
    ours, theirs = multiprocessing.Pipe()
    records = [bytes([i] * 4) for i in range(5)]
    with (
        ours,
        theirs,
        Ring.create(8, 4, eventfd=True) as ring,
        ring.producer() as tx,
        running(method, pickled.from_pipe, theirs, 5),
    ):
        ours.send(ring)
        for record in records:
            tx.push(record, timeout=PATIENCE_S)
        assert ours.poll(PATIENCE_S)
        assert ours.recv() == records


def test_the_receiver_attached_it_does_not_own(name: str) -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, Segment.create(8, "mine", "1", name) as segment:
        ours.send(segment)
        received = theirs.recv()
        assert isinstance(received, Segment)
        assert received.name == name
        received.buf[0] = 7
        received.close()
        assert segment.buf[0] == 7
        assert os.path.exists(f"/dev/shm/{name}"), "only its creator removes the name"


def test_roles_do_not_travel() -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, Ring.create(8, 4) as ring, ring.producer() as tx:
        ours.send(ring)
        with theirs.recv() as same:
            with pytest.raises(RoleTaken):
                same.producer()
            with same.consumer() as rx:
                tx.push(b"abcd")
                assert rx.try_pop() == b"abcd"
        with pytest.raises(TypeError):
            ours.send(tx)


@pytest.mark.parametrize("make", [lambda: Ring.create(4, 8), lambda: Ring.create(4, 8, eventfd=True), SpinLock.create,
                                  Mutex.create, SpinRwLock.create, FutexRwLock.create, PthreadRwLock.create,
                                  lambda: Channel.create(64), Queue, lambda: Segment.create(8, "mine", "1")])  # fmt: skip
def test_pickled_elsewhere_it_says_what_to_do(make) -> None:
    with make() as thing:
        for attempt in (pickle.dumps, lambda it: pickle.dumps([it]), copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="pass its name and attach"):
                attempt(thing)


def test_a_lock_in_memory_of_ones_own_stays() -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, Segment.create(4096, "mine", "1") as segment:
        lock = Mutex(segment.mapping, 128)
        with pytest.raises(TypeError, match="memory of yours"):
            ours.send(lock)
        lock.close()


def test_closed_things_are_not_sent() -> None:
    ours: Connection
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        ring = Ring.create(4, 8)
        ring.close()
        with pytest.raises(ValueError, match="closed"):
            ours.send(ring)
