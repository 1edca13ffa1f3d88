"""Forked workers, in every listener mode: real processes on the memory they inherit, the core played by hand."""

import os
import time
from collections.abc import Callable, Iterator

import pytest

from stackcore.abi import abi
from stackcore.vcl import _vcl
from tests.stackcore.hand import ADD, EPOLLIN, PATIENCE_S, Hand, Message, Server, area, reply

TABLE = 32
SERVING = [mode for mode in _vcl.listener_modes if mode != "unlocked-shared"]


@pytest.fixture
def hand() -> Iterator[Hand]:
    with Hand(workers=3, sessions=16, app_size=area(TABLE)) as stack:
        yield stack


def start(body: Callable[[], bool]) -> int:
    """Fork a child that exits with 0 if ``body`` returns true."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = 0 if body() else 2
    finally:
        os._exit(status)


def ended_well(pid: int) -> bool:
    return os.waitpid(pid, 0)[1] == 0


def listen_until(hand: Hand, worker: int, done: Callable[[list[Message]], bool], answer: int = 0) -> list[Message]:
    """Be the core for ``worker``: answer its requests, until what it said satisfies ``done``."""
    record = hand.view.address + hand.layout.offsets["workers_at"] + worker * abi.WORKER.itemsize
    heard: list[Message] = []
    deadline = time.monotonic() + PATIENCE_S
    while not done(heard):
        assert time.monotonic() < deadline, f"worker {worker} said only {heard}"
        for message in hand.messages(worker):
            heard.append(message)
            if message.type in (abi.EV_LISTEN, abi.EV_UNLISTEN):
                reply(record, answer)
        os.sched_yield()
    return heard


def said(kind: int) -> Callable[[list[Message]], bool]:
    return lambda heard: any(m.type == kind for m in heard)


def echo_once(server: Server, index: int) -> bool:
    """A child's life: become worker ``index``, take one connection, answer it in capitals."""
    w = server.worker
    w.child(index, -1)
    epoll = w.epoll_create()
    w.epoll_ctl(epoll, ADD, server.listener, EPOLLIN, server.listener)
    w.close(server.epoll)  # the parent's set, of which this is a copy, must not disturb
    if w.epoll_wait(epoll, 8, 10_000) != [(server.listener, EPOLLIN)]:
        return False
    fd = w.accept(server.listener)
    w.epoll_ctl(epoll, ADD, fd, EPOLLIN, fd)
    if w.epoll_wait(epoll, 8, 10_000) != [(fd, EPOLLIN)]:
        return False
    w.send(fd, w.recv(fd, 100).upper())
    w.close(fd)
    w.publish()
    return True


@pytest.mark.parametrize("events", list(_vcl.event_modes))
@pytest.mark.parametrize("mode", SERVING)
def test_a_child_serves(hand: Hand, mode: str, events: str) -> None:
    server = Server(hand, mode, events, table=TABLE)
    pid = start(lambda: echo_once(server, 1))
    if server.shared:
        heard = listen_until(hand, 1, said(abi.EV_POLL))
        assert not said(abi.EV_LISTEN)(heard)  # the listener is the parent's
    else:
        heard = listen_until(hand, 1, said(abi.EV_LISTEN))
        assert [m.arg for m in heard if m.type == abi.EV_LISTEN] == [80]
        with hand.answering(0):
            server.worker.parent()
        assert said(abi.EV_UNLISTEN)(hand.messages(0))
    session = hand.open(worker=1)
    hand.offer(session, shared=server.shared)
    listen_until(hand, 1, said(abi.EV_ACCEPTED_REPLY))
    hand.write(session, b"hello")
    listen_until(hand, 1, said(abi.EV_CLOSE))
    assert hand.read(session) == b"HELLO"
    assert ended_well(pid)
    record = hand.view.workers[1]
    counters = ("accepted", "rx_bytes", "tx_bytes", "misdelivered", "duplicate", "stale")
    assert [int(record[name]) for name in counters] == [1, 5, 5, 0, 0, 0]


