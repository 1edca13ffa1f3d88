"""The server of downloads, compiled and in Python: what it reads, what it writes, when it closes.

It runs in this process on a private stack; the core is played by hand, so that each byte comes and goes when the test says
so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from stackcore import configuration
from stackcore.abi import abi
from stackcore.kernel import c_function
from tests.stackcore.hand import EPOLLET, EPOLLIN, Hand, Server, Session
from workloads import fanout, http, transfer

FIFO = 1024
SIZE = 10_000
fifo_room = c_function("shmq_x_fifo_room", 2)


class Site:
    """A server and clients played by hand."""

    def __init__(self, app: str, trigger: str) -> None:
        self.app = app
        self.hand = Hand(workers=1, sessions=8, ring=64, fifo=FIFO)
        self.config = configuration.make(workload="transfer", clients=8, sessions=64, trigger=trigger, maxevents=8, size=SIZE)
        self.prepared = transfer.prepare(self.config)
        mask = EPOLLIN | (EPOLLET if trigger == "edge" else 0)
        self.server = Server(self.hand, "duplicated", "single-queue", mask=mask)
        self.closed: set[int] = set()
        if app == "compiled":
            self.state = transfer.new_state(self.prepared, self.config)
        else:
            vcl = self.server.worker
            vcl.close(self.server.epoll)
            self.python = transfer.Downloads(vcl, self.server.listener, self.prepared.reply, self.config)

    def settle(self) -> None:
        """Let the server do what there is to do; it returns when it finds nothing more."""
        server = self.server
        if self.app == "compiled":
            assert transfer.serve(server.worker.handle, server.epoll, server.listener, 1 << 62, self.state) == 0
        else:
            turns = iter([True, True])
            self.python.run(lambda: next(turns, False))
        self.closed |= {message.session for message in self.hand.messages() if message.type == abi.EV_CLOSE}

    def connect(self) -> Session:
        session = self.hand.open()
        self.hand.offer(session)
        self.settle()
        return session

    def ask(self, session: Session, *parts: bytes) -> None:
        for part in parts or (self.prepared.request,):
            assert self.hand.write(session, part) == len(part)
            self.settle()

    def fetch(self, session: Session) -> bytes:
        """Everything that comes, up to the close."""
        got = b""
        for _ in range(4 * SIZE // FIFO):
            got += self.hand.read(session)
            if session.index in self.closed:
                break
            self.settle()
        return got + self.hand.read(session)

    def over(self, session: Session) -> None:
        """Its slot may be used again; it must be closed."""
        assert session.index in self.closed
        self.closed.remove(session.index)
        self.hand.free(session)


@pytest.fixture(params=["compiled-edge", "compiled-level", "python-edge", "python-level"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(*request.param.split("-"))
    yield made
    made.hand.__exit__()


class TestDownloads:
    def test_one(self, site: Site) -> None:
        session = site.connect()
        site.ask(session)
        assert site.fetch(session) == site.prepared.reply
        site.over(session)
        assert site.hand.counters(site.server.worker)["requests"] == 1

    def test_one_after_the_other_on_the_same_slot(self, site: Site) -> None:
        for _ in range(5):
            session = site.connect()
            site.ask(session)
            assert site.fetch(session) == site.prepared.reply
            site.over(session)

    @pytest.mark.parametrize("at", [1, 32, 63])
    def test_nothing_is_sent_before_the_request_is_whole(self, site: Site, at: int) -> None:
        session, request = site.connect(), site.prepared.request
        site.ask(session, request[:at])
        assert site.hand.read(session) == b""
        site.ask(session, request[at:])
        assert site.fetch(session) == site.prepared.reply

    @pytest.mark.parametrize("late", [False, True])
    def test_no_byte_behind_the_request_is_read(self, site: Site, late: bool) -> None:
        session, request = site.connect(), site.prepared.request
        site.ask(session, *((request, request) if late else (request + request,)))
        assert site.fetch(session) == site.prepared.reply
        site.over(session)
        assert fifo_room(ctypes.addressof(session.rx), FIFO) == FIFO - len(request)

    def test_who_does_not_read_holds_nobody_up(self, site: Site) -> None:
        slow, fast = site.connect(), site.connect()
        site.ask(slow)
        site.ask(fast)
        assert site.fetch(fast) == site.prepared.reply
        site.over(fast)
        assert slow.index not in site.closed
        assert site.fetch(slow) == site.prepared.reply
        site.over(slow)

    def test_many_at_once_get_their_own(self, site: Site) -> None:
        sessions = [site.connect() for _ in range(8)]
        for session in sessions:
            site.ask(session)
        got = {session.index: b"" for session in sessions}
        for turn in range(40 * SIZE // FIFO):
            session = sessions[turn * 5 % 8]
            got[session.index] += site.hand.read(session, 100 + 37 * turn % 700)
            site.settle()
        assert site.closed == set(got)
        for session in sessions:
            assert got[session.index] + site.hand.read(session) == site.prepared.reply

    def test_the_close_does_not_wait_for_the_client(self, site: Site) -> None:
        session = site.connect()
        site.ask(session)
        got = b""
        while session.index not in site.closed:
            got += site.hand.read(session)
            site.settle()
        rest = site.hand.read(session)
        assert len(rest) > FIFO // 4 and got + rest == site.prepared.reply


class TestClientsThatGo:
    def test_before_the_request_is_whole(self, site: Site) -> None:
        session = site.connect()
        site.ask(session, site.prepared.request[:63])
        site.hand.hang_up(session)
        site.settle()
        assert site.hand.read(session) == b""
        site.over(session)

    def test_a_client_that_only_sends_no_more_gets_its_reply(self, site: Site) -> None:
        session = site.connect()
        site.ask(session)
        site.hand.hang_up(session)
        assert site.fetch(session) == site.prepared.reply
        site.over(session)

    def test_a_reset_in_the_middle(self, site: Site) -> None:
        session = site.connect()
        site.ask(session)
        site.hand.read(session)
        site.settle()
        site.hand.reset(session)
        site.settle()
        site.over(session)
        assert site.hand.counters(site.server.worker)["requests"] == 0
        after = site.connect()
        site.ask(after)
        assert site.fetch(after) == site.prepared.reply


class TestConfiguration:
    def test_what_it_is_by_default(self) -> None:
        config = configuration.make(workload="transfer")
        assert (config.transport, config.wire, config.clients, config.size) == ("tcp", "shm", 3600, 1 << 20)
        assert (config.unread, config.abort) == (0.1, 0.05)

    def test_the_same_seed_is_the_same_reply(self) -> None:
        one, same, other = (
            transfer.prepare(configuration.make(workload="transfer", size=SIZE, seed=seed)) for seed in (1, 1, 2)
        )
        assert one.reply == same.reply != other.reply
        assert len(one.reply) == SIZE and len(one.request) == transfer.REQUEST and one.once

    @pytest.mark.parametrize(("flag", "words"), [({"transport": "null"}, "leave --transport null out"), ({"size": 0}, "--size")])
    def test_what_cannot_be_is_said(self, flag: dict[str, Any], words: str) -> None:
        with pytest.raises(configuration.ConfigError, match=words):
            transfer.prepare(configuration.make(workload="transfer", **flag))


@pytest.mark.parametrize("workload", [http, fanout, transfer])
def test_a_simulated_worker_never_waits(workload: Any) -> None:
    config = configuration.make(workload=workload.__name__.rpartition(".")[2], clients=4, sessions=16, maxevents=8)
    prepared = workload.prepare(config)
    try:
        with Hand(workers=1) as hand:
            server = Server(hand, "duplicated", "single-queue", wait="park")
            serve, state, memory = workload.simulated(prepared, config)
            for _ in range(3):
                assert serve(server.worker.handle, server.epoll, server.listener, 1 << 62, state) == 0
            counted = hand.counters(server.worker)
            assert counted["waits"] == 3 and counted["parks"] == 0
            assert serve(server.worker.handle, server.epoll, server.listener, 0, state._replace(timeout_ms=1)) == 0
            assert hand.counters(server.worker)["parks"] > 0
            del memory
    finally:
        prepared.close()
