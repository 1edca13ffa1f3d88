"""Channel in one process: calls, errors, views, roles. Order and loss are tested in test_channel_model and _processes."""

import array
import ctypes
import gc
import math
import os
import queue
import select
from collections.abc import Callable, Iterator

import pytest

import shmq
from shmq import Channel, CorruptSegment, RoleTaken, _native
from tests.shmq.helpers import Child

Fork = Callable[[Callable[[], None]], Child]
CAPACITY = 128


@pytest.fixture
def channel() -> Iterator[Channel]:
    with Channel.create(CAPACITY, eventfd=True) as channel:
        yield channel


@pytest.fixture
def tx(channel: Channel) -> Iterator[_native.ChannelProducer]:
    with channel.producer() as end:
        yield end


@pytest.fixture
def rx(channel: Channel, tx: _native.ChannelProducer) -> Iterator[_native.ChannelConsumer]:
    with channel.consumer() as end:
        yield end


# ---- making and opening


@pytest.mark.parametrize("capacity", [24, 1000, (1 << 20) + 1])
def test_capacity_must_be_a_power_of_two(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"power of two, not {capacity}: take {1 << capacity.bit_length()}"):
        Channel.create(capacity)


@pytest.mark.parametrize("capacity", [0, -1, 8, 1 << 33])
def test_impossible_capacity(capacity: int) -> None:
    with pytest.raises(ValueError, match="between 16 bytes and 4 GiB"):
        Channel.create(capacity)


def test_by_name_and_by_descriptor(name: str) -> None:
    with Channel.create(CAPACITY, name) as channel, channel.producer() as tx:
        tx.push(b"hello")
        with Channel.attach(name) as other, other.consumer() as rx:
            assert (other.capacity, other.max_message, rx.capacity, rx.max_message) == (128, 64, 128, 64)
            assert rx.pop() == b"hello"
        tx.push(b"again")
        with Channel.from_fd(channel.fd) as other, other.consumer() as rx:
            assert rx.pop() == b"again"


@pytest.mark.parametrize("make", [shmq.Ring.attach, Channel.attach])
def test_a_ring_is_no_channel_and_a_channel_no_ring(make, name: str) -> None:
    made = Channel.create(CAPACITY, name) if make == shmq.Ring.attach else shmq.Ring.create(CAPACITY, 1, name)
    with made, pytest.raises(CorruptSegment, match="another kind"):
        make(name)


def test_attach_to_a_segment_without_a_channel(name: str) -> None:
    with shmq.Segment.create(4096, "channel", "1", name), pytest.raises(CorruptSegment, match="no valid channel"):
        Channel.attach(name)


def test_smallest_channel() -> None:
    with Channel.create(16) as channel, channel.producer() as tx, channel.consumer() as rx:
        for n in [0, 1, 7, 8, 8, 0, 3, 8, 5] * 3:
            assert tx.try_push(b"x" * n)
            assert rx.try_pop() == b"x" * n
            assert rx.try_pop() is None


