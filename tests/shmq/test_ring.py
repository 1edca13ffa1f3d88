"""Ring in one process: calls, errors, views, roles. Order and loss are tested in test_ring_model and _processes."""

import array
import ctypes
import gc
import os
import queue
import threading
from collections.abc import Callable, Iterator

import pytest

import shmq
from shmq import CorruptSegment, Ring, RoleTaken, _native
from tests.shmq.helpers import Child, until

Fork = Callable[[Callable[[], None]], Child]
SIZE = 8


def record(i: int) -> bytes:
    return i.to_bytes(SIZE, "little")


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(4, SIZE) as ring:
        yield ring


@pytest.fixture
def tx(ring: Ring) -> Iterator[_native.RingProducer]:
    with ring.producer() as end:
        yield end


@pytest.fixture
def rx(ring: Ring, tx: _native.RingProducer) -> Iterator[_native.RingConsumer]:
    with ring.consumer() as end:
        yield end


# ---- making and opening


@pytest.mark.parametrize("capacity", [0, -1, -8, 3, 1000])
def test_capacity_must_be_a_power_of_two(capacity: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Ring.create(capacity, 8)


@pytest.mark.parametrize("slot_size", [0, -1, 1 << 32])
def test_impossible_slot_size(slot_size: int) -> None:
    with pytest.raises(ValueError, match="slot_size must be"):
        Ring.create(8, slot_size)


def test_too_large_ring() -> None:
    with pytest.raises(ValueError, match="1 TiB"):
        Ring.create(1 << 40, 4096)


def test_name_in_use_leaves_the_first_ring_alone(name: str) -> None:
    with Ring.create(4, SIZE, name) as first, first.producer() as tx:
        tx.push(record(1))
        with pytest.raises(FileExistsError):
            Ring.create(8, 16, name)
        with Ring.attach(name) as second, second.consumer() as rx:
            assert (second.capacity, second.slot_size) == (4, SIZE)
            assert rx.pop() == record(1)


def test_attach_to_something_else(name: str) -> None:
    with shmq.Segment.create(4096, "other", "1", name), pytest.raises(CorruptSegment, match="another kind"):
        Ring.attach(name)


def test_attach_to_a_segment_without_a_ring(name: str) -> None:
    with shmq.Segment.create(4096, "ring", "1", name), pytest.raises(CorruptSegment, match="no valid ring"):
        Ring.attach(name)


def test_from_fd(ring: Ring, tx: _native.RingProducer) -> None:
    tx.push(record(5))
    with Ring.from_fd(ring.fd) as other, other.consumer() as rx:
        assert rx.pop(0) == record(5)


def test_smallest_ring() -> None:
    with Ring.create(1, 1) as ring, ring.producer() as tx, ring.consumer() as rx:
        for i in range(5):
            assert tx.try_push(bytes([i]))
            assert not tx.try_push(b"x")
            assert rx.try_pop() == bytes([i])
            assert rx.try_pop() is None


# ---- push and pop


def test_full_and_empty(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    assert rx.try_pop() is None
    assert [tx.try_push(record(i)) for i in range(5)] == [True] * 4 + [False]
    assert [rx.try_pop() for _ in range(5)] == [record(i) for i in range(4)] + [None]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: array.array("B", b)])
