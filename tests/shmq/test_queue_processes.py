"""The queue between real processes: many to many, start methods, exits, kill -9 of producers and consumers."""

import contextlib
import multiprocessing
import os
import queue as stdlib_queue
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest

from shmq import Queue, Segment
from tests.shmq import pickled
from tests.shmq.helpers import PATIENCE_S, Child, Flag

Fork = Callable[[Callable[[], None]], Child]
MakeFlag = Callable[[], Flag]


@pytest.fixture(params=[0, 2, 50])
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    with Queue(request.param, capacity=8192) as queue:
        yield queue


def assert_each_once_in_order(items: list[tuple[int, int]], producers: int, count: int) -> None:
    assert sorted(items) == [(p, i) for p in range(producers) for i in range(count)]


def test_many_to_many(queue: Queue, fork: Fork) -> None:
    """Every object exactly once, and each consumer sees each producer's in order."""
    producers, consumers, count = 3, 3, 900

    with Queue() as results:

        def produce(p: int) -> None:
            for i in range(count):
                queue.put((p, i, b"x" * (i % 700)), timeout=PATIENCE_S)
            queue.close()
            queue.join_thread()

        def consume() -> None:
            got = []
            while (item := queue.get(timeout=PATIENCE_S)) is not None:
                assert item[2] == b"x" * (item[1] % 700)
                got.append(item[:2])
            results.put(got)

        makers = [fork(lambda p=p: produce(p)) for p in range(producers)]
        takers = [fork(consume) for _ in range(consumers)]
        for maker in makers:
            maker.join()
        for _ in takers:
            queue.put(None)
        lists = [results.get(timeout=PATIENCE_S) for _ in takers]
        for taker in takers:
            taker.join()
    for got in lists:
        for p in range(producers):
            numbers = [i for q, i in got if q == p]
            assert numbers == sorted(numbers)
    assert_each_once_in_order([item for got in lists for item in got], producers, count)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_start_methods(method: str) -> None:
    with Queue() as there, Queue(5) as back:
        process = multiprocessing.get_context(method).Process(target=pickled.serve, args=(there, back))
        process.start()
        try:
            for i in range(200):
                there.put((i, bytes(i * 100)))
            there.put(None)
            for i in range(200):
                assert back.get(timeout=60) == (i, i * 100)
            process.join(60)
            assert process.exitcode == 0
        finally:
            process.kill()
            process.join()
            process.close()
            if method == "forkserver":
                from multiprocessing import forkserver

                forkserver._forkserver._stop()
            from multiprocessing import resource_tracker

            with contextlib.suppress(AttributeError):
                resource_tracker._resource_tracker._stop()


def test_unrelated_processes_by_name(name: str) -> None:
    script = f"import shmq\nwith shmq.Queue.attach({name!r}) as q:\n    for i in range(300): q.put([i, 'x' * i])\n"
    with Queue(10, name=name) as queue:
        other = subprocess.Popen([sys.executable, "-c", script])
        assert [queue.get(timeout=PATIENCE_S) for _ in range(300)] == [[i, "x" * i] for i in range(300)]
        assert other.wait(PATIENCE_S) == 0


def test_what_the_parent_put_before_the_fork_is_there_once(fork: Fork) -> None:
    with Queue(capacity=4096) as queue:
        for i in range(500):  # more than the ring holds: the rest waits in the parent
            queue.put(i)
        assert queue.stats()["waiting"]

        def child() -> None:
            assert queue.stats()["waiting"] == 0
            queue.put("child")
            queue.close()
            queue.join_thread()

        process = fork(child)
        got = [queue.get(timeout=PATIENCE_S) for _ in range(501)]
        process.join()
        assert [item for item in got if item != "child"] == list(range(500))
        assert queue.qsize() == 0


EXIT = """
import sys, shmq
queue = shmq.Queue.attach({name!r})
if {cancel}:
    queue.cancel_join_thread()
for i in range(3000):
    queue.put(i)
print(queue.stats()["waiting"], flush=True)
"""


@pytest.mark.parametrize("cancel", [False, True])
def test_exit_waits_for_what_was_put_unless_cancelled(cancel: bool, name: str) -> None:
    with Queue(name=name, capacity=4096) as queue:
        other = subprocess.Popen([sys.executable, "-c", EXIT.format(name=name, cancel=cancel)], stdout=subprocess.PIPE)
        assert other.stdout is not None
        with other.stdout:
            assert int(other.stdout.readline()) > 2000
        if cancel:
            assert other.wait(PATIENCE_S) == 0
        got = []
        with contextlib.suppress(stdlib_queue.Empty):
            while len(got) < 3000:
                got.append(queue.get(timeout=0.5 if cancel else PATIENCE_S))
        assert got == list(range(len(got)))
        assert (len(got) < 3000) == cancel
        assert other.wait(PATIENCE_S) == 0


