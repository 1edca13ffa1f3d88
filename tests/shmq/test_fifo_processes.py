"""The byte stream between real processes, killed ends included, and write_at under every interleaving."""

import random
import signal
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmq import ByteFifo, PeerDied, RoleTaken
from tests.shmq.helpers import Child, Flag
from tests.shmq.interleave import Violation, explore, load, store
from tests.shmq.test_interleavings import Steps, assert_equal, wait_until_not, wake_other

Fork = Callable[[Callable[[], None]], Child]
MakeFlag = Callable[[], Flag]
PATTERN = bytes((i * 7 + (i >> 8)) & 255 for i in range(1 << 16))


def stream(at: int, n: int) -> bytes:
    """Return the n bytes at a position of the stream that all these tests send."""
    at %= len(PATTERN)
    return (PATTERN + PATTERN)[at : at + n]


def drain(fifo: ByteFifo, total: int, wait: str, sizes: list[int]) -> None:
    with fifo.reader(wait) as rx:  # type: ignore[arg-type]
        seen = turn = 0
        buffer = bytearray(max(sizes))
        while seen < total:
            n, turn = sizes[turn % len(sizes)], turn + 1
            if turn % 3 == 0:
                done = rx.read_into(memoryview(buffer)[:n], timeout=20)
                got = bytes(buffer[:done])
            elif turn % 3 == 1:
                got = rx.read(n, timeout=20)
            else:
                view = rx.view(n)
                got = bytes(view)
                rx.release(len(got))
            assert got == stream(seen, len(got))
            seen += len(got)
        assert rx.try_read(1) == b""


def send(tx, total: int, chance: random.Random, longest: int) -> None:
    """Write all, most of it out of order, waiting by a blocking write in order."""
    at = 0
    while at < total:
        offset, n = chance.randrange(longest), chance.randrange(1, longest)
        if at + offset + n <= total:
            before = tx.stats()["pushes"]
            tx.write_at(offset, stream(at + offset, n))
            at += tx.stats()["pushes"] - before
        before = tx.stats()["pushes"]
        if at < total:
            tx.write(stream(at, min(total - at, chance.randrange(1, longest))), timeout=20)
        at += tx.stats()["pushes"] - before


@pytest.mark.parametrize("wait", ["spin", "adaptive", "park", "eventfd"])
@pytest.mark.parametrize("capacity", [1, 64, 4096])
def test_bytes_arrive_in_order(wait: str, capacity: int, fork: Fork) -> None:
    total = 300 if capacity == 1 else 100_000
    with ByteFifo.create(capacity, eventfd=True) as fifo:
        child = fork(lambda: drain(fifo, total, wait, [1, 40, 7, 300]))
        with fifo.writer(wait) as tx:  # type: ignore[arg-type]
            send(tx, total, random.Random(5), min(capacity, 200) + 1)
            child.join()


@settings(max_examples=15, deadline=None)
@given(
    power=st.integers(0, 9),
    total=st.integers(0, 3000),
    seed=st.integers(0, 1000),
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=6),
    longest=st.integers(2, 80),
)
def test_any_mix_across_processes(power: int, total: int, seed: int, sizes: list[int], longest: int) -> None:
    with ByteFifo.create(1 << power) as fifo:
        child = Child(lambda: drain(fifo, total, "adaptive", sizes))
        try:
            with fifo.writer() as tx:
                send(tx, total, random.Random(seed), longest)
                child.join()
        finally:
            child.kill()


# ---- death


def hold(fifo: ByteFifo, role: str, ready: Flag) -> Callable[[], None]:
    def work() -> None:
        if role == "writer":
            tx = fifo.writer()
            tx.write(b"abc")
            tx.write_at(2, b"held")
            tx.set_event()
        else:
            rx = fifo.reader()
            assert rx.read(2) == b"ab"
            rx.view(1)  # seen, never released
        ready.set()
        signal.pause()

    return work


def test_role_of_a_killed_writer_can_be_taken_over(fork: Fork, flag: MakeFlag) -> None:
    with ByteFifo.create(64) as fifo:
        ready = flag()
        child = fork(hold(fifo, "writer", ready))
        ready.wait()
        with pytest.raises(RoleTaken, match=f"process {child.pid} is the writer of this byte fifo"):
            fifo.writer()
        child.kill()
        with fifo.writer() as tx, fifo.reader() as rx:
            assert tx.held == 0
            tx.write(b"def")
            assert rx.read(99) == b"abcdef"