def test_any_contiguous_buffer_is_a_record(kind, tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    assert tx.try_push(kind(record(7)))
    tx.push(kind(record(8)))
    assert tx.push_many([kind(record(9))]) == 1
    assert tx.push_array(kind(record(10))) == 1
    assert rx.pop_many(9) == [record(i) for i in range(7, 11)]


@pytest.mark.parametrize("wrong", [b"", b"1234567", b"123456789", bytearray(9)])
def test_wrong_record_size(wrong: bytes, tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    for call in (tx.try_push, tx.push, lambda r: tx.push_many([record(1), r])):
        with pytest.raises(ValueError, match="8 bytes"):
            call(wrong)
    assert rx.try_pop() is None, "a batch with an unfit record must not be pushed in part"
    tx.push_array(record(0) * 4)
    with pytest.raises(ValueError, match="8 bytes"):
        tx.try_push(wrong)


def test_objects_that_are_no_buffers(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    for call in (tx.try_push, tx.push, tx.push_array, lambda r: tx.push_many([r])):
        with pytest.raises(TypeError):
            call("12345678")
    with pytest.raises(TypeError, match="sequence"):
        tx.push_many(5)  # type: ignore[arg-type]
    with pytest.raises((TypeError, BufferError)):
        rx.pop_array(b"12345678")
    with pytest.raises(BufferError):
        tx.push_array(memoryview(bytes(32))[::2])


def test_batches_stop_at_the_limits(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    assert tx.push_many([record(i) for i in range(6)]) == 4
    assert tx.push_many([record(9)]) == 0
    assert tx.push_array(record(9)) == 0
    assert rx.pop_many(0) == []
    assert rx.pop_many(3) == [record(0), record(1), record(2)]
    assert tx.push_array(b"".join(map(record, range(4, 9)))) == 3
    out = bytearray(6 * SIZE)
    assert rx.pop_array(out) == 4
    assert out == b"".join(map(record, [3, 4, 5, 6])) + bytes(2 * SIZE)
    assert rx.pop_array(out) == 0
    assert tx.push_many([]) == 0
    assert tx.push_array(b"") == 0


def test_array_length_must_be_whole_records(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    with pytest.raises(ValueError, match="multiple of the slot size"):
        tx.push_array(bytes(SIZE + 1))
    with pytest.raises(ValueError, match="multiple of the slot size"):
        rx.pop_array(bytearray(SIZE - 1))


def test_bad_counts(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    with pytest.raises(ValueError, match="negative"):
        rx.pop_many(-1)
    for call in (tx.reserve, rx.peek):
        for n in (0, -1):
            with pytest.raises(ValueError, match="at least one slot"):
                call(n)
        with pytest.raises(OverflowError):
            call(1 << 70)
        with pytest.raises(TypeError):
            call(1.5)  # type: ignore[arg-type]


def test_stats(ring: Ring, tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    tx.push_many([record(i) for i in range(4)])
    tx.try_push(record(4))
    rx.pop_many(4)
    rx.try_pop()
    stats = ring.stats()
    expected = {"pushes": 4, "pops": 4, "used": 0, "full_hits": 1, "empty_hits": 1, "high_water": 4, "capacity": 4}
    assert stats | expected == stats
    assert stats == tx.stats() == rx.stats()
    assert stats["producer_token"] >> 32 == os.getpid()


# ---- zero copy


def test_reserve_and_commit(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    view = tx.reserve(3)
    assert len(view) == 3 * SIZE
    view[: 2 * SIZE] = record(1) + record(2)
    assert rx.try_pop() is None, "reserved slots are invisible"
    tx.commit(2)
    assert rx.pop_many(9) == [record(1), record(2)]
    with pytest.raises(ValueError, match="released"):
        view[0] = 1


def test_peek_and_release(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    tx.push_many([record(i) for i in range(4)])
    view = rx.peek(3)
    assert view.readonly
    assert bytes(view) == record(0) + record(1) + record(2)
    assert not tx.try_push(record(9)), "peeked slots are not free"
    rx.release(1)
    assert tx.try_push(record(9))
    assert rx.pop() == record(1)


def test_views_are_contiguous_and_therefore_short_at_the_end(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    tx.push_array(bytes(3 * SIZE))
    rx.pop_many(3)
    assert len(tx.reserve(4)) == 1 * SIZE
    tx.commit(1)
    assert len(tx.reserve(4)) == 3 * SIZE
    tx.commit(3)
    assert len(tx.reserve(4)) == 0
    tx.commit(0)
    assert len(rx.peek(4)) == 1 * SIZE
    rx.release(1)
    assert len(rx.peek(4)) == 3 * SIZE
    rx.release(3)
    assert len(rx.peek(4)) == 0
    rx.release(0)


def test_nothing_moves_while_a_view_is_out(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    tx.push(record(1))
    reserved, peeked = tx.reserve(1), rx.peek(1)
    calls: list[Callable[[], object]] = [
        lambda: tx.try_push(record(0)),
        lambda: tx.push(record(0)),
        lambda: tx.push_many([record(0)]),
        lambda: tx.push_array(record(0)),
        lambda: tx.reserve(1),
        rx.try_pop,
        rx.pop,
        lambda: rx.pop_many(1),
        lambda: rx.pop_array(bytearray(SIZE)),
        lambda: rx.peek(1),
    ]
    for call in calls:
        with pytest.raises(BufferError, match="view is out"):
            call()
    del reserved, peeked
    tx.commit(0)
    rx.release(0)
    assert rx.pop() == record(1)


@pytest.mark.parametrize("derive", [lambda v: v[2:4], lambda v: (ctypes.c_char * SIZE).from_buffer(v)])
def test_views_cannot_outlive_their_commit(derive, tx: _native.RingProducer) -> None:
    derived = derive(tx.reserve(1))
    with pytest.raises(BufferError, match="alive"):
        tx.commit(1)
    with pytest.raises(BufferError, match="alive"):
        tx.close()
    assert tx.stats()["pushes"] == 0
    del derived
    gc.collect()
    tx.commit(1)
    assert tx.stats()["pushes"] == 1


def test_views_cannot_outlive_their_release(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    tx.push(record(3))
    derived = rx.peek(1)[2:4]
    with pytest.raises(BufferError, match="alive"):
        rx.release(1)
    with pytest.raises(BufferError, match="alive"):
        rx.close()
    derived.release()
    rx.release(1)
    assert rx.try_pop() is None


def test_commit_and_release_only_what_is_out(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    for call in (tx.commit, rx.release):
        with pytest.raises(ValueError, match="0 are out"):
            call(1)
        call(0)
    tx.reserve(2)
    for n in (3, -1):
        with pytest.raises(ValueError, match="2 are out"):
            tx.commit(n)
    tx.commit(2)


def test_a_view_keeps_ring_and_role_alive() -> None:
    ring = Ring.create(4, SIZE)
    view = ring.producer().reserve(2)
    segment = ring.segment
    del ring
    gc.collect()
    with Ring.from_fd(segment.fd) as other:
        with pytest.raises(RoleTaken):
            other.producer()
        view[0] = 1
        del view
        gc.collect()
        other.producer().close()


# ---- roles and closing


def test_one_producer_one_consumer(ring: Ring, tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    with pytest.raises(RoleTaken, match="close it first"):
        ring.producer()
    with pytest.raises(RoleTaken, match="close it first"):
        ring.consumer()


def test_role_is_free_after_close_and_after_drop(ring: Ring) -> None:
    ring.producer().close()
    end = ring.producer()
    end.push(record(1))
    del end
    with ring.producer() as end:
        end.push(record(2))
    with ring.consumer() as rx:
        assert rx.pop_many(9) == [record(1), record(2)]


def test_use_after_close(ring: Ring) -> None:
    tx, rx = ring.producer(), ring.consumer()
    tx.close()
    rx.close()
    tx.close()
    for call in (lambda: tx.try_push(record(1)), lambda: tx.push(record(1)), rx.try_pop, rx.pop, tx.stats,
                 lambda: tx.reserve(1), lambda: rx.release(0), tx.__enter__):  # fmt: skip
        with pytest.raises(ValueError, match="closed"):
            call()
    assert tx.closed
    assert tx.capacity == 4


def test_ring_cannot_close_under_its_ends() -> None:
    ring = Ring.create(4, SIZE)
    tx = ring.producer()
    with pytest.raises(BufferError, match="drop or close them first"):
        ring.close()
    tx.push(record(1))
    tx.close()
    ring.close()


def test_end_outlives_the_ring_object() -> None:
    tx = Ring.create(4, SIZE).producer()
    gc.collect()
    assert tx.try_push(record(1))


def test_roles_are_not_inherited_by_fork(ring: Ring, tx: _native.RingProducer, fork: Fork) -> None:
    def child() -> None:
        with pytest.raises(RuntimeError, match="parent process"):
            tx.push(record(1))
        with pytest.raises(RoleTaken, match=f"process {os.getppid()} is the producer"):
            ring.producer()
        tx.close()

    fork(child).join()
    assert tx.try_push(record(1)), "the child's close must not give the parent's role back"
    with pytest.raises(RoleTaken):
        ring.producer()


def test_second_thread_is_refused_while_one_waits(ring: Ring, tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(rx.pop()))
    thread.start()
    until(lambda: rx.stats()["consumer_parks"] > 0)
    for call in (rx.try_pop, rx.close, lambda: rx.peek(1)):
        with pytest.raises(RuntimeError, match="in progress"):
            call()
    tx.push(record(1))
    thread.join()
    assert got == [record(1)]


class Hostile:
    """A sequence whose item runs code in the middle of push_many."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __iter__(self) -> Iterator[bytes]:
        yield record(1)
        self.action()


def test_closing_while_arguments_are_converted(ring: Ring) -> None:
    tx = ring.producer()
    with pytest.raises(ValueError, match="closed"):
        tx.push_many(Hostile(tx.close))  # type: ignore[arg-type]


class Index:
    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __index__(self) -> int:
        self.action()
        return 1


def test_closing_inside_index(ring: Ring) -> None:
    for take, verb in ((ring.producer, "reserve"), (ring.producer, "commit"), (ring.consumer, "peek"),
                       (ring.consumer, "release"), (ring.consumer, "pop_many")):  # fmt: skip
        end = take()
        with pytest.raises(ValueError, match="closed"):
            getattr(end, verb)(Index(end.close))


def test_unknown_wait_and_bad_spins(ring: Ring) -> None:
    with pytest.raises(ValueError, match="spin, adaptive, park, eventfd"):
        ring.producer("sleep")  # type: ignore[arg-type]
    for spins in (-1, 1 << 32):
        with pytest.raises(ValueError, match="spins"):
            ring.consumer(spins=spins)
    with pytest.raises(ValueError, match="eventfd=True"):
        ring.consumer("eventfd")
    with ring.consumer() as rx, pytest.raises(ValueError, match="only an end with"):
        rx.fileno()


def test_push_full_and_pop_empty_at_once(tx: _native.RingProducer, rx: _native.RingConsumer) -> None:
    with pytest.raises(queue.Empty):
        rx.pop(timeout=0)
    tx.push_array(bytes(4 * SIZE))
    with pytest.raises(queue.Full):
        tx.push(record(1), 0)
    assert len(rx.pop_many(9)) == 4


def test_repr(name: str) -> None:
    with Ring.create(4, SIZE, name) as ring:
        assert repr(ring) == f"<Ring {name}, 4 x 8 bytes>"
    assert "closed" in repr(ring)
