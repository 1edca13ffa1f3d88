"""The ring between real processes: order value by value, takeover after kill -9, death of a peer, fork."""

import os
import queue
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmq import PeerDied, Ring, RoleTaken
from tests.shmq.helpers import Child, Flag

Fork = Callable[[Callable[[], None]], Child]
MakeFlag = Callable[[], Flag]


def numbers(first: int, count: int, slot_size: int) -> list[bytes]:
    return [i.to_bytes(8, "little").ljust(slot_size, bytes([i & 255])) for i in range(first, first + count)]


def drain(ring: Ring, total: int, wait: str, batch: int) -> None:
    """Pop `total` records and compare each with what must come next."""
    with ring.consumer(wait) as rx:
        seen = 0
        while seen < total:
            got = [rx.pop(timeout=20)]
            if batch > 1:
                got += rx.pop_many(batch - 1)
            assert got == numbers(seen, len(got), ring.slot_size)
            seen += len(got)
        assert rx.try_pop() is None


@pytest.mark.parametrize("wait", ["spin", "adaptive", "park"])
@pytest.mark.parametrize(("capacity", "slot_size"), [(1, 8), (4, 9), (64, 32), (1024, 100)])
def test_values_arrive_in_order(wait: str, capacity: int, slot_size: int, fork: Fork) -> None:
    # one slot means a sleep and a wake-up per record on this machine's shared CPUs: fewer records there
    total = 300 if capacity == 1 else 20_000
    with Ring.create(capacity, slot_size) as ring:
        child = fork(lambda: drain(ring, total, wait, batch=7))
        with ring.producer(wait) as tx:
            for record in numbers(0, total, slot_size):
                tx.push(record, timeout=20)
            child.join()


@settings(max_examples=15, deadline=None)
@given(
    power=st.integers(0, 6),
    slot_size=st.sampled_from([8, 16, 32, 65]),
    pushes=st.lists(st.tuples(st.sampled_from(["one", "many", "array", "reserve"]), st.integers(1, 20)), max_size=60),
    batch=st.integers(1, 20),
    wait=st.sampled_from(["adaptive", "park"]),
)
def test_any_mix_of_calls_across_processes(
    power: int, slot_size: int, pushes: list[tuple[str, int]], batch: int, wait: str
) -> None:
    total = sum(count for _, count in pushes)
    with Ring.create(1 << power, slot_size) as ring:
        child = Child(lambda: drain(ring, total, wait, batch))
        try:
            with ring.producer(wait) as tx:
                next_number = 0
                for how, count in pushes:
                    push_block(tx, how, numbers(next_number, count, slot_size))
                    next_number += count
                child.join()
        finally:
            child.kill()


def push_block(tx, how: str, records: list[bytes]) -> None:
    """Push all, in the given way, waiting by a blocking push of one record whenever the ring is full."""
    while records:
        if how == "many":
            done = tx.push_many(records)
        elif how == "array":
            done = tx.push_array(b"".join(records))
        elif how == "reserve":
            with tx.reserve(len(records)) as view:
                done = len(view) // tx.slot_size
                view[:] = b"".join(records[:done])
            tx.commit(done)
        else:
            done = 0
        if not done:
            tx.push(records[0], timeout=20)
            done = 1
        records = records[done:]


def test_unrelated_processes_by_name(name: str) -> None:
    script = (
        "import sys, shmq\n"
        f"with shmq.Ring.attach({name!r}) as ring, ring.consumer() as rx:\n"
        "    for i in range(1000):\n"
        "        assert rx.pop(timeout=20) == i.to_bytes(8, 'little')\n"
    )
    with Ring.create(16, 8, name) as ring, ring.producer() as tx:
        other = subprocess.Popen([sys.executable, "-c", script])
        for i in range(1000):
            tx.push(i.to_bytes(8, "little"), timeout=20)
        assert other.wait(20) == 0


# ---- death


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(8, 8) as ring:
        yield ring


def hold(ring: Ring, role: str, ready: Flag, records: int = 0) -> Callable[[], None]:
    """Work for a child that takes a role, pushes or peeks, and waits to be killed."""

    def work() -> None:
        if role == "producer":
            tx = ring.producer()
            tx.push_many(numbers(0, records, 8))
            view = tx.reserve(1)  # written, never committed
            view[:] = b"\xff" * 8
        else:
            rx = ring.consumer()
            assert rx.pop_many(records) == numbers(0, records, 8)
            rx.peek(1)  # seen, never released
        ready.set()
        signal.pause()

    return work


