"""Blocking calls: timeouts, signals, sleeping and waking, eventfd with select and asyncio."""

import asyncio
import gc
import math
import os
import queue
import select
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shmq import Ring
from tests.shmq.helpers import Child, Flag, until

Fork = Callable[[Callable[[], None]], Child]
WAITS = ["spin", "adaptive", "park", "eventfd"]
RECORD = b"12345678"


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(2, 8, eventfd=True) as ring:
        yield ring


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("timeout", [0.001, 0.08, 0.12])
def test_timeout(ring: Ring, wait: str, timeout: float) -> None:
    with ring.producer(wait) as tx, ring.consumer(wait) as rx:
        before = time.monotonic()
        with pytest.raises(queue.Empty):
            rx.pop(timeout)
        assert time.monotonic() - before >= timeout
        tx.push_many([RECORD] * 2)
        before = time.monotonic()
        with pytest.raises(queue.Full):
            tx.push(RECORD, timeout=timeout)
        assert time.monotonic() - before >= timeout
        assert rx.pop_many(9) == [RECORD] * 2, "a push that timed out left nothing behind"


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf])
def test_impossible_timeouts(ring: Ring, timeout: float) -> None:
    with ring.producer() as tx, ring.consumer() as rx:
        with pytest.raises(ValueError, match="seconds >= 0"):
            tx.push(RECORD, timeout)
        with pytest.raises(ValueError, match="seconds >= 0"):
            rx.pop(timeout)
        assert rx.try_pop() is None


def test_wrong_arguments(ring: Ring) -> None:
    with ring.producer() as tx, ring.consumer() as rx:
        calls: list[Callable[[], object]] = [
            lambda: tx.push(),  # type: ignore[call-arg]
            lambda: tx.push(RECORD, 1, 2),  # type: ignore[call-arg]
            lambda: tx.push(RECORD, 1, timeout=2),  # type: ignore[misc]
            lambda: tx.push(RECORD, wait=2),  # type: ignore[call-arg]
            lambda: rx.pop(1, 2),  # type: ignore[call-arg]
            lambda: rx.pop("1"),  # type: ignore[arg-type]
            lambda: rx.try_pop(1),  # type: ignore[call-arg]
        ]
        for call in calls:
            with pytest.raises(TypeError):
                call()
        assert rx.try_pop() is None


@pytest.mark.parametrize("timeout", [None, math.inf, 1e300, 10, 10**12])
def test_long_timeouts_return_when_something_comes(ring: Ring, timeout: float | None) -> None:
    with ring.producer() as tx, ring.consumer() as rx:
        thread = threading.Thread(target=lambda: (until(lambda: ring.stats()["consumer_parks"] > 0), tx.push(RECORD)))
        thread.start()
        assert rx.pop(timeout) == RECORD
        thread.join()


@pytest.mark.parametrize("wait", WAITS)
def test_both_ends_sleep_and_are_woken(ring: Ring, wait: str, fork: Fork) -> None:
    """Lock step through two rings of one slot: each side waits for the other in every round."""
    rounds = 300
    with Ring.create(1, 8, eventfd=True) as back:

        def echo() -> None:
            with ring.consumer(wait) as rx, back.producer(wait) as tx:
                for _ in range(rounds):
                    tx.push(rx.pop(timeout=20), timeout=20)

        child = fork(echo)
        with ring.producer(wait) as tx, back.consumer(wait) as rx:
            for i in range(rounds):
                tx.push(i.to_bytes(8, "little"), timeout=20)
                assert rx.pop(timeout=20) == i.to_bytes(8, "little")
            child.join()


def test_a_parked_wait_uses_no_cpu(ring: Ring) -> None:
    with ring.producer(), ring.consumer("park") as rx:
        before = time.process_time()
        with pytest.raises(queue.Empty):
            rx.pop(timeout=0.5)
        assert time.process_time() - before < 0.05


def test_nobody_is_woken_who_does_not_sleep(ring: Ring) -> None:
    with ring.producer() as tx, ring.consumer() as rx:
        for _ in range(100):
            tx.push(RECORD)
            rx.pop()
        stats = ring.stats()
        assert stats["consumer_wakes"] == stats["producer_wakes"] == 0


@pytest.mark.parametrize("wait", WAITS)
def test_signal_handlers_run_during_a_wait(ring: Ring, wait: str) -> None:
    class Alarm(Exception):
        pass

    def handler(*_: object) -> None:
        raise Alarm

    old = signal.signal(signal.SIGALRM, handler)
    try:
        with ring.producer(wait) as tx, ring.consumer(wait) as rx:
            for call in (rx.pop, lambda: tx.push(RECORD)):
                before = time.monotonic()
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                with pytest.raises(Alarm):
                    call()
                assert time.monotonic() - before < 1
                tx.push_many([RECORD] * 2)  # the end can be used after the interrupt
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_handler_that_returns_does_not_end_the_wait(ring: Ring) -> None:
    seen = []
    old = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        with ring.producer(), ring.consumer("park") as rx:
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            with pytest.raises(queue.Empty):
                rx.pop(timeout=0.15)
        assert len(seen) > 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_the_gil_is_free_during_a_wait(ring: Ring) -> None:
    with ring.producer() as tx, ring.consumer("spin") as rx:
        thread = threading.Thread(target=lambda: tx.push(RECORD))
        thread.start()
        assert rx.pop(timeout=20) == RECORD
        thread.join()


