"""asyncio and selectors on both ends of rings and channels: order, sleeping, cancellation, time-outs, deaths."""

import asyncio
import selectors
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from shmq import Channel, PeerDied, Ring
from tests.shmq.helpers import PATIENCE_S, Child, Flag

Fork = Callable[[Callable[[], None]], Child]
MakeFlag = Callable[[], Flag]


MAKERS = {
    "ring": lambda: Ring.create(4, 8, eventfd=True),
    "channel": lambda: Channel.create(64, eventfd=True),  # holds four messages of 8 bytes, too
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[], Ring]:
    return MAKERS[request.param]


@pytest.fixture
def ring(make: Callable[[], Ring]) -> Iterator[Ring]:
    with make() as ring:
        yield ring


def record(i: int) -> bytes:
    return i.to_bytes(8, "little")


@pytest.mark.parametrize("wait", ["eventfd", "park"])
def test_records_to_and_from_another_process(ring: Ring, make: Callable[[], Ring], fork: Fork, wait: str) -> None:
    """Four slots, so that both coroutines must wait; the other side blocks, or sleeps on its own descriptor."""
    total = 2000
    with make() as back:

        def echo() -> None:
            with ring.consumer(wait) as rx, back.producer(wait) as tx:
                for _ in range(total):
                    tx.push(rx.pop(timeout=PATIENCE_S), timeout=PATIENCE_S)

        async def feed(tx) -> None:
            for i in range(total):
                await tx.apush(record(i))

        async def collect(rx) -> list[bytes]:
            return [await rx.apop() for _ in range(total)]

        async def main() -> None:
            with ring.producer("eventfd") as tx, back.consumer("eventfd") as rx:
                async with asyncio.timeout(PATIENCE_S):
                    _, came = await asyncio.gather(feed(tx), collect(rx))
                assert came == [record(i) for i in range(total)]

        child = fork(echo)
        asyncio.run(main())
        child.join()


def test_cancelled_calls_move_nothing(ring: Ring) -> None:
    async def main() -> None:
        with ring.producer("eventfd") as tx, ring.consumer("eventfd") as rx:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await rx.apop()
            pop = asyncio.create_task(rx.apop())
            await asyncio.sleep(0)
            tx.push(record(1))
            pop.cancel()  # the record is there, but the task has not run since
            with pytest.raises(asyncio.CancelledError):
                await pop
            assert await rx.apop() == record(1)
            for i in range(4):
                await tx.apush(record(i))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await tx.apush(record(9))
            assert rx.pop_many(9) == [record(i) for i in range(4)]

    asyncio.run(main())


def test_waiting_costs_nothing_and_leaves_the_loop_free(ring: Ring) -> None:
    async def main() -> None:
        with ring.consumer("eventfd") as rx, ring.producer("eventfd") as tx:
            pop = asyncio.create_task(rx.apop())
            await asyncio.sleep(0)
            used, began = time.process_time(), time.monotonic()
            await asyncio.sleep(0.7)  # longer than the look for the peer
            assert time.process_time() - used < 0.2 * (time.monotonic() - began)
            assert not pop.done()
            await tx.apush(record(5))
            assert await pop == record(5)

    asyncio.run(main())


def test_one_task_at_a_time(ring: Ring) -> None:
    async def main() -> None:
        with ring.consumer("eventfd") as rx:
            first = asyncio.create_task(rx.apop())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="one task at a time"):
                await rx.apop()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first

    asyncio.run(main())


@pytest.mark.parametrize("end", ["producer", "consumer"])
def test_a_dead_peer_is_noticed(ring: Ring, end: str, fork: Fork, flag: MakeFlag) -> None:
    ready = flag()

    def die() -> None:
        peer = ring.consumer() if end == "producer" else ring.producer()
        assert not peer.closed
        ready.set()
        signal.pause()

    child = fork(die)
    ready.wait()

    async def main() -> None:
        if end == "producer":
            with ring.producer("eventfd") as tx:
                assert tx.push_many([record(0)] * 4) == 4
                await tx.apush(record(1))
        else:
            with ring.consumer("eventfd") as rx:
                await rx.apop()

    async def both() -> None:
        task = asyncio.create_task(main())
        await asyncio.sleep(0)
        child.kill()
        began = time.monotonic()
        with pytest.raises(PeerDied):
            await task
        assert time.monotonic() - began < 2

    asyncio.run(both())


def test_other_strategies_have_no_descriptor(ring: Ring) -> None:
    async def main() -> None:
        with ring.consumer("park") as rx, pytest.raises(ValueError, match="eventfd"):
            await rx.apop()

    asyncio.run(main())


def test_wrong_records_are_refused(ring: Ring) -> None:
    async def main() -> None:
        with ring.producer("eventfd") as tx:
            with pytest.raises(ValueError, match="bytes"):
                await tx.apush(bytes(100))
            with pytest.raises(TypeError):
                await tx.apush("text")
            await tx.apush(record(1))

    asyncio.run(main())


def test_selectors_see_both_ends(ring: Ring) -> None:
    with ring.producer("eventfd") as tx, ring.consumer("eventfd") as rx, selectors.DefaultSelector() as selector:
        assert rx.try_pop() is None
        assert tx.push_many([record(i) for i in range(5)]) == 4
        assert not tx.try_push(record(4))
        selector.register(rx, selectors.EVENT_READ)
        selector.register(tx, selectors.EVENT_READ)
        ready = {key.fileobj for key, _ in selector.select(PATIENCE_S)}
        assert ready == {rx}
        assert rx.pop_many(4) == [record(i) for i in range(4)]
        assert rx.try_pop() is None
        ready = {key.fileobj for key, _ in selector.select(PATIENCE_S)}
        assert ready == {tx}
        assert tx.try_push(record(4))
        ready = {key.fileobj for key, _ in selector.select(PATIENCE_S)}
        assert rx in ready