def test_role_of_a_killed_producer_can_be_taken_over(ring: Ring, fork: Fork, flag: MakeFlag) -> None:
    ready = flag()
    child = fork(hold(ring, "producer", ready, records=3))
    ready.wait()
    with pytest.raises(RoleTaken, match=f"process {child.pid}"):
        ring.producer()
    child.kill()
    with ring.producer() as tx, ring.consumer() as rx:
        tx.push_many(numbers(3, 2, 8))
        assert rx.pop_many(9) == numbers(0, 5, 8), "what was committed is there, what was only reserved is not"


def test_role_of_a_killed_consumer_can_be_taken_over(ring: Ring, fork: Fork, flag: MakeFlag) -> None:
    ready = flag()
    with ring.producer() as tx:
        tx.push_many(numbers(0, 6, 8))
        child = fork(hold(ring, "consumer", ready, records=2))
        ready.wait()
        with pytest.raises(RoleTaken):
            ring.consumer()
        child.kill()
        with ring.consumer() as rx:
            assert rx.pop_many(9) == numbers(2, 4, 8), "what was only peeked comes again"


@pytest.mark.parametrize("wait", ["spin", "adaptive", "park"])
def test_pop_learns_of_the_producers_death_within_a_second(ring: Ring, wait: str, fork: Fork, flag: MakeFlag) -> None:
    ready = flag()
    child = fork(hold(ring, "producer", ready, records=1))
    ready.wait()
    with ring.consumer(wait) as rx:
        child.kill()
        assert rx.pop() == numbers(0, 1, 8)[0], "what was committed before the death comes first"
        before = time.monotonic()
        with pytest.raises(PeerDied, match=f"producer, process {child.pid}, died"):
            rx.pop()
        assert time.monotonic() - before < 1
        with ring.producer() as tx:  # a successor heals it
            tx.push(b"12345678")
            assert rx.pop() == b"12345678"


@pytest.mark.parametrize("wait", ["spin", "adaptive", "park"])
def test_a_sleeping_pop_is_woken_by_its_peers_death(ring: Ring, wait: str, fork: Fork, flag: MakeFlag) -> None:
    ready, result = flag(), flag()

    def consumer() -> None:
        with ring.consumer(wait) as rx:
            ready.set()
            with pytest.raises(PeerDied):
                rx.pop()
            result.set()

    holding = flag()
    producer = fork(hold(ring, "producer", holding))
    holding.wait()
    child = fork(consumer)
    ready.wait()
    before = time.monotonic()
    producer.kill()
    result.wait()
    assert time.monotonic() - before < 1
    child.join()


def test_push_learns_of_the_consumers_death_within_a_second(ring: Ring, fork: Fork, flag: MakeFlag) -> None:
    ready = flag()
    with ring.producer() as tx:
        tx.push_many(numbers(0, 8, 8))
        child = fork(hold(ring, "consumer", ready, records=0))
        ready.wait()
        child.kill()
        before = time.monotonic()
        with pytest.raises(PeerDied, match="consumer"):
            tx.push(b"12345678")
        assert time.monotonic() - before < 1
        assert not tx.try_push(b"12345678")
        with ring.consumer() as rx:
            assert rx.pop_many(9) == numbers(0, 8, 8)


def test_consumer_killed_in_its_sleep_can_be_replaced(ring: Ring, fork: Fork, flag: MakeFlag) -> None:
    ready = flag()

    def sleeper() -> None:
        with ring.consumer("park") as rx:
            ready.set()
            rx.pop()

    child = fork(sleeper)
    ready.wait()
    while not ring.stats()["consumer_parks"]:
        os.sched_yield()
    child.kill()
    with ring.producer() as tx, ring.consumer() as rx:
        tx.push(b"12345678")
        assert rx.pop(1) == b"12345678"


def test_kill_at_any_moment_loses_and_doubles_nothing(fork: Fork) -> None:
    """A producer is killed over and over; each successor goes on behind the last record that was committed."""
    chance = random.Random(1)
    with Ring.create(64, 64) as ring, ring.consumer() as rx:
        expected = 0
        for _ in range(150):

            def produce(first: int = expected) -> None:
                with ring.producer() as tx:
                    number = first
                    while True:
                        for record in numbers(number, 5, 64):
                            tx.push(record)
                        number += 5

            child = fork(produce)
            for _ in range(chance.randrange(200)):
                try:
                    got = rx.pop(timeout=0.001)
                except (queue.Empty, PeerDied):  # the child has not got that far, or not taken over yet
                    continue
                assert got == numbers(expected, 1, 64)[0]
                expected += 1
            child.kill()
            for got in rx.pop_many(64):
                assert got == numbers(expected, 1, 64)[0]
                expected += 1
        assert expected > 1000
