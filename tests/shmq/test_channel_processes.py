"""The channel between real processes: order message by message, takeover after kill -9, death of a peer, asyncio."""

import asyncio
import os
import queue
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmq import Channel, PeerDied, RoleTaken
from tests.shmq.helpers import Child, Flag

Fork = Callable[[Callable[[], None]], Child]
MakeFlag = Callable[[], Flag]


def message(number: int, limit: int) -> bytes:
    """Return a message that follows from its number alone: both its length and its bytes."""
    chance = random.Random(number)
    length = chance.randrange(limit + 1) if number % 4 else chance.randrange(min(limit, 24) + 1)
    return (number.to_bytes(8, "little") * (length // 8 + 1))[:length]


def drain(channel: Channel, total: int, wait: str, how: list[str]) -> None:
    """Take `total` messages out in the given ways and compare each with what must come next."""
    limit, seen = channel.max_message, 0
    buffer = bytearray(limit)
    with channel.consumer(wait) as rx:  # type: ignore[arg-type]
        while seen < total:
            got = [rx.pop(timeout=20)]
            match how[seen % len(how)]:
                case "many":
                    got += rx.pop_many(5)
                case "peek":
                    got += [bytes(view) for view in rx.peek(4)]
                    rx.release(len(got) - 1)
                case "into":
                    if rx.stats()["messages"]:
                        length = rx.pop_into(buffer, timeout=20)
                        got.append(bytes(buffer[:length]))
            assert got == [message(seen + i, limit) for i in range(len(got))]
            seen += len(got)
        assert rx.try_pop() is None


@pytest.mark.parametrize("wait", ["spin", "adaptive", "park"])
@pytest.mark.parametrize("capacity", [16, 256, 1 << 14])
def test_messages_arrive_in_order(wait: str, capacity: int, fork: Fork) -> None:
    # room for one message means a sleep and a wake-up for each on this machine's shared CPUs: fewer there
    total = 300 if capacity == 16 else 5_000
    with Channel.create(capacity) as channel:
        child = fork(lambda: drain(channel, total, wait, ["one", "many", "peek", "into"]))
        with channel.producer(wait) as tx:  # type: ignore[arg-type]
            for number in range(total):
                tx.push(message(number, channel.max_message), timeout=20)
            child.join()


@settings(max_examples=15, deadline=None)
@given(
    power=st.integers(4, 10),
    pushes=st.lists(st.tuples(st.sampled_from(["one", "many", "reserve"]), st.integers(1, 20)), max_size=40),
    pops=st.lists(st.sampled_from(["one", "many", "peek", "into"]), min_size=1, max_size=7),
    wait=st.sampled_from(["adaptive", "park"]),
)
def test_any_mix_of_calls_across_processes(power: int, pushes: list[tuple[str, int]], pops: list[str], wait: str) -> None:
    total = sum(count for _, count in pushes)
    with Channel.create(1 << power) as channel:
        child = Child(lambda: drain(channel, total, wait, pops))
        try:
            with channel.producer(wait) as tx:  # type: ignore[arg-type]
                next_number = 0
                for how, count in pushes:
                    messages = [message(next_number + i, channel.max_message) for i in range(count)]
                    push_all(tx, how, messages)
                    next_number += count
                child.join()
        finally:
            child.kill()


def push_all(tx, how: str, messages: list[bytes]) -> None:
    """Push all, in the given way, waiting by a blocking push of one whenever there is no room."""
    while messages:
        done = 0
        if how == "many":
            done = tx.push_many(messages)
        elif how == "reserve" and (view := tx.reserve(tx.max_message)) is not None:
            view[: len(messages[0])] = messages[0]
            tx.commit(len(messages[0]))
            done = 1
        if not done:
            tx.push(messages[0], timeout=20)
            done = 1
        messages = messages[done:]


def test_unrelated_processes_by_name(name: str) -> None:
    script = (
        "import sys, shmq\n"
        f"with shmq.Channel.attach({name!r}) as channel, channel.consumer() as rx:\n"
        "    for i in range(500):\n"
        "        assert rx.pop(timeout=20) == b'x' * i\n"
    )
    with Channel.create(1 << 12, name) as channel, channel.producer() as tx:
        other = subprocess.Popen([sys.executable, "-c", script])
        for i in range(500):
            tx.push(b"x" * i, timeout=20)
        assert other.wait(20) == 0


@pytest.mark.parametrize("wait", ["adaptive", "park", "eventfd"])
def test_both_ends_sleep_and_are_woken(wait: str, fork: Fork) -> None:
    """Lock step through two channels: each side waits for the other in every round."""
    rounds = 200
    with Channel.create(64, eventfd=True) as there, Channel.create(64, eventfd=True) as back:

        def echo() -> None:
            with there.consumer(wait) as rx, back.producer(wait) as tx:  # type: ignore[arg-type]
                for _ in range(rounds):
                    tx.push(rx.pop(timeout=20), timeout=20)

        child = fork(echo)
        with there.producer(wait) as tx, back.consumer(wait) as rx:  # type: ignore[arg-type]
            for i in range(rounds):
                tx.push(bytes(i % 33), timeout=20)
                assert rx.pop(timeout=20) == bytes(i % 33)
            child.join()


def test_asyncio(fork: Fork) -> None:
    total = 300

    async def receive(channel: Channel) -> None:
        with channel.consumer("eventfd") as rx:
            for number in range(total):
                assert await asyncio.wait_for(rx.apop(), 20) == message(number, channel.max_message)

    async def send(channel: Channel) -> None:
        with channel.producer("eventfd") as tx:
            for number in range(total):
                await asyncio.wait_for(tx.apush(message(number, channel.max_message)), 20)

    with Channel.create(256, eventfd=True) as channel:
        child = fork(lambda: asyncio.run(receive(channel)))
        asyncio.run(send(channel))
        child.join()


# ---- death


def hold(channel: Channel, role: str, ready: Flag, count: int) -> Callable[[], None]:
    """Work for a child that takes a role, pushes or pops, leaves something half done, and waits to be killed."""

    def work() -> None:
        if role == "producer":
            tx = channel.producer()
            tx.push_many([message(i, 100) for i in range(count)])
            view = tx.reserve(100)  # written, never committed
            assert view is not None
            view[:] = b"\xff" * 100
        else:
            rx = channel.consumer()
            assert rx.pop_many(count) == [message(i, 100) for i in range(count)]
            rx.peek(2)  # seen, never released
        ready.set()
        signal.pause()

    return work


def test_role_of_a_killed_producer_can_be_taken_over(fork: Fork, flag: MakeFlag) -> None:
    with Channel.create(1024) as channel:
        ready = flag()
        child = fork(hold(channel, "producer", ready, count=3))
        ready.wait()
        with pytest.raises(RoleTaken, match=f"process {child.pid} is the producer of this channel"):
            channel.producer()
        child.kill()
        with channel.producer() as tx, channel.consumer() as rx:
            tx.push_many([message(i, 100) for i in (3, 4)])
            assert rx.pop_many(9) == [message(i, 100) for i in range(5)], "the half-written one left nothing"


def test_role_of_a_killed_consumer_can_be_taken_over(fork: Fork, flag: MakeFlag) -> None:
    with Channel.create(1024) as channel, channel.producer() as tx:
        tx.push_many([message(i, 100) for i in range(6)])
        ready = flag()
        child = fork(hold(channel, "consumer", ready, count=2))
        ready.wait()
        child.kill()
        with channel.consumer() as rx:
            assert rx.pop_many(9) == [message(i, 100) for i in range(2, 6)], "what was only peeked comes again"


def test_waits_learn_of_a_death_within_a_second(fork: Fork, flag: MakeFlag) -> None:
    for role, peer in (("producer", "consumer"), ("consumer", "producer")):
        with Channel.create(256) as channel, getattr(channel, role)() as end:
            ready = flag()
            child = fork(hold(channel, peer, ready, count=0))
            ready.wait()
            child.kill()
            before = time.monotonic()
            with pytest.raises(PeerDied, match=f"the channel's {peer}, process {child.pid}, died"):
                while True:
                    end.push(bytes(64)) if role == "producer" else end.pop()
            assert time.monotonic() - before < 1


def test_kill_at_any_moment_loses_and_doubles_nothing(fork: Fork) -> None:
    """A producer is killed over and over; each successor goes on behind the last message that was committed."""
    chance = random.Random(1)
    with Channel.create(1 << 12) as channel, channel.consumer() as rx:
        expected = 0
        for _ in range(100):

            def produce(first: int = expected) -> None:
                with channel.producer() as tx:
                    number = first
                    while True:
                        for _ in range(5):
                            tx.push(message(number, 600))
                            number += 1
                        os.sched_yield()

            child = fork(produce)
            for _ in range(chance.randrange(200)):
                try:
                    got = rx.pop(timeout=0.001)
                except (queue.Empty, PeerDied):  # the child has not got that far, or not taken over yet
                    continue
                assert got == message(expected, 600)
                expected += 1
            child.kill()
            for got in rx.pop_many(1000):
                assert got == message(expected, 600)
                expected += 1
        assert expected > 1000
