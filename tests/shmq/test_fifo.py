"""ByteFifo: calls, errors, views and roles, with bytes written ahead of the stream."""

import array
import os
import queue
import select
from collections.abc import Callable, Iterator

import pytest

import shmq
from shmq import ByteFifo, CorruptSegment, RoleTaken, _native
from tests.shmq.helpers import Child

Fork = Callable[[Callable[[], None]], Child]


@pytest.fixture
def fifo() -> Iterator[ByteFifo]:
    with ByteFifo.create(16, eventfd=True) as fifo:
        yield fifo


@pytest.fixture
def tx(fifo: ByteFifo) -> Iterator[_native.FifoWriter]:
    with fifo.writer() as end:
        yield end


@pytest.fixture
def rx(fifo: ByteFifo, tx: _native.FifoWriter) -> Iterator[_native.FifoReader]:
    with fifo.reader() as end:
        yield end


# ---- making and opening


@pytest.mark.parametrize("capacity", [0, -1, 3, 1000])
def test_capacity_must_be_a_power_of_two(capacity: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        ByteFifo.create(capacity)


def test_too_large() -> None:
    with pytest.raises(ValueError, match="1 TiB"):
        ByteFifo.create(1 << 41)


def test_by_name_and_by_descriptor(name: str) -> None:
    with ByteFifo.create(16, name) as fifo, fifo.writer() as tx:
        tx.write(b"abcdef")
        with ByteFifo.attach(name) as other, other.reader() as rx:
            assert rx.read(2) == b"ab"
        with ByteFifo.from_fd(fifo.fd) as other, other.reader() as rx:
            assert (other.capacity, rx.read(9)) == (16, b"cdef")
        assert repr(fifo) == f"<ByteFifo {name}, 16 bytes>"


def test_attach_to_something_else(name: str) -> None:
    with shmq.Channel.create(64, name), pytest.raises(CorruptSegment, match="another kind"):
        ByteFifo.attach(name)


def test_attach_to_a_segment_without_a_fifo(name: str) -> None:
    with shmq.Segment.create(4096, "fifo", "1", name), pytest.raises(CorruptSegment, match="no valid byte fifo"):
        ByteFifo.attach(name)


# ---- write and read


def test_full_and_empty(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    assert rx.try_read(5) == b""
    assert tx.try_write(b"0123456789abcdefXY") == 16
    assert tx.try_write(b"XY") == 0
    with pytest.raises(queue.Full):
        tx.write(b"XY", 0)
    assert rx.try_read(4) == b"0123"
    assert tx.write(b"ghijkl", timeout=0) == 4
    assert rx.read(99) == b"456789abcdefghij"
    with pytest.raises(queue.Empty):
        rx.read(1, 0)
    with pytest.raises(queue.Empty):
        rx.read_into(bytearray(1), timeout=0.01)


def test_nothing_asked_nothing_waited_for(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    assert rx.read(0) == b""
    assert rx.read_into(bytearray()) == 0
    assert tx.write(b"") == tx.try_write(b"") == tx.write_at(3, b"") == 0
    tx.write(bytes(16))
    assert tx.write(b"") == 0
    assert rx.skip(0) == 0


def test_any_buffer(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    tx.write(array.array("H", [1, 2]))
    into = array.array("H", [0, 0, 7])
    assert rx.read_into(into) == 4
    assert into.tolist() == [1, 2, 7]
    for call in (tx.write, tx.try_write, lambda data: tx.write_at(0, data)):
        with pytest.raises(TypeError):
            call("text")
    with pytest.raises((TypeError, BufferError)):
        rx.read_into(b"constant")


def test_peek_and_skip(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    tx.write(bytes(12))
    rx.skip(12)
    tx.write(b"abcdefgh")  # across the end of the buffer
    assert rx.peek(0, 3) == b"abc"
    assert rx.peek(2, 5) == b"cdefg"
    assert rx.peek(6, 99) == b"gh"
    assert rx.peek(8, 1) == rx.peek(1 << 62, 1) == rx.peek(3, 0) == b""
    assert rx.skip(3) == 3
    assert rx.skip(99) == 5
    assert rx.skip(1) == 0


def test_bad_numbers(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    for call in (lambda: rx.read(-1), lambda: rx.try_read(-1), lambda: rx.peek(-1, 1), lambda: rx.peek(0, -1),
                 lambda: rx.skip(-1), lambda: rx.view(-1), lambda: tx.write_at(-1, b"")):  # fmt: skip
        with pytest.raises(ValueError, match="must not be negative, it is -1"):
            call()
    for call in (lambda: tx.reserve(0), lambda: rx.view(0)):
        with pytest.raises(ValueError, match="at least one byte"):
            call()
    for call in (lambda: rx.peek(1), lambda: tx.write_at(1), lambda: tx.write()):  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            call()


def test_stats(fifo: ByteFifo, tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    tx.write(bytes(16))
    tx.try_write(b"x")
    rx.read(5)
    rx.read(11)
    rx.try_read(1)
    expected = {"pushes": 16, "pops": 16, "used": 0, "full_hits": 1, "empty_hits": 1, "high_water": 16, "capacity": 16}
    assert fifo.stats() | expected == fifo.stats() == tx.stats() == rx.stats()


def test_event_flag(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    assert [tx.set_event(), tx.set_event()] == [True, False]
    rx.clear_event()
    assert tx.set_event()


# ---- views


def test_reserve_and_commit(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    view = tx.reserve(9)
    view[:] = b"abcdefghi"
    assert rx.try_read(9) == b""
    tx.commit(4)
    assert rx.read(9) == b"abcd"
    assert len(tx.reserve(99)) == 12, "up to the end of the buffer"
    tx.commit(12)
    assert len(tx.reserve(99)) == 4
    tx.commit(4)
    assert len(tx.reserve(99)) == 0
    tx.commit(0)


def test_view_and_release(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    assert len(rx.view(5)) == 0
    rx.release(0)
    tx.write(b"0123456789")
    view = rx.view(4)
    assert view.readonly
    assert bytes(view) == b"0123"
    derived = view[1:2]
    for call in (lambda: rx.release(1), rx.close):
        with pytest.raises(BufferError, match="alive"):
            call()
    with pytest.raises(BufferError, match="viewed view is out"):
        rx.read(1)
    with pytest.raises(ValueError, match="cannot release 5 bytes, 4 are out"):
        rx.release(5)
    derived.release()
    rx.release(1)
    assert rx.read(99) == b"123456789"


# ---- out of order


def test_written_ahead_and_merged_when_the_gap_closes(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    assert tx.write_at(3, b"def") == 3
    assert tx.write_at(8, b"ij") == 2
    assert (tx.held, rx.try_read(99)) == (5, b"")
    assert tx.write_at(0, b"ab") == 2
    assert (tx.held, rx.try_read(99)) == (5, b"ab")
    assert tx.write_at(4, b"gh") == 2, "offsets count from the last visible byte"
    assert (tx.held, rx.try_read(99)) == (7, b"")
    assert tx.write(b"c") == 1
    assert (tx.held, rx.try_read(99)) == (0, b"cdefghij")


def test_bytes_that_are_held_may_come_again(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    tx.write_at(2, b"cde")
    tx.write_at(1, b"bcdef")
    tx.write_at(3, b"d")
    assert tx.held == 5
    assert tx.write(b"abc") == 3
    assert rx.read(99) == b"abcdef"


def test_no_further_than_there_is_room(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    tx.write(b"0123")
    assert tx.write_at(10, b"abc") == 2
    assert tx.write_at(12, b"x") == tx.write_at(1 << 62, b"x") == 0
    assert tx.write(bytes(20)) == 12
    assert (tx.held, len(rx.read(99))) == (0, 16)


def test_too_many_pieces(name: str) -> None:
    with ByteFifo.create(256) as fifo, fifo.writer() as tx, fifo.reader() as rx:
        kept = [tx.write_at(1 + 2 * i, bytes([i])) for i in range(40)]
        assert kept == [1] * 32 + [0] * 8
        assert tx.write_at(2, b"x") == 1, "a piece that closes a gap needs no place of its own"
        assert tx.write_at(65, b"y") == 1
        tx.write(b"z" * 80)
        assert (tx.held, len(rx.read(99))) == (0, 80)


def test_reserve_is_refused_over_held_bytes(tx: _native.FifoWriter, rx: _native.FifoReader) -> None:
    tx.write_at(2, b"c")
    with pytest.raises(BufferError, match="fill the gap"):
        tx.reserve(2)
    tx.write(b"ab")
    tx.reserve(2)[:] = b"de"
    tx.commit(2)
    assert rx.read(9) == b"abcde"


def test_a_successor_knows_nothing_of_what_was_held(fifo: ByteFifo) -> None:
    with fifo.writer() as tx:
        tx.write(b"ab")
        tx.write_at(1, b"lost")
    with fifo.writer() as tx, fifo.reader() as rx:
        assert tx.held == 0
        tx.write(b"cd")
        assert rx.read(99) == b"abcd"


# ---- roles, closing, descriptors: what fifos share with rings, looked at once


def test_roles(fifo: ByteFifo, tx: _native.FifoWriter, rx: _native.FifoReader, fork: Fork) -> None:
    with pytest.raises(RoleTaken, match="a writer for this byte fifo already"):
        fifo.writer()
    with pytest.raises(RoleTaken, match="a reader for this byte fifo already"):
        fifo.reader()

    def child() -> None:
        with pytest.raises(RuntimeError, match="parent process"):
            tx.write(b"x")
        with pytest.raises(RoleTaken, match=f"process {os.getppid()} is the reader"):
            fifo.reader()

    fork(child).join()


def test_use_after_close(fifo: ByteFifo) -> None:
    tx, rx = fifo.writer(), fifo.reader()
    tx.close()
    rx.close()
    for call in (lambda: tx.write(b"x"), lambda: tx.try_write(b"x"), lambda: tx.write_at(1, b"x"), tx.set_event, tx.stats,
                 lambda: tx.reserve(1), lambda: tx.commit(0), lambda: rx.read(1), lambda: rx.try_read(1), rx.clear_event,
                 lambda: rx.read_into(bytearray(1)), lambda: rx.peek(0, 1), lambda: rx.skip(1), lambda: rx.view(1),
                 lambda: rx.release(0)):  # fmt: skip
        with pytest.raises(ValueError, match="closed"):
            call()
    assert (tx.capacity, rx.capacity) == (16, 16)


def test_descriptors(fifo: ByteFifo) -> None:
    def readable(end) -> bool:
        return bool(select.select([end.fileno()], [], [], 0)[0])

    with fifo.writer("eventfd") as tx, fifo.reader("eventfd") as rx:
        assert rx.try_read(1) == b""
        assert not readable(rx)
        tx.write_at(1, b"b")
        assert not readable(rx), "what is held is no news"
        tx.write(b"a")
        assert readable(rx)
        assert rx.read(9) == b"ab"
        tx.write(bytes(16))
        assert not tx.try_write(b"x")
        assert not readable(tx)
        rx.skip(1)
        assert readable(tx)


# ---- hostile


FIFO_AT = _native.layout()["stream"][1]["fifo"][0]
CURSORS = {name: FIFO_AT + _native.layout()["fifo"][1][name][0] for name in ("head", "tail")}
BOUNDARIES = [1, 15, 16, 17, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1]


def corrupt(fifo: ByteFifo, field: str, value: int) -> None:
    fifo.segment.buf[CURSORS[field] : CURSORS[field] + 8] = value.to_bytes(8, "little")


def check_calls(calls: list[Callable[[], object]], believable: bool) -> None:
    for call in calls:
        if believable:
            call()
        else:
            with pytest.raises(CorruptSegment, match="cursor holds an impossible value"):
                call()


@pytest.mark.parametrize("tail", BOUNDARIES)
def test_the_reader_believes_no_impossible_tail(tail: int, fifo: ByteFifo) -> None:
    with fifo.reader() as rx:
        corrupt(fifo, "tail", tail)
        check_calls([lambda: rx.peek(3, 99), lambda: (rx.view(99), rx.release(0))], believable=tail <= 16)
        if tail > 16:
            check_calls([lambda: rx.read(9, 1), lambda: rx.read_into(bytearray(1), 1), lambda: rx.skip(1),
                         lambda: rx.try_read(5)], believable=False)  # fmt: skip
            corrupt(fifo, "tail", 3)
        assert len(rx.read(99)) == (tail if tail <= 16 else 3)
    corrupt(fifo, "tail", tail)
    if tail > 16 + 16:
        with pytest.raises(CorruptSegment, match="cursors hold impossible values"):
            fifo.reader()


@pytest.mark.parametrize("head", BOUNDARIES)
def test_the_writer_believes_no_impossible_head(head: int, fifo: ByteFifo) -> None:
    with fifo.writer() as tx:
        tx.write(bytes(16))
        corrupt(fifo, "head", head)
        if head <= 16:
            assert tx.try_write(bytes(99)) == head
        else:
            check_calls([lambda: tx.write(b"x", 1), lambda: tx.try_write(b"x"), lambda: tx.write_at(1, b"x"),
                         lambda: tx.reserve(1)], believable=False)  # fmt: skip
            corrupt(fifo, "head", 4)
            assert tx.try_write(bytes(99)) == 4
    corrupt(fifo, "head", head)
    if not 0 <= fifo.stats()["pushes"] - head <= 16:
        with pytest.raises(CorruptSegment, match="cursors hold impossible values"):
            fifo.writer()