def test_signal_handlers_run_while_waiting(queue: Queue) -> None:
    class Alarm(Exception):
        pass

    def handler(*_: object) -> None:
        raise Alarm

    old = signal.signal(signal.SIGALRM, handler)
    try:
        calls = [queue.get]
        if queue.maxsize:
            calls.append(lambda: [queue.put(i) for i in range(queue.maxsize + 1)])
        for call in calls:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            began = time.monotonic()
            with pytest.raises(Alarm):
                call()
            assert time.monotonic() - began < 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    queue.put("usable") if not queue.full() else queue.get()


def test_killed_while_waiting_hangs_nobody(fork: Fork, flag: MakeFlag) -> None:
    """The dead process sleeps with its side's mutex; the next one takes over and is woken."""
    with Queue(2) as queue:
        for work, park in ((queue.get, "consumer_parks"), (lambda: [queue.put(i) for i in range(3)], "producer_parks")):
            child = fork(lambda work=work: work() and None)
            deadline = time.monotonic() + PATIENCE_S
            while not queue.stats()[park]:
                assert time.monotonic() < deadline
                os.sched_yield()
            child.kill()
        assert [queue.get(timeout=PATIENCE_S) for _ in range(2)] == [0, 1]
        queue.put("after", timeout=PATIENCE_S)
        assert queue.get(timeout=PATIENCE_S) == "after"


def killed_at_random(child: Child, rng: random.Random) -> None:
    """kill -9 after a random number of microseconds of running."""
    until = time.monotonic() + rng.random() * 0.004
    while time.monotonic() < until:
        pass
    child.kill()


@pytest.mark.parametrize("size", [10, 9000])
@pytest.mark.parametrize("seed", range(3))
def test_killed_producers_lose_and_double_nothing(seed: int, size: int, fork: Fork) -> None:
    """Each producer counts what it has put in shared memory; at most one object more than that may come."""
    rng = random.Random(seed)
    rounds = 40
    with Queue(16, capacity=8192) as queue, Segment.create(8 * rounds, "count", "1") as counts:
        counted = counts.buf.cast("Q")

        def produce(p: int) -> None:
            i = 0
            while True:
                queue.put((p, i, bytes([p]) * size), timeout=PATIENCE_S)
                i += 1
                counted[p] = i

        got: dict[int, list[int]] = defaultdict(list)

        def drain(timeout: float) -> None:
            with contextlib.suppress(stdlib_queue.Empty):
                while True:
                    p, i, data = queue.get(timeout=timeout)
                    assert data == bytes([p]) * size
                    got[p].append(i)

        for p in range(0, rounds, 2):
            pair = [fork(lambda p=p: produce(p)), fork(lambda p=p: produce(p + 1))]
            got_before = sum(map(len, got.values()))
            while sum(map(len, got.values())) < got_before + 20:
                drain(0)
            for child in pair:
                killed_at_random(child, rng)
            drain(0.1)
        for p in range(rounds):
            assert got[p] == list(range(len(got[p])))
            assert counted[p] <= len(got[p]) <= counted[p] + 1
        assert queue.qsize() == 0
        counted.release()


@pytest.mark.parametrize("size", [10, 9000])
@pytest.mark.parametrize("seed", range(3))
def test_killed_consumers_take_at_most_what_they_held(seed: int, size: int, fork: Fork) -> None:
    """Each consumer logs what it got; what is in no log is at most one object per killed consumer."""
    rng = random.Random(seed)
    rounds, room = 40, 20_000
    with Queue(16, capacity=8192) as queue, Segment.create(8 * (room + 1), "log", "1") as log:
        seen = log.buf.cast("Q")  # [number] = times it was got

        def consume() -> None:
            while True:
                number, data = queue.get(timeout=PATIENCE_S)
                assert data == bytes([number % 256]) * size
                seen[number] += 1

        number = 0
        for _ in range(rounds):
            child = fork(consume)
            for _ in range(rng.randrange(5, 60)):
                queue.put((number, bytes([number % 256]) * size), timeout=PATIENCE_S)
                number += 1
            killed_at_random(child, rng)
        with contextlib.suppress(stdlib_queue.Empty):
            while True:
                seen[queue.get(timeout=0.1)[0]] += 1
        times = list(seen[:number])
        assert max(times) == 1, "nothing twice"
        assert times.count(0) <= rounds
        assert queue.qsize() == 0
        seen.release()
