"""asyncio on both ends of a byte fifo: order, sleeping, cancellation, deaths."""

import asyncio
import os
from collections.abc import Callable, Iterator

import pytest

from shmq import ByteFifo, PeerDied
from tests.shmq.helpers import PATIENCE_S, Child, Flag

Fork = Callable[[Callable[[], None]], Child]


@pytest.fixture
def fifo() -> Iterator[ByteFifo]:
    with ByteFifo.create(16, eventfd=True) as fifo:
        yield fifo


@pytest.mark.parametrize("wait", ["eventfd", "park"])
def test_bytes_to_and_from_another_process(fifo: ByteFifo, fork: Fork, wait: str) -> None:
    """Sixteen bytes of room, so that both coroutines must wait; the other side blocks."""
    text = os.urandom(5000)
    with ByteFifo.create(16, eventfd=True) as back:

        def echo() -> None:
            with fifo.reader(wait) as rx, back.writer(wait) as tx:
                left = len(text)
                while left:
                    data = rx.read(7, timeout=PATIENCE_S)
                    left -= len(data)
                    while data:
                        data = data[tx.write(data, timeout=PATIENCE_S) :]

        async def feed(tx) -> None:
            sent = 0
            while sent < len(text):
                sent += await tx.awrite(text[sent : sent + 9])

        async def collect(rx) -> bytes:
            came = b""
            while len(came) < len(text):
                came += await rx.aread(11)
            return came

        async def main() -> None:
            with fifo.writer("eventfd") as tx, back.reader("eventfd") as rx:
                async with asyncio.timeout(PATIENCE_S):
                    _, came = await asyncio.gather(feed(tx), collect(rx))
                assert came == text

        child = fork(echo)
        asyncio.run(main())
        child.join()


def test_nothing_asked_nothing_waited_for(fifo: ByteFifo) -> None:
    async def main() -> None:
        with fifo.writer("eventfd") as tx, fifo.reader("eventfd") as rx:
            assert await rx.aread(0) == b""
            assert await tx.awrite(memoryview(b"0123456789abcdefgh")) == 16, "as much as there is room for"
            assert await tx.awrite(b"") == 0
            assert await rx.aread(99) == b"0123456789abcdef"

    asyncio.run(main())


def test_cancelled_calls_move_nothing(fifo: ByteFifo) -> None:
    async def main() -> None:
        with fifo.writer("eventfd") as tx, fifo.reader("eventfd") as rx:
            waiting = asyncio.ensure_future(rx.aread(4))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="one task at a time"):
                await rx.aread(4)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            tx.write(b"full".ljust(16))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await tx.awrite(b"never")
            assert rx.read(99) == b"full".ljust(16)
            assert rx.try_read(99) == b""

    asyncio.run(main())


@pytest.mark.parametrize("end", ["writer", "reader"])
def test_a_dead_peer_is_noticed(fifo: ByteFifo, end: str, fork: Fork, flag: Callable[[], Flag]) -> None:
    ready, never = flag(), flag()

    def peer() -> None:
        with fifo.reader() if end == "writer" else fifo.writer():
            ready.set()
            never.wait()

    child = fork(peer)
    ready.wait()

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            with getattr(fifo, end)("eventfd") as own:
                if end == "writer":
                    own.write(bytes(16))
                call = asyncio.ensure_future(own.awrite(b"x") if end == "writer" else own.aread(1))
                await asyncio.sleep(0)
                child.kill()
                with pytest.raises(PeerDied):
                    await call

    asyncio.run(main())


def test_other_strategies_have_no_descriptor(fifo: ByteFifo) -> None:
    async def main() -> None:
        with fifo.writer("park") as tx, fifo.reader() as rx:
            for call in (tx.awrite(b"x"), rx.aread(1)):
                with pytest.raises(ValueError, match="eventfd"):
                    await call

    asyncio.run(main())
