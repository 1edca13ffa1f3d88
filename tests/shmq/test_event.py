"""Event: as threading.Event, across threads and processes, under every interleaving."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

import pytest

import shmq
from shmq import CorruptSegment, Event, Segment
from tests.shmq.helpers import Child, Flag, until
from tests.shmq.interleave import Violation, explore, fence, load, rmw, sleep, wake
from tests.shmq.test_interleavings import Steps

Fork = Callable[[Callable[[], None]], Child]
MakeFlag = Callable[[], Flag]


@pytest.fixture(autouse=True, scope="module")
def helper_of_multiprocessing() -> None:
    """multiprocessing's own helper process is there before a test counts descriptors."""
    resource_tracker.ensure_running()


@pytest.fixture
def event() -> Iterator[Event]:
    with Event.create() as event:
        yield event


def test_set_clear_wait(event: Event) -> None:
    assert not event.is_set()
    assert not event.wait(0)
    event.set()
    event.set()
    assert event.is_set()
    assert event.wait(0) is event.wait() is True
    event.clear()
    event.clear()
    assert not event.is_set()
    assert event.wait(timeout=0.001) is False
    assert event.stats()["sets"] == 1


@pytest.mark.parametrize("timeout", [0.01, 0.08, 0.12])
def test_timeout(event: Event, timeout: float) -> None:
    before = time.monotonic()
    assert not event.wait(timeout)
    assert time.monotonic() - before >= timeout


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1"])
def test_impossible_timeouts(event: Event, timeout: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        event.wait(timeout)  # type: ignore[arg-type]


def test_everybody_is_woken(event: Event, fork: Fork) -> None:
    children = [fork(lambda: None if event.wait(20) else os._exit(1)) for _ in range(3)]
    threads = [threading.Thread(target=event.wait, args=(20,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: event.stats()["waiters"] == 6)
    event.set()
    for thread in threads:
        thread.join()
    for child in children:
        child.join()
    assert event.stats()["waiters"] == 0
    wakes = event.stats()["wakes"]
    event.set()
    assert event.stats()["wakes"] == wakes, "nobody sleeps: no syscall"


def test_set_and_cleared_at_once_still_ends_the_wait(event: Event, fork: Fork) -> None:
    for _ in range(50):
        child = fork(lambda: None if event.wait(20) else os._exit(1))
        until(lambda: event.stats()["waiters"] == 1)
        event.set()
        event.clear()
        child.join()


def test_ping_pong_between_processes(fork: Fork) -> None:
    with Event.create() as ping, Event.create() as pong:

        def answer() -> None:
            for _ in range(300):
                assert ping.wait(20)
                ping.clear()
                pong.set()

        child = fork(answer)
        for _ in range(300):
            ping.set()
            assert pong.wait(20)
            pong.clear()
        child.join()


def test_by_name_by_descriptor_and_in_memory_of_ones_own(name: str) -> None:
    with Event.create(name) as event, Event.attach(name) as other:
        assert event.segment is not None
        with Event.from_fd(event.segment.fd) as third:
            other.set()
            assert event.wait(0)
            assert third.is_set()
        assert repr(event) == f"<Event {name}, set>"
    with Segment.create(256, "own", "1") as segment:
        with Event(segment.mapping, 256) as one, Event(segment.buf, 128) as same:
            one.set()
            assert same.is_set()
        for at in (-128, 64, 384, 1 << 40):
            with pytest.raises(ValueError, match="128 bytes of memory, aligned to 128"):
                Event(segment.mapping, at)


def test_attach_to_something_else(name: str) -> None:
    with shmq.SpinLock.create(name), pytest.raises(CorruptSegment, match="another kind"):
        Event.attach(name)


def wait_for(event: Event) -> None:
    assert event.wait(20)


def test_sent_to_a_spawned_process(event: Event) -> None:
    process = multiprocessing.get_context("spawn").Process(target=wait_for, args=(event,))
    process.start()
    event.set()
    process.join(60)
    assert process.exitcode == 0
    process.close()


def test_use_after_close() -> None:
    event = Event.create()
    event.close()
    event.close()
    for call in (event.set, event.clear, event.is_set, event.wait, event.stats):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert "closed" in repr(event)


def test_close_while_a_thread_waits(event: Event) -> None:
    thread = threading.Thread(target=event.wait)
    thread.start()
    until(lambda: event.stats()["waiters"] == 1)
    with pytest.raises(RuntimeError, match=r"1 thread\(s\) of this process wait"):
        event.close()
    event.set()
    thread.join()


def test_signal_handlers_run_during_a_wait(event: Event) -> None:
    class Alarm(Exception):
        pass

    def handler(*_: object) -> None:
        raise Alarm

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Alarm):
            event.wait()
        event.set()
        assert event.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_a_waiter_that_was_killed_costs_nothing_but_a_syscall(event: Event, fork: Fork) -> None:
    child = fork(event.wait)
    until(lambda: event.stats()["waiters"] == 1)
    child.kill()
    event.set()
    assert event.wait(0)
    assert event.stats()["waiters"] == 1


# ---- event.h under every interleaving


def setter(times: int, clears: bool, bug: str) -> Steps:
    for _ in range(times):
        was = yield load("word")
        if was % 2 == 0:
            yield rmw("word", lambda word: word + 3)
        yield fence()
        waiters = yield load("waiters")
        if waiters and bug != "no futex wake":
            yield wake("word")
        if clears:
            yield rmw("word", lambda word: word & ~1)


def waiter(bug: str) -> Steps:
    began = yield load("word")
    yield rmw("started", lambda n: n + 1)
    happened = began % 2
    while not happened:
        if bug != "nobody is counted":
            yield rmw("waiters", lambda n: n + 1)
        yield fence()
        now = yield load("word")
        if now == began:
            yield sleep("word", began)
        if bug != "nobody is counted":
            yield rmw("waiters", lambda n: n - 1)
        now = yield load("word")
        happened = now % 2 or now // 2 != began // 2
        if bug == "a set that was cleared is forgotten":
            happened = now % 2
            began = now


def events(waiters: int, times: int, clears: bool, bug: str = "") -> int:
    from tests.shmq.interleave import until as when

    def first_let_them_begin() -> Steps:
        yield when(lambda memory, _: memory["started"] == waiters)
        yield from setter(times, clears, bug)

    threads = [first_let_them_begin, *[lambda: waiter(bug)] * waiters]
    return explore(threads, {"word": 0, "waiters": 0, "started": 0})


@pytest.mark.parametrize(("waiters", "times", "clears"), [(1, 1, False), (2, 1, False), (1, 1, True), (1, 2, True), (2, 1, True)])
def test_no_set_is_missed(waiters: int, times: int, clears: bool) -> None:
    assert events(waiters, times, clears) > 20


@pytest.mark.parametrize("bug", ["no futex wake", "a set that was cleared is forgotten", "nobody is counted"])
def test_event_bugs_are_found(bug: str) -> None:
    with pytest.raises(Violation, match="for ever"):
        events(1, 1, True, bug)