# ---- push and pop


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: array.array("B", b)])
def test_any_contiguous_buffer_is_a_message(kind, tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    assert tx.try_push(kind(b"one"))
    tx.push(kind(b"three"))
    assert tx.push_many([kind(b"seven"), kind(b"")]) == 2
    assert rx.pop_many(9) == [b"one", b"three", b"seven", b""]


def test_items_of_any_size_count_as_bytes(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    numbers = array.array("q", range(4))
    tx.push(numbers)
    out = array.array("q", [0] * 4)
    assert rx.pop_into(out) == 32
    assert out == numbers


@pytest.mark.parametrize("start", range(0, CAPACITY, 8))
def test_half_the_capacity_fits_wherever_the_channel_stands(start: int) -> None:
    """And one byte more never does: the limit is exact and does not depend on the position."""
    with Channel.create(CAPACITY) as channel, channel.producer() as tx, channel.consumer() as rx:
        for _ in range(start // 8):
            tx.push(b"")
            rx.pop()
        longest = os.urandom(CAPACITY // 2)
        tx.push(longest, timeout=0)
        assert rx.pop(timeout=0) == longest
        for call in (tx.try_push, tx.push, lambda m: tx.push_many([b"ok", m]), lambda m: tx.reserve(len(m))):
            with pytest.raises(ValueError, match="65 bytes does not fit: this channel takes at most 64"):
                call(longest + b"!")
        assert rx.try_pop() is None, "a batch with an unfit message must not be pushed in part"


def test_full_and_empty(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    assert rx.try_pop() is None
    assert [tx.try_push(b"x" * 24) for _ in range(5)] == [True] * 4 + [False]
    assert not tx.try_push(b"")
    with pytest.raises(queue.Full):
        tx.push(b"", 0)
    assert tx.reserve(0) is None
    assert [rx.try_pop() for _ in range(5)] == [b"x" * 24] * 4 + [None]
    with pytest.raises(queue.Empty):
        rx.pop(0)
    with pytest.raises(queue.Empty):
        rx.pop_into(bytearray(9), timeout=0)


def test_a_full_channel_does_not_excuse_what_would_never_fit(tx: _native.ChannelProducer) -> None:
    while tx.try_push(b"x"):
        pass
    with pytest.raises(ValueError, match="at most 64"):
        tx.try_push(bytes(65))
    with pytest.raises(TypeError):
        tx.try_push("text")  # type: ignore[arg-type]


def test_batches_stop_at_the_limits(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    assert tx.push_many([bytes([i]) * 24 for i in range(6)]) == 4
    assert tx.push_many([b""]) == 0
    assert tx.push_many([]) == 0
    assert rx.pop_many(0) == []
    assert rx.pop_many(3) == [bytes([i]) * 24 for i in range(3)]
    assert rx.pop_many(3) == [bytes([3]) * 24]
    assert rx.pop_many(3) == []


def test_objects_that_are_no_buffers(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    for call in (tx.try_push, tx.push, lambda m: tx.push_many([b"ok", m])):
        with pytest.raises(TypeError):
            call("text")
    with pytest.raises(TypeError, match="sequence"):
        tx.push_many(5)  # type: ignore[arg-type]
    with pytest.raises((TypeError, BufferError)):
        rx.pop_into(b"constant")
    with pytest.raises(BufferError):
        tx.try_push(memoryview(bytes(32))[::2])
    assert rx.try_pop() is None


def test_pop_into(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    tx.push_many([b"abc", b"", b"defgh"])
    buffer = bytearray(b"........")
    assert rx.pop_into(buffer) == 3
    assert buffer == b"abc....."
    assert rx.pop_into(buffer) == 0
    with pytest.raises(ValueError, match="next message has 5 bytes, the buffer only 4: it stays"):
        rx.pop_into(bytearray(4))
    assert rx.pop_into(memoryview(buffer)[:5], timeout=1) == 5
    assert buffer == b"defgh..."


@pytest.mark.parametrize("timeout", [-1, math.nan, -math.inf])
def test_impossible_timeouts(timeout: float, tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    for call in (lambda: tx.push(b"", timeout), lambda: rx.pop(timeout), lambda: rx.pop_into(bytearray(8), timeout)):
        with pytest.raises(ValueError, match="seconds >= 0"):
            call()
    assert rx.try_pop() is None


def test_stats(channel: Channel, tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    tx.push_many([b"x" * 24] * 4)
    tx.try_push(b"")
    rx.pop_many(3)
    expected = {"pushes": 4, "pops": 3, "messages": 1, "used": 32, "bytes_pushed": 128, "bytes_popped": 96,
                "full_hits": 1, "high_water": 128, "capacity": 128}  # fmt: skip
    stats = channel.stats()
    assert stats | expected == stats
    assert stats == tx.stats() == rx.stats()
    assert stats["producer_token"] >> 32 == os.getpid()


# ---- zero copy


def test_reserve_and_commit(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    view = tx.reserve(40)
    assert view is not None
    assert len(view) == 40
    view[:6] = b"beside"
    assert rx.try_pop() is None, "what is reserved is invisible"
    tx.commit(6)
    assert rx.pop() == b"beside"
    with pytest.raises(ValueError, match="released"):
        view[0] = 1
    tx.reserve(64)
    tx.commit(0)
    assert rx.pop() == b""


def test_a_shortened_message_takes_only_its_own_room(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    for i in range(40):  # also where the reserved one did not fit before the end of the buffer
        tx.reserve(64)
        tx.commit(i % 3)
        assert tx.stats()["used"] <= CAPACITY // 2 + 8
        assert len(rx.pop()) == i % 3


def test_cancel_publishes_nothing(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    view = tx.reserve(8)
    assert view is not None
    view[:] = b"unwanted"
    tx.cancel()
    tx.cancel()
    assert rx.try_pop() is None
    with pytest.raises(ValueError, match="released"):
        view[0] = 1
    tx.push(b"wanted")
    assert rx.pop() == b"wanted"


def test_commit_without_reserve(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    with pytest.raises(ValueError, match="call reserve first"):
        tx.commit(0)
    with pytest.raises(ValueError, match="0 are out"):
        tx.commit(1)
    tx.reserve(5)
    for n in (6, -1):
        with pytest.raises(ValueError, match="5 are out"):
            tx.commit(n)
    tx.cancel()
    assert rx.try_pop() is None


def test_peek_one(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    assert rx.peek() is None
    tx.push_many([b"first", b"", b"third"])
    view = rx.peek()
    assert view is not None
    assert view.readonly
    assert bytes(view) == b"first"
    rx.release(0)
    assert bytes(rx.peek(1)) == b"first"  # type: ignore[arg-type]
    rx.release(1)
    assert bytes(rx.peek(1)) == b""  # type: ignore[arg-type]
    rx.release(1)
    assert rx.pop() == b"third"


def test_peek_many(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    assert rx.peek(2) == []
    rx.release(0)
    messages = [bytes([i]) * (i % 4) for i in range(9)]
    assert tx.push_many(messages) == 9
    assert [bytes(view) for view in rx.peek(3)] == messages[:3]
    rx.release(2)
    assert [bytes(view) for view in rx.peek(99)] == messages[2:]
    assert not tx.try_push(bytes(64)), "peeked messages are not free"
    rx.release(7)
    assert rx.try_pop() is None
    assert tx.push_many([b""] * 20) == 16
    assert len(rx.peek(99)) == 16
    rx.release(15)
    assert rx.stats()["messages"] == 1


def test_release_only_what_is_out(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    with pytest.raises(ValueError, match="cannot release 1 messages, 0 are out"):
        rx.release(1)
    tx.push_many([b"a", b"b"])
    rx.peek(5)
    for n in (3, -1):
        with pytest.raises(ValueError, match="2 are out"):
            rx.release(n)
    rx.release(2)


def test_nothing_moves_while_a_view_is_out(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    tx.push_many([b"a", b"b"])
    reserved, peeked = tx.reserve(1), rx.peek(2)
    calls: list[Callable[[], object]] = [
        lambda: tx.try_push(b""), lambda: tx.push(b""), lambda: tx.push_many([b""]), lambda: tx.reserve(1),
        rx.try_pop, rx.pop, lambda: rx.pop_many(1), lambda: rx.pop_into(bytearray(8)), rx.peek, lambda: rx.peek(2),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(BufferError, match="view is out"):
            call()
    del reserved, peeked
    tx.cancel()
    rx.release(0)
    assert rx.pop_many(9) == [b"a", b"b"]


@pytest.mark.parametrize("derive", [lambda v: v[2:4], lambda v: (ctypes.c_char * 8).from_buffer(v)])
@pytest.mark.parametrize("verb", ["commit", "cancel", "close"])
def test_views_cannot_outlive_their_commit(verb: str, derive, tx: _native.ChannelProducer) -> None:
    derived = derive(tx.reserve(8))
    call = (lambda: tx.commit(8)) if verb == "commit" else getattr(tx, verb)
    with pytest.raises(BufferError, match="alive"):
        call()
    assert tx.stats()["pushes"] == 0
    del derived
    gc.collect()
    call()


@pytest.mark.parametrize("n", [1, 2])
def test_views_cannot_outlive_their_release(n: int, tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    tx.push_many([b"1234", b"5678"])
    derived = (rx.peek(2)[1] if n == 2 else rx.peek())[1:3]
    for call in (lambda: rx.release(1), rx.close):
        with pytest.raises(BufferError, match="alive"):
            call()
    derived.release()
    rx.release(n)
    assert len(rx.pop_many(9)) == 2 - n


def test_bad_counts(tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    with pytest.raises(ValueError, match="negative"):
        rx.pop_many(-1)
    with pytest.raises(ValueError, match="-1 bytes"):
        tx.reserve(-1)
    for n in (0, -1):
        with pytest.raises(ValueError, match="at least one message"):
            rx.peek(n)
    for call in (tx.reserve, rx.peek, rx.pop_many):
        with pytest.raises(OverflowError):
            call(1 << 70)
        with pytest.raises(TypeError):
            call(1.5)
    with pytest.raises(TypeError, match="at most one"):
        rx.peek(1, 2)  # type: ignore[call-overload]


# ---- roles, closing, waiting: what channels share with rings, looked at once


def test_one_producer_one_consumer(channel: Channel, tx: _native.ChannelProducer, rx: _native.ChannelConsumer) -> None:
    with pytest.raises(RoleTaken, match="a producer for this channel already: close it first"):
        channel.producer()
    with pytest.raises(RoleTaken, match="a consumer for this channel already"):
        channel.consumer()


def test_a_successor_goes_on_where_the_last_one_stopped(channel: Channel) -> None:
    for i in range(50):
        with channel.producer() as tx:
            tx.push(bytes([i]) * (i % 20))
        with channel.consumer() as rx:
            assert rx.pop(0) == bytes([i]) * (i % 20)


def test_use_after_close(channel: Channel) -> None:
    tx, rx = channel.producer(), channel.consumer()
    tx.close()
    rx.close()
    for call in (lambda: tx.try_push(b""), lambda: tx.push(b""), lambda: tx.push_many([b""]), tx.cancel, tx.stats,
                 lambda: tx.reserve(1), lambda: tx.commit(0), rx.try_pop, rx.pop, lambda: rx.pop_into(bytearray(8)),
                 lambda: rx.pop_many(1), rx.peek, lambda: rx.release(0)):  # fmt: skip
        with pytest.raises(ValueError, match="closed"):
            call()
    assert (tx.capacity, rx.max_message, rx.closed) == (128, 64, True)


def test_channel_cannot_close_under_its_ends() -> None:
    channel = Channel.create(64)
    with channel.producer() as tx:
        with pytest.raises(BufferError, match="drop or close them first"):
            channel.close()
        tx.push(b"1")
    channel.close()
    assert "closed" in repr(channel)


def test_roles_are_not_inherited_by_fork(channel: Channel, tx: _native.ChannelProducer, fork: Fork) -> None:
    def child() -> None:
        for call in (lambda: tx.push(b""), tx.cancel, lambda: tx.commit(0)):
            with pytest.raises(RuntimeError, match="parent process"):
                call()
        with pytest.raises(RoleTaken, match=f"process {os.getppid()} is the producer of this channel"):
            channel.producer()

    fork(child).join()


class Hostile:
    """A bytes-like object, or an index, whose conversion runs code."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __index__(self) -> int:
        self.action()
        return 1

    def __iter__(self) -> Iterator[bytes]:
        yield b"1"
        self.action()


def test_closing_while_arguments_are_converted(channel: Channel) -> None:
    for take, verb in ((channel.producer, "reserve"), (channel.producer, "commit"), (channel.producer, "push_many"),
                       (channel.consumer, "peek"), (channel.consumer, "release"), (channel.consumer, "pop_many")):  # fmt: skip
        end = take()
        with pytest.raises(ValueError, match="closed"):
            getattr(end, verb)(Hostile(end.close))


def test_the_producers_descriptor_waits_for_the_room_that_was_missing(channel: Channel) -> None:
    def readable() -> bool:
        return bool(select.select([tx.fileno()], [], [], 0)[0])

    with channel.producer("eventfd") as tx, channel.consumer() as rx:
        assert tx.push_many([bytes(8)] * 9) == 8
        assert not tx.try_push(bytes(24))
        assert not readable()
        rx.pop_many(2)
        assert readable()
        assert tx.try_push(bytes(24))


def test_the_consumers_descriptor(channel: Channel) -> None:
    with channel.producer() as tx, channel.consumer("eventfd") as rx:
        for look in (rx.try_pop, lambda: rx.pop_many(2), rx.peek, lambda: rx.peek(3)):
            assert not look()
            assert not select.select([rx.fileno()], [], [], 0)[0]
            tx.push(b"x")
            assert select.select([rx.fileno()], [], [], 0)[0]
            assert rx.pop() == b"x"


def test_a_view_keeps_channel_and_role_alive() -> None:
    channel = Channel.create(64)
    view = channel.producer().reserve(8)
    assert view is not None
    segment = channel.segment
    del channel
    gc.collect()
    with Channel.from_fd(segment.fd) as other:
        with pytest.raises(RoleTaken):
            other.producer()
        view[0] = 1
        del view
        gc.collect()
        other.producer().close()


def test_repr(name: str) -> None:
    with Channel.create(64, name) as channel:
        assert repr(channel) == f"<Channel {name}, 64 bytes>"