def test_children_of_the_unlocked_mode_get_no_service(hand: Hand) -> None:
    """The negative control: the core brings connections to the parent, the children poll copies of its tables."""
    server = Server(hand, "unlocked-shared", table=TABLE)

    def child() -> bool:
        w = server.worker
        w.child(1, -1)
        epoll = w.epoll_create()
        w.epoll_ctl(epoll, ADD, server.listener, EPOLLIN, server.listener)
        if w.epoll_wait(epoll, 8, 100):
            return False
        with pytest.raises(BlockingIOError):
            w.accept(server.listener)
        return True

    session = hand.open(worker=0)
    hand.offer(session)
    pid = start(child)
    server.worker.parent()
    assert ended_well(pid)
    assert hand.messages(1) == []  # it never registered
    assert server.wait() == [(server.listener, EPOLLIN)]  # still the parent's to serve


@pytest.mark.parametrize("mode", list(_vcl.listener_modes))
def test_a_child_does_not_inherit_what_waits(hand: Hand, mode: str) -> None:
    """Connections and events of the parent stay the parent's; only in a shared table is there anything to share."""
    server = Server(hand, mode, "single-queue", table=TABLE)
    fd, session = server.connect()
    hand.write(session, b"parent's")

    def child() -> bool:
        w = server.worker
        w.child(1, -1)
        return not w.epoll_wait(w.epoll_create(), 8, 0)

    pid = start(child)
    if not server.shared and mode == "duplicated":
        listen_until(hand, 1, said(abi.EV_LISTEN))
    assert ended_well(pid)
    assert server.wait() == [(fd, EPOLLIN)]
    assert server.worker.recv(fd, 100) == b"parent's"


def test_an_index_that_is_not_there_is_refused(hand: Hand) -> None:
    server = Server(hand, "duplicated")
    for index in (-1, 3, 1 << 20):
        with pytest.raises(OSError):
            server.worker.child(index, -1)


class TestTurns:
    """shared-rwlock: the core rings one worker per connection; the others keep their hands off unless nothing happens."""

    @pytest.fixture
    def servers(self, hand: Hand) -> tuple[Server, Server]:
        first = Server(hand, "shared-rwlock", table=TABLE)
        second = Server.__new__(Server)
        second.hand, second.shared = hand, True
        second.worker = hand.attach(1, "shared-rwlock", table=TABLE)
        with hand.answering(0, worker=1):
            second.listener = second.worker.listen(80)
        second.epoll = second.worker.epoll_create()
        second.worker.epoll_ctl(second.epoll, ADD, second.listener, EPOLLIN, second.listener)
        hand.messages(1)
        return first, second

    def ring(self, hand: Hand, worker: int) -> None:
        hand.offer(hand.open(worker), shared=True)

    def test_only_who_was_rung_takes(self, hand: Hand, servers: tuple[Server, Server]) -> None:
        first, second = servers
        self.ring(hand, 0)
        assert second.wait() == []
        with pytest.raises(BlockingIOError):
            second.worker.accept(second.listener)
        assert first.wait() == [(first.listener, EPOLLIN)]
        first.worker.accept(first.listener)
        assert first.wait() == []

    def test_as_many_as_it_was_rung_for(self, hand: Hand, servers: tuple[Server, Server]) -> None:
        first, second = servers
        for worker in (0, 0, 1):
            self.ring(hand, worker)
        first.wait()
        first.worker.accept(first.listener)
        first.worker.accept(first.listener)
        with pytest.raises(BlockingIOError):
            first.worker.accept(first.listener)
        assert second.wait() == [(second.listener, EPOLLIN)]
        second.worker.accept(second.listener)

    def test_leftovers_go_to_who_has_nothing_to_do_one_at_a_time(self, hand: Hand, servers: tuple[Server, Server]) -> None:
        first, second = servers
        self.ring(hand, 0)
        self.ring(hand, 0)  # and worker 0 never looks
        for _ in range(2):
            assert second.worker.epoll_wait(second.epoll, 8, 2000) == [(second.listener, EPOLLIN)]
            second.worker.accept(second.listener)
            with pytest.raises(BlockingIOError):
                second.worker.accept(second.listener)
        assert first.wait() == []  # rung twice, but nothing is left

    def test_who_does_not_poll_takes_what_there_is(self, hand: Hand, servers: tuple[Server, Server]) -> None:
        first, second = servers
        second.worker.epoll_ctl(second.epoll, 2, second.listener)
        self.ring(hand, 0)
        second.worker.accept(second.listener)