# ---- eventfd


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_descriptor_is_readable_when_a_try_is_worth_repeating(ring: Ring) -> None:
    with ring.producer("eventfd") as tx, ring.consumer("eventfd") as rx:
        assert readable(rx.fileno()), "nobody has looked yet"
        assert rx.try_pop() is None
        assert not readable(rx.fileno())
        tx.push(RECORD)
        assert readable(rx.fileno())
        assert rx.try_pop() == RECORD
        assert rx.try_pop() is None
        assert not readable(rx.fileno())

        assert tx.push_many([RECORD] * 3) == 2
        assert not tx.try_push(RECORD)
        assert not readable(tx.fileno())
        rx.pop()
        assert readable(tx.fileno())
        assert tx.try_push(RECORD)


def pop_nothing(rx, timeout: float) -> None:
    with pytest.raises(queue.Empty):
        rx.pop(timeout)


@pytest.mark.parametrize(
    "look",
    [
        lambda rx: rx.pop_many(3),
        lambda rx: rx.pop_array(bytearray(8)),
        lambda rx: (rx.peek(1), rx.release(0)),
        lambda rx: pop_nothing(rx, 0),
        lambda rx: pop_nothing(rx, 0.01),
    ],
)
def test_every_call_that_finds_nothing_arms_the_descriptor(ring: Ring, look) -> None:
    with ring.producer() as tx, ring.consumer("eventfd") as rx:
        look(rx)
        assert not readable(rx.fileno())
        tx.push(RECORD)
        assert readable(rx.fileno())


def test_one_write_per_sleep(ring: Ring) -> None:
    with Ring.create(64, 8, eventfd=True) as ring, ring.producer() as tx, ring.consumer("eventfd") as rx:
        rx.try_pop()
        for _ in range(50):
            tx.push(RECORD)
        assert ring.stats()["consumer_wakes"] == 1


def test_selector_loop_between_processes(ring: Ring, fork: Fork) -> None:
    total = 3000

    def consume() -> None:
        with ring.consumer("eventfd") as rx, selectors.DefaultSelector() as selector:
            selector.register(rx.fileno(), selectors.EVENT_READ)
            seen = 0
            while seen < total:
                assert selector.select(timeout=20), "woken never"
                while (record := rx.try_pop()) is not None:
                    assert record == seen.to_bytes(8, "little")
                    seen += 1

    child = fork(consume)
    with ring.producer("park") as tx:
        for i in range(total):
            tx.push(i.to_bytes(8, "little"), timeout=20)
        child.join()


def test_asyncio_reader(ring: Ring) -> None:
    async def receive(count: int) -> list[bytes]:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        got: list[bytes] = []
        with ring.consumer("eventfd") as rx:
            loop.add_reader(rx.fileno(), arrived.set)
            while len(got) < count:
                await asyncio.wait_for(arrived.wait(), 20)
                arrived.clear()
                while (record := rx.try_pop()) is not None:
                    got.append(record)
            loop.remove_reader(rx.fileno())
        return got

    records = [i.to_bytes(8, "little") for i in range(100)]
    with ring.producer() as tx:
        thread = threading.Thread(target=lambda: [tx.push(record, timeout=20) for record in records])
        thread.start()
        assert asyncio.run(receive(100)) == records
        thread.join()


def test_ends_keep_descriptors_of_their_own() -> None:
    ring = Ring.create(2, 8, eventfd=True)
    with ring.producer() as tx, ring.consumer("eventfd") as rx:
        fds = ring.eventfds
        assert fds is not None
        del ring
        gc.collect()
        for fd in fds:
            with pytest.raises(OSError):
                os.fstat(fd)
        rx.try_pop()
        tx.push(RECORD)
        assert readable(rx.fileno())


def test_attach_to_an_eventfd_ring_needs_the_descriptors(name: str) -> None:
    with Ring.create(2, 8, name, eventfd=True) as ring:
        with pytest.raises(ValueError, match="eventfds="):
            Ring.attach(name)
        with Ring.attach(name, eventfds=ring.eventfds) as other, other.producer() as tx, ring.consumer("eventfd") as rx:
            rx.try_pop()
            tx.push(RECORD)
            assert readable(rx.fileno())


def test_parent_wakes_a_child_that_selects(ring: Ring, fork: Fork, flag: Callable[[], Flag]) -> None:
    asleep = flag()

    def child() -> None:
        with ring.consumer("eventfd") as rx:
            assert rx.try_pop() is None
            asleep.set()
            assert select.select([rx.fileno()], [], [], 20)[0]
            assert rx.try_pop() == RECORD

    process = fork(child)
    asleep.wait()
    with ring.producer() as tx:
        tx.push(RECORD)
        process.join()
