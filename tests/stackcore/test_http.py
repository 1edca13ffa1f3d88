"""The compiled HTTP server, request by request: what it makes of bytes however they arrive, and what h11 makes of them.

The kernel runs in this process on a private stack; the core is played by hand, so that each byte comes when the test
says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stackcore import configuration
from stackcore.abi import abi
from tests.stackcore.hand import EPOLLET, EPOLLIN, Hand, Server, Session
from workloads import docroot, http
from workloads.http_python import Server as PythonServer

pytestmark = pytest.mark.usefixtures("kernels")

FIFO = 4096
NAMES = ("0", "1K", "2K", "10K", "77")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name in NAMES:
        size = configuration.parse_size(name)
        (folder / name).write_bytes(np.random.default_rng(size).integers(0, 256, size, "u1").tobytes())
    return folder


class Site:
    """A server, compiled or in Python, and clients played by hand."""

    def __init__(self, root: Path, app: str, trigger: str, fifo: int = FIFO) -> None:
        self.root, self.app = root, app
        self.hand = Hand(workers=1, sessions=8, ring=64, fifo=fifo)
        self.config = configuration.make(sessions=64, trigger=trigger, maxevents=8)
        mask = EPOLLIN | (EPOLLET if trigger == "edge" else 0)
        self.server = Server(self.hand, "duplicated", "single-queue", mask=mask)
        if app == "compiled":
            self.state, self._keep = http.new_state(root, self.config)
        else:
            self.server.worker.close(self.server.epoll)
            self.python = PythonServer(self.server.worker, self.server.listener, root, self.config)

    def close(self) -> None:
        self.hand.__exit__()

    def step(self) -> None:
        """Let the server do what there is to do; it returns when it finds nothing more."""
        worker, server = self.server.worker, self.server
        if self.app == "compiled":
            assert http.serve(worker.handle, server.epoll, server.listener, 1 << 62, self.state) == 0
            return
        calls = iter([True, True])
        self.python.run(lambda: next(calls, False))

    def connect(self) -> Session:
        session = self.hand.open()
        self.hand.offer(session)
        self.settle()
        return session

    def settle(self) -> bool:
        """Run until the server waits; True when it closed a connection meanwhile."""
        self.step()
        return any(message.type == abi.EV_CLOSE for message in self.hand.messages())

    def talk(self, session: Session, *parts: bytes) -> tuple[bytes, bool]:
        """(everything the server answers, whether it closed) when the parts arrive one after another."""
        answer, closed = b"", False
        for part in parts:
            while part and not closed:
                part = part[self.hand.write(session, part) :]
                closed |= self.settle()
                told = 0
                while told != session.seq:  # as long as the server was told of room
                    told = session.seq
                    answer += self.hand.read(session)
                    if told != session.seq:
                        closed |= self.settle()
        if closed:
            self.hand.free(session)
        return answer, closed

    def ask(self, *parts: bytes) -> tuple[bytes, bool]:
        """The same on a connection of its own, which is gone afterwards."""
        session = self.connect()
        answer, closed = self.talk(session, *parts)
        if not closed:
            self.hand.hang_up(session)
            assert self.settle(), "the server keeps a connection whose client is gone"
            self.hand.free(session)
        return answer, closed

    def page(self, name: str, status: str = "200 OK") -> bytes:
        body = (self.root / name).read_bytes() if status == "200 OK" else b""
        return http.header(status, len(body)) + body


@pytest.fixture(params=["edge", "level"])
def site(request: pytest.FixtureRequest, root: Path) -> Iterator[Site]:
    made = Site(root, "compiled", request.param)
    yield made
    made.close()


def get(name: str, *fields: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET /{name} HTTP/{version}", "Host: a", *fields, "", ""]).encode()


NOT_FOUND, BAD = http.header("404 Not Found", 0), http.header("400 Bad Request", 0)


class TestRequests:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_file(self, site: Site, name: str) -> None:
        assert site.ask(get(name)) == (site.page(name), False)

    def test_a_request_in_two_parts_split_anywhere(self, site: Site) -> None:
        request = get("77", "Accept: */*")
        for at in range(1, len(request)):
            assert site.ask(request[:at], request[at:]) == (site.page("77"), False), at

    def test_a_request_byte_by_byte(self, site: Site) -> None:
        assert site.ask(*(bytes([b]) for b in get("1K"))) == (site.page("1K"), False)

    @pytest.mark.parametrize("at", [1, 30, 60, 90])
    def test_requests_in_one_piece_are_answered_in_order(self, site: Site, at: int) -> None:
        names = ("77", "0", "1K", "none", "77", "2K")
        requests = b"".join(map(get, names))
        answers = b"".join(NOT_FOUND if name == "none" else site.page(name) for name in names)
        assert site.ask(requests) == (answers, False)
        assert site.ask(requests[:at], requests[at:]) == (answers, False)

    def test_more_pipelined_requests_than_the_buffer_holds(self, site: Site) -> None:
        n = 3 * http.HEADER_LIMIT // len(get("77"))
        assert site.ask(get("77") * n) == (site.page("77") * n, False)

    def test_one_connection_many_requests(self, site: Site) -> None:
        session = site.connect()
        for name in NAMES * 3:
            assert site.talk(session, get(name)) == (site.page(name), False)

    def test_connections_do_not_mix(self, site: Site) -> None:
        a, b = site.connect(), site.connect()
        first, second = get("77"), get("1K")
        site.hand.write(a, first[:10])
        site.hand.write(b, second[:20])
        site.settle()
        assert site.talk(b, second[20:]) == (site.page("1K"), False)
        assert site.talk(a, first[10:]) == (site.page("77"), False)

    def test_a_large_reply_through_a_small_fifo(self, root: Path) -> None:
        for trigger in ("edge", "level"):
            site = Site(root, "compiled", trigger, fifo=256)
            assert site.ask(get("10K")) == (site.page("10K"), False)
            assert site.ask(get("10K") + get("77")) == (site.page("10K") + site.page("77"), False)
            assert site.ask(get("10K", "Connection: close")) == (site.page("10K"), True)
            site.close()

    def test_the_requests_are_counted(self, site: Site) -> None:
        site.ask(get("77") * 5)
        assert site.hand.counters(site.server.worker)["requests"] == 5


class TestRefusals:
    @pytest.mark.parametrize("name", ["none", "1k", "77/", "7", "777", "..%2f", "", "x" * 100])
    def test_what_is_not_there_is_404_and_the_connection_stays(self, site: Site, name: str) -> None:
        assert site.ask(get(name) + get("77")) == (NOT_FOUND + site.page("77"), False)

    @pytest.mark.parametrize(
        "request_",
        [
            b"PUT /77 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"GET /77\r\nHost: abc\r\n\r\n",
            b"get /77 HTTP/1.1\r\n\r\n",
        ],
    )
    def test_what_is_no_request_is_400_and_the_end(self, site: Site, request_: bytes) -> None:
        assert site.ask(request_ + get("77")) == (BAD, True)

    def test_a_header_that_does_not_end_is_cut(self, site: Site) -> None:
        assert site.ask(b"GET /77 HTTP/1.1\r\nX: " + b"x" * http.HEADER_LIMIT) == (b"", True)

    def test_a_header_as_long_as_the_limit(self, site: Site) -> None:
        fill = http.HEADER_LIMIT - len(get("77", "X: "))
        assert site.ask(get("77", "X: " + "x" * fill)) == (site.page("77"), False)
        assert site.ask(get("77", "X: " + "x" * (fill + 1))) == (b"", True)

    def test_a_client_that_goes_in_the_middle(self, site: Site) -> None:
        session = site.connect()
        site.hand.write(session, get("77")[:20])
        site.settle()
        site.hand.hang_up(session)
        assert site.settle()
        site.hand.free(session)
        assert site.ask(get("77")) == (site.page("77"), False)  # on the same descriptor, with nothing left over

    def test_a_reset_in_the_middle_of_a_reply(self, root: Path) -> None:
        for trigger in ("edge", "level"):
            site = Site(root, "compiled", trigger, fifo=256)
            session = site.connect()
            site.hand.write(session, get("10K"))
            site.settle()
            site.hand.reset(session)
            assert site.settle()
            site.hand.free(session)
            assert site.ask(get("77")) == (site.page("77"), False)
            site.close()


CLOSING = [
    "Connection: close", "connection: close", "CONNECTION: CLOSE", "Connection:close", "Connection:  close", "Connection:\tclose",
]  # fmt: skip
STAYING = ["Connection: keep-alive", "Content-Language: close", "X-Connection: close", "Connector: close"]


class TestClosing:
    @pytest.mark.parametrize("field", CLOSING)
    def test_close_ends_it(self, site: Site, field: str) -> None:
        assert site.ask(get("77", "A: b", field, "C: d")) == (site.page("77"), True)

    @pytest.mark.parametrize("field", STAYING)
    def test_other_fields_do_not(self, site: Site, field: str) -> None:
        assert site.ask(get("77", field)) == (site.page("77"), False)

    def test_http_1_0_does(self, site: Site) -> None:
        assert site.ask(get("77", version="1.0")) == (site.page("77"), True)

    def test_what_comes_after_a_close_is_not_answered(self, site: Site) -> None:
        assert site.ask(get("77", "Connection: close") + get("1K")) == (site.page("77"), True)


# ---- the same requests to h11 ----

tokens = st.sampled_from(["Accept", "X-Test", "User-Agent", "Cookie", "Connectionx", "c"])
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
fields = st.lists(
    st.builds("{}: {}".format, tokens, values) | st.sampled_from(["Connection: keep-alive", "Connection: close"]), max_size=4
)
requests = st.builds(
    lambda name, fields, version: get(name, *fields, version=version),
    st.sampled_from([*NAMES, "none"]), fields, st.sampled_from(["1.1", "1.1", "1.1", "1.0"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def two_sites(root: Path, kernels: Any) -> Iterator[tuple[Site, Site]]:
    made = Site(root, "compiled", "edge"), Site(root, "python", "edge")
    yield made
    for each in made:
        each.close()


def parsed(answer: bytes, closed: bool, asked: int) -> list[tuple[int, bytes]]:
    """(status, body) of each reply, as an independent client reads them."""
    client, found = h11.Connection(h11.CLIENT), []
    client.receive_data(answer)
    for _ in range(asked):
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        status, body = 0, b""
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                return found
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                break
        found.append((status, body))
        if client.our_state is not h11.DONE:
            break
        client.start_next_cycle()
    return found


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(requests, min_size=1, max_size=4), st.lists(st.integers(0, 600), max_size=3))
def test_the_kernel_and_h11_agree(two_sites: tuple[Site, Site], sent: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(sent)
    edges = [0, *sorted(c for c in cuts if c < len(whole)), len(whole)]
    parts = [whole[a:b] for a, b in itertools.pairwise(edges)]
    answers = [each.ask(*parts) for each in two_sites]
    assert parsed(*answers[0], len(sent)) == parsed(*answers[1], len(sent))
    assert answers[0][1] == answers[1][1]


def test_names_of_sizes_are_the_names_of_the_files(tmp_path: Path) -> None:
    root = docroot.make(12345, 0)
    try:
        assert {p.name for p in root.iterdir()} == {"0", "1K", "2K", "4K", "6K", "8K", "10K", "50K", "100K", "1M", "12345"}
        assert all(p.stat().st_size == configuration.parse_size(p.name) for p in root.iterdir())
    finally:
        docroot.remove(root)