def test_role_of_a_killed_reader_can_be_taken_over(fork: Fork, flag: MakeFlag) -> None:
    with ByteFifo.create(64) as fifo, fifo.writer() as tx:
        tx.write(b"abcdef")
        ready = flag()
        child = fork(hold(fifo, "reader", ready))
        ready.wait()
        child.kill()
        with fifo.reader() as rx:
            assert rx.read(99) == b"cdef", "what was only viewed comes again"


@pytest.mark.parametrize(("role", "peer"), [("writer", "reader"), ("reader", "writer")])
def test_waits_learn_of_a_death_within_a_second(role: str, peer: str, fork: Fork, flag: MakeFlag) -> None:
    with ByteFifo.create(16) as fifo:
        with fifo.writer() as tx:
            tx.write(b"abcdef")
        with getattr(fifo, role)() as end:
            ready = flag()
            child = fork(hold(fifo, peer, ready))
            ready.wait()
            child.kill()
            before = time.monotonic()
            with pytest.raises(PeerDied, match=f"the byte fifo's {peer}, process {child.pid}, died"):
                while True:
                    end.write(b"x" * 9) if role == "writer" else end.read(4)
            assert time.monotonic() - before < 1


# ---- fifo.h's write_at: a byte is one variable, a write is a run of them


def writer(writes: tuple[tuple[int, int], ...], capacity: int, bug: str) -> Steps:
    """writes: (stream position, bytes); the pieces ahead are kept as a set of positions."""
    tail, held = 0, frozenset()
    for begin, n in writes:
        head = yield load("head")
        while begin + n - head > capacity:
            head = yield from wait_until_not("producer_cell", "head", head, bug)
        before = tail
        merged = held | set(range(begin, begin + n))
        while tail in merged:
            tail += 1
        held = frozenset(position for position in merged if position >= tail)
        if bug == "visible with the gap" and tail == before:
            tail, held = begin + n, frozenset()
        stores = tuple(store(f"b{position % capacity}", 100 + position) for position in range(begin, begin + n))
        publish = store("tail", tail, release=bug != "publish is relaxed")
        if bug == "published before the copy":
            stores = (publish, *stores)
        elif tail != before:
            stores = (*stores, publish)
        for op in stores:  # noqa: UP028 - the checker follows `yield from` into generators only
            yield op
        if tail != before:
            yield from wake_other("consumer_cell", bug)


def reader(total: int, capacity: int, bug: str) -> Steps:
    head, tail = 0, 0
    while head < total:
        if tail == head:
            tail = yield load("tail")
            if tail == head:
                tail = yield from wait_until_not("consumer_cell", "tail", head, bug)
        value = yield load(f"b{head % capacity}")
        assert value == 100 + head, f"byte {head} is {value}"
        head += 1
        yield store("head", head, release=True)
        yield from wake_other("producer_cell", bug)


def out_of_order(writes: tuple[tuple[int, int], ...], capacity: int, bug: str = "") -> int:
    total = max(begin + n for begin, n in writes)
    memory = {"head": 0, "tail": 0, "producer_cell": 0, "consumer_cell": 0} | {f"b{i}": 0 for i in range(capacity)}
    threads = [lambda: writer(writes, capacity, bug), lambda: reader(total, capacity, bug)]
    return explore(threads, memory, lambda end: assert_equal(end["head"], end["tail"], total))


@pytest.mark.parametrize(
    ("writes", "capacity"),
    [
        (((1, 1), (0, 1)), 2),
        (((2, 1), (1, 1), (0, 1)), 4),
        (((1, 1), (3, 1), (0, 2), (2, 1)), 4),
        (((1, 2), (0, 1), (4, 1), (3, 1)), 4),
    ],
)
def test_bytes_become_visible_only_in_order(writes: tuple[tuple[int, int], ...], capacity: int) -> None:
    assert out_of_order(writes, capacity) > 50


@pytest.mark.parametrize("bug", ["visible with the gap", "publish is relaxed", "published before the copy"])
def test_write_at_bugs_are_found(bug: str) -> None:
    with pytest.raises(Violation):
        out_of_order(((1, 1), (0, 1), (3, 1), (2, 1)), 2, bug)
