"""The socket calls, in every listener mode: what they return, which error they report, and what epoll says.

One suite for all modes: whoever adds one has to pass it. The core is played by hand, so that each test decides what the
other end does and when.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stackcore.abi import abi
from stackcore.vcl import _vcl
from tests.stackcore.hand import (
    ADD,
    DEL,
    EPOLLERR,
    EPOLLET,
    EPOLLHUP,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLRDHUP,
    MOD,
    Hand,
    Server,
    area,
)  # fmt: skip

MODES = [(mode, False) for mode in _vcl.listener_modes] + [(m, True) for m, (_, shared) in _vcl.listener_modes.items() if shared]
TABLE = 32
FIFO = 256


@pytest.fixture(params=MODES, ids=lambda p: p[0] + ("-futex" if p[1] else ""))
def mode(request: pytest.FixtureRequest) -> tuple[str, bool]:
    chosen: tuple[str, bool] = request.param
    return chosen


@pytest.fixture
def hand() -> Iterator[Hand]:
    with Hand(workers=3, sessions=16, fifo=FIFO, app_size=area(TABLE)) as stack:
        yield stack


@pytest.fixture
def server(hand: Hand, mode: tuple[str, bool]) -> Server:
    return Server(hand, mode[0], futex=mode[1], table=TABLE)


def fails(code: int, call: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == code, errno.errorcode.get(caught.value.errno or 0)


class TestErrors:
    def test_an_unknown_fd_is_ebadf(self, server: Server) -> None:
        w = server.worker
        for fd in (-1, 99, 1 << 30, -(1 << 31)):
            fails(errno.EBADF, w.recv, fd, 1)
            fails(errno.EBADF, w.send, fd, b"x")
            fails(errno.EBADF, w.accept, fd)
            fails(errno.EBADF, w.close, fd)
            fails(errno.EBADF, w.epoll_wait, fd, 1, 0)
            fails(errno.EBADF, w.epoll_ctl, server.epoll, ADD, fd, EPOLLIN, 0)
            fails(errno.EBADF, w.epoll_ctl, fd, ADD, server.listener, EPOLLIN, 0)

    def test_a_closed_fd_is_ebadf(self, server: Server) -> None:
        fd, _ = server.connect()
        server.worker.close(fd)
        fails(errno.EBADF, server.worker.recv, fd, 1)
        fails(errno.EBADF, server.worker.close, fd)

    def test_a_port_is_1_to_65535(self, server: Server) -> None:
        for port in (0, -1, 65536):
            fails(errno.EINVAL, server.worker.listen, port)

    def test_the_cores_refusal_of_a_port_is_the_error(self, hand: Hand, server: Server) -> None:
        with hand.answering(-errno.ENOSPC):
            fails(errno.ENOSPC, server.worker.listen, 81)

    def test_nothing_to_accept_is_eagain(self, hand: Hand, server: Server) -> None:
        before = hand.counters(server.worker)["spurious"]
        with pytest.raises(BlockingIOError):
            server.worker.accept(server.listener)
        assert hand.counters(server.worker)["spurious"] == before + 1

    def test_accept_wants_a_listener(self, server: Server) -> None:
        fd, _ = server.connect()
        fails(errno.EINVAL, server.worker.accept, fd)
        fails(errno.EINVAL, server.worker.accept, server.epoll)

    def test_bytes_want_a_stream(self, server: Server) -> None:
        for fd in (server.listener, server.epoll):
            fails(errno.ENOTCONN, server.worker.recv, fd, 1)
            fails(errno.ENOTCONN, server.worker.send, fd, b"x")

    def test_nothing_to_read_is_eagain_and_reading_nothing_is_empty(self, server: Server) -> None:
        fd, _ = server.connect()
        fails(errno.EAGAIN, server.worker.recv, fd, 10)
        assert server.worker.recv(fd, 0) == b""

    def test_a_full_fifo_is_eagain(self, server: Server) -> None:
        fd, _ = server.connect()
        assert server.worker.send(fd, bytes(FIFO)) == FIFO
        fails(errno.EAGAIN, server.worker.send, fd, b"x")
        assert server.worker.send(fd, b"") == 0

    def test_epoll_ctl_errors(self, server: Server) -> None:
        w = server.worker
        fd, _ = server.connect()
        fails(errno.EEXIST, w.epoll_ctl, server.epoll, ADD, fd, EPOLLIN, fd)
        fails(errno.EEXIST, w.epoll_ctl, server.epoll, ADD, server.listener, EPOLLIN, server.listener)
        fails(errno.EINVAL, w.epoll_ctl, server.epoll, ADD, server.epoll, EPOLLIN, 0)
        fails(errno.EINVAL, w.epoll_ctl, fd, ADD, server.listener, EPOLLIN, 0)
        fails(errno.EINVAL, w.epoll_ctl, server.epoll, 7, fd, EPOLLIN, 0)
        w.epoll_ctl(server.epoll, DEL, fd)
        fails(errno.ENOENT, w.epoll_ctl, server.epoll, DEL, fd)
        fails(errno.ENOENT, w.epoll_ctl, server.epoll, MOD, fd, EPOLLIN, fd)
        w.epoll_ctl(server.epoll, DEL, server.listener)
        fails(errno.ENOENT, w.epoll_ctl, server.epoll, DEL, server.listener)
        fails(errno.ENOENT, w.epoll_ctl, server.epoll, MOD, server.listener, EPOLLIN, 0)

    def test_an_unknown_operation_on_a_listener_is_einval(self, server: Server) -> None:
        fails(errno.EINVAL, server.worker.epoll_ctl, server.epoll, 7, server.listener, EPOLLIN, 0)

    def test_a_stream_belongs_to_one_set(self, server: Server) -> None:
        fd, _ = server.connect()
        other = server.worker.epoll_create()
        fails(errno.EEXIST, server.worker.epoll_ctl, other, ADD, fd, EPOLLIN, fd)
        fails(errno.ENOENT, server.worker.epoll_ctl, other, DEL, fd)

    def test_epoll_wait_wants_a_set_and_room(self, server: Server) -> None:
        fails(errno.EINVAL, server.worker.epoll_wait, server.listener, 1, 0)
        for n in (0, -1, 65537):
            with pytest.raises(ValueError, match="max must be"):
                server.worker.epoll_wait(server.epoll, n, 0)

    def test_numbers_that_do_not_fit(self, server: Server) -> None:
        with pytest.raises(OverflowError):
            server.worker.accept(1 << 40)
        with pytest.raises(ValueError, match="negative"):
            server.worker.recv(server.listener, -1)

    def test_a_detached_worker_says_so(self, server: Server) -> None:
        server.worker.detach()
        server.worker.detach()
        w = server.worker
        for call in (w.epoll_create, w.publish, lambda: w.recv(0, 1), lambda: w.handle):
            with pytest.raises(ValueError, match="detached"):
                call()


class TestBytes:
    def test_bytes_arrive_in_order_across_the_fifos_edge(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect()
        sent = received = b""
        for i in range(40):
            data = bytes([i]) * (FIFO // 3)
            assert hand.write(session, data) == len(data)
            sent += data
            received += server.worker.recv(fd, FIFO)
        assert received == sent
        assert hand.counters(server.worker)["rx_bytes"] == len(sent)

    def test_sent_bytes_reach_the_peer_and_the_core_is_told_once(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect()
        hand.messages()
        for i in range(5):
            assert server.worker.send(fd, bytes([i]) * 10) == 10
        assert [m.type for m in hand.messages()] == [abi.EV_TX]
        assert hand.read(session) == b"".join(bytes([i]) * 10 for i in range(5))
        server.worker.send(fd, b"again")
        assert [(m.type, m.session, m.generation) for m in hand.messages()] == [(abi.EV_TX, session.index, session.generation)]

    def test_more_is_not_told_until_the_last(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect()
        hand.messages()
        server.worker.send(fd, b"head", True)
        assert hand.messages() == []
        server.worker.send(fd, b"body", False)
        assert [m.type for m in hand.messages()] == [abi.EV_TX]
        assert hand.read(session) == b"headbody"

    def test_a_partial_send_goes_on_when_the_core_has_made_room(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(EPOLLIN | EPOLLOUT | EPOLLET)
        server.wait()
        data = os.urandom(FIFO + 100)
        assert server.worker.send(fd, data) == FIFO
        fails(errno.EAGAIN, server.worker.send, fd, data[FIFO:])
        assert server.wait() == []
        assert hand.read(session) == data[:FIFO]
        assert server.wait() == [(fd, EPOLLOUT)]
        assert server.worker.send(fd, data[FIFO:]) == 100
        assert hand.read(session) == data[FIFO:]

    def test_the_peer_is_asked_for_more_when_it_waits_for_room(self, hand: Hand, server: Server) -> None:
        import ctypes

        from stackcore.kernel import c_function

        fd, session = server.connect()
        assert hand.write(session, bytes(FIFO)) == FIFO
        assert c_function("shmq_x_fifo_want", 2)(ctypes.addressof(session.rx), 1)
        hand.messages()
        server.worker.recv(fd, 10)
        assert abi.EV_RX_ROOM in [m.type for m in hand.messages()]

    def test_end_of_stream_comes_after_the_last_byte(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(EPOLLIN | EPOLLRDHUP)
        hand.write(session, b"last")
        hand.hang_up(session)
        assert server.wait() == [(fd, EPOLLIN | EPOLLRDHUP)]
        assert server.worker.recv(fd, 100) == b"last"
        assert server.worker.recv(fd, 100) == b""
        assert server.worker.send(fd, b"still possible") == 14

    def test_a_reset_is_econnreset_for_both_directions(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(EPOLLIN | EPOLLOUT | EPOLLET)
        server.wait()
        hand.reset(session)
        assert server.wait() == [(fd, EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP)]
        fails(errno.ECONNRESET, server.worker.recv, fd, 1)
        fails(errno.ECONNRESET, server.worker.send, fd, b"x")
        server.worker.close(fd)

    def test_what_happened_before_the_accept_is_seen_by_it(self, hand: Hand, server: Server) -> None:
        closed, reset = hand.open(), hand.open()
        for session in (closed, reset):
            hand.offer(session, shared=server.shared)
        server.wait()
        hand.view.sessions[closed.index]["state"] = abi.SESSION_PEER_CLOSED
        hand.view.sessions[reset.index]["state"] = abi.SESSION_RESET
        first, second = server.worker.accept(server.listener), server.worker.accept(server.listener)
        assert server.worker.recv(first, 1) == b""
        fails(errno.ECONNRESET, server.worker.recv, second, 1)

    def test_close_tells_the_core_and_later_events_are_late(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect()
        hand.messages()
        server.worker.close(fd)
        assert [(m.type, m.session, m.generation) for m in hand.messages()] == [(abi.EV_CLOSE, session.index, session.generation)]
        hand.write(session, b"too late")
        assert server.wait() == []
        assert hand.counters(server.worker)["late"] == 1


class TestDescriptors:
    def test_the_lowest_free_number_is_given(self, server: Server) -> None:
        fds = [server.connect()[0] for _ in range(4)]
        assert fds == sorted(fds)
        server.worker.close(fds[2])
        server.worker.close(fds[0])
        assert server.connect()[0] == fds[0]
        assert server.connect()[0] == fds[2]
        assert server.connect()[0] == fds[3] + 1

    def test_a_new_connection_does_not_inherit_the_old_ones_readiness(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(EPOLLIN | EPOLLET)
        hand.write(session, b"for the old one")
        server.worker.close(fd)
        hand.free(session)
        again, new = server.connect(EPOLLIN | EPOLLET)
        assert (again, new.index) == (fd, session.index)
        assert server.wait() == []
        fails(errno.EAGAIN, server.worker.recv, again, 100)

    def test_a_full_table_is_enfile_and_the_peer_is_told(self, hand: Hand, server: Server) -> None:
        sets = []
        while True:
            try:
                sets.append(server.worker.epoll_create())
            except OSError as error:
                assert error.errno == errno.ENFILE
                break
        assert len(sets) == TABLE - 2  # beside the listener and the first set
        session = hand.open()
        hand.offer(session, shared=server.shared)
        server.wait()
        hand.messages()
        fails(errno.ENFILE, server.worker.accept, server.listener)
        assert [(m.type, m.session) for m in hand.messages()] == [(abi.EV_CLOSE, session.index)]
        server.worker.close(sets.pop())
        assert server.connect()[0] >= 0

    def test_a_connection_that_was_replaced_before_the_accept_is_not_handed_out(self, hand: Hand, server: Server) -> None:
        old = hand.open()
        hand.offer(old, shared=server.shared)
        hand.free(old)
        new = hand.open(index=old.index)
        hand.offer(new, shared=server.shared)
        server.wait()
        hand.write(new, b"request")
        fd = server.worker.accept(server.listener)
        fails(errno.EAGAIN, server.worker.accept, server.listener)
        assert server.worker.recv(fd, 100) == b"request"


class TestEpoll:
    def test_level_reports_as_long_as_there_is_something(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(EPOLLIN)
        hand.write(session, b"abc")
        for _ in range(3):
            assert server.wait() == [(fd, EPOLLIN)]
        assert server.worker.recv(fd, 2) == b"ab"
        assert server.wait() == [(fd, EPOLLIN)]
        assert server.worker.recv(fd, 2) == b"c"
        assert server.wait() == []
        hand.write(session, b"d")
        assert server.wait() == [(fd, EPOLLIN)]

    def test_level_that_was_read_exactly_still_hears_of_the_next_byte(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(EPOLLIN)
        hand.write(session, b"abc")
        server.wait()
        assert server.worker.recv(fd, 3) == b"abc"  # no short read: the fifo's event flag is still set
        assert server.wait() == []
        hand.write(session, b"d")
        assert server.wait() == [(fd, EPOLLIN)]

    def test_edge_reports_once_per_change(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(EPOLLIN | EPOLLET)
        hand.write(session, b"abc")
        assert server.wait() == [(fd, EPOLLIN)]
        assert server.wait() == []
        assert server.worker.recv(fd, 100) == b"abc"  # a short read
        hand.write(session, b"d")
        assert server.wait() == [(fd, EPOLLIN)]

    def test_readiness_from_before_the_add_is_reported(self, hand: Hand, server: Server) -> None:
        for trigger in (0, EPOLLET):
            fd, session = server.connect(None)
            hand.write(session, b"early")
            server.wait()
            server.worker.epoll_ctl(server.epoll, ADD, fd, EPOLLIN | trigger, fd)
            assert server.wait() == [(fd, EPOLLIN)]
            server.worker.epoll_ctl(server.epoll, DEL, fd)
            assert server.wait() == []

    def test_mod_reports_what_is_ready_under_the_new_mask(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(EPOLLOUT)
        hand.write(session, b"x")
        assert server.wait() == [(fd, EPOLLOUT)]
        server.worker.epoll_ctl(server.epoll, MOD, fd, EPOLLIN, fd)
        assert server.wait() == [(fd, EPOLLIN)]
        server.worker.epoll_ctl(server.epoll, MOD, fd, EPOLLIN | EPOLLET, fd)
        assert server.wait() == [(fd, EPOLLIN)]
        assert server.wait() == []

    def test_oneshot_reports_once_until_it_is_armed_again(self, hand: Hand, server: Server) -> None:
        for trigger in (0, EPOLLET):
            fd, session = server.connect(EPOLLIN | EPOLLONESHOT | trigger)
            hand.write(session, b"x")
            assert server.wait() == [(fd, EPOLLIN)]
            server.worker.recv(fd, 100)
            hand.write(session, b"y")
            assert server.wait() == []
            server.worker.epoll_ctl(server.epoll, MOD, fd, EPOLLIN | EPOLLONESHOT | trigger, fd)
            assert server.wait() == [(fd, EPOLLIN)]
            server.worker.close(fd)

    def test_oneshot_that_fired_is_silent_about_a_reset_too(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(EPOLLIN | EPOLLONESHOT)
        hand.write(session, b"x")
        assert server.wait() == [(fd, EPOLLIN)]
        hand.reset(session)
        assert server.wait() == []
        server.worker.epoll_ctl(server.epoll, MOD, fd, EPOLLIN | EPOLLONESHOT, fd)
        [(_, events)] = server.wait()
        assert events & EPOLLHUP

    def test_two_events_of_one_descriptor_are_one_entry(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)
        server.wait()
        server.worker.send(fd, bytes(FIFO))
        with pytest.raises(BlockingIOError):
            server.worker.send(fd, b"x")
        hand.read(session)
        hand.write(session, b"x")
        hand.hang_up(session)
        assert server.wait() == [(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP)]

    def test_events_that_do_not_fit_come_next_time(self, hand: Hand, server: Server) -> None:
        pairs = [server.connect(EPOLLIN | EPOLLET) for _ in range(5)]
        for _, session in pairs:
            hand.write(session, b"x")
        seen: list[tuple[int, int]] = []
        for expected in (2, 2, 1, 0):
            found = server.wait(2)
            assert len(found) == expected
            seen += found
        assert sorted(seen) == [(fd, EPOLLIN) for fd, _ in pairs]

    def test_a_session_nobody_reads_does_not_silence_the_others(self, hand: Hand, server: Server) -> None:
        ignored, first = server.connect(EPOLLIN)
        wanted, second = server.connect(EPOLLIN)
        hand.write(first, b"unread")
        assert server.wait(1) == [(ignored, EPOLLIN)]
        hand.write(second, b"x")
        seen = {fd for _ in range(4) for fd, _ in server.wait(1)}
        assert wanted in seen

    def test_an_event_of_another_set_waits_for_it(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(None)
        other = server.worker.epoll_create()
        server.worker.epoll_ctl(other, ADD, fd, EPOLLIN | EPOLLET, fd)
        hand.write(session, b"x")
        assert server.wait() == []
        assert server.worker.epoll_wait(other, 8, 0) == [(fd, EPOLLIN)]

    def test_a_closed_set_lets_its_streams_go(self, hand: Hand, server: Server) -> None:
        fd, session = server.connect(None)
        other = server.worker.epoll_create()
        server.worker.epoll_ctl(other, ADD, fd, EPOLLIN, fd)
        hand.write(session, b"x")
        assert server.worker.epoll_wait(other, 8, 0)
        server.worker.close(other)
        server.worker.epoll_ctl(server.epoll, ADD, fd, EPOLLIN, fd)
        assert server.wait() == [(fd, EPOLLIN)]

    def test_a_wait_ends_at_its_timeout(self, server: Server) -> None:
        import time

        start = time.monotonic()
        assert server.worker.epoll_wait(server.epoll, 1, 120) == []
        assert 0.12 <= time.monotonic() - start < 5

    @pytest.mark.parametrize("wait", ["spin", "adaptive", "park"])
    def test_a_wait_ends_when_an_event_comes(self, hand: Hand, mode: tuple[str, bool], wait: str) -> None:
        server = Server(hand, mode[0], futex=mode[1], table=TABLE, wait=wait)
        fd, session = server.connect()
        pid = os.fork()
        if pid == 0:  # the core, in a process of its own; the wait below may or may not sleep already
            hand.write(session, b"x")
            os._exit(0)
        try:
            assert server.worker.epoll_wait(server.epoll, 8, 10_000) == [(fd, EPOLLIN)]
        finally:
            os.waitpid(pid, 0)

    def test_listener_level_and_edge(self, hand: Hand, mode: tuple[str, bool]) -> None:
        level = Server(hand, mode[0], futex=mode[1], table=TABLE)
        hand.offer(hand.open(), shared=level.shared)
        for _ in range(2):
            assert level.wait() == [(level.listener, EPOLLIN)]
        level.worker.accept(level.listener)
        assert level.wait() == []


class TestCoreGone:
    def test_calls_say_enetdown(self, hand: Hand, mode: tuple[str, bool]) -> None:
        ours, cores = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, cores:
            server = Server(hand, mode[0], futex=mode[1], table=TABLE, control_fd=ours.fileno())
            fd, _ = server.connect()
            assert not server.worker.core_gone()
            cores.close()
            fails(errno.ENETDOWN, server.worker.epoll_wait, server.epoll, 8, 1000)
            assert server.worker.core_gone()
            fails(errno.ENETDOWN, server.worker.recv, fd, 1)
            fails(errno.ENETDOWN, server.worker.accept, server.listener)

    def test_a_message_left_unread_does_not_hide_the_end(self, hand: Hand, mode: tuple[str, bool]) -> None:
        ours, cores = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, cores:
            server = Server(hand, mode[0], futex=mode[1], table=TABLE, control_fd=ours.fileno())
            cores.send(b"last words")
            cores.close()
            assert server.worker.core_gone()

    def test_a_request_nobody_answers_ends(self, hand: Hand, mode: tuple[str, bool]) -> None:
        ours, cores = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, cores:
            worker = hand.attach(listener=mode[0], futex=mode[1], table=TABLE, control_fd=ours.fileno())
            cores.close()
            fails(errno.ENETDOWN, worker.listen, 80)
