"""Every call of a host and its sockets, in every state it can be made in, with its error."""

from __future__ import annotations

import doctest
import errno
import select
import socket as std
from pathlib import Path
from typing import Any

import dpkt
import pytest

import stackcore.tcp.host
from stackcore.tcp import Host, HostConfig
from stackcore.wire.pcap import PcapWriter
from tests.tcp.packets import FLAGS, read
from tests.tcp.pair import LEFT, RIGHT, Pair, read_all, readable

IN, OUT, ERR, HUP, RDHUP = select.POLLIN, select.POLLOUT, select.POLLERR, select.POLLHUP, select.POLLRDHUP
SYN, ACK, RST, FIN = (1 << FLAGS.index(letter) for letter in "SARF")


def fails(number: int, call: Any, *args: Any) -> None:
    with pytest.raises(OSError) as caught:
        call(*args)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number], caught.value


def has(flag: int) -> Any:
    return lambda packet: bool(read(packet).flags & flag)


def test_the_example_in_the_module() -> None:
    result = doctest.testmod(stackcore.tcp.host)
    assert result.attempted > 10 and result.failed == 0


# ---- opening ----


def test_connect_and_accept() -> None:
    pair = Pair()
    listener, client = pair.right.socket(), pair.left.socket()
    listener.listen(80)
    assert listener.poll() == 0 and listener.getsockopt(std.SOL_SOCKET, std.SO_ACCEPTCONN) == 1
    fails(errno.EAGAIN, listener.accept)
    with pytest.raises(BlockingIOError) as begun:
        client.connect((RIGHT, 80))
    assert begun.value.errno == errno.EINPROGRESS
    assert client.poll() == 0 and client.state == "connecting"
    pair.drive(lambda: client.poll())
    assert client.poll() == OUT and client.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == 0
    pair.drive(lambda: listener.poll())
    assert listener.poll() == IN
    server, address = listener.accept()
    assert address == client.getsockname() == server.getpeername()
    assert client.getpeername() == server.getsockname() == (RIGHT, 80)
    assert address[0] == LEFT and 49152 <= address[1] <= 65535
    assert client.info()["state"] == server.info()["state"] == "ESTABLISHED"


def test_accept_takes_the_oldest_first() -> None:
    pair = Pair()
    listener = pair.right.socket()
    listener.listen(80)
    clients = [pair.left.socket() for _ in range(4)]
    for client in clients:
        client.connect_ex((RIGHT, 80))
        pair.drive(lambda client=client: client.poll())
    pair.run(0.1)
    assert [listener.accept()[1] for _ in clients] == [client.getsockname() for client in clients]


def test_nobody_listens() -> None:
    pair = Pair()
    client = pair.left.socket()
    client.connect_ex((RIGHT, 81))
    pair.drive(lambda: client.poll())
    assert client.poll() & (ERR | HUP) == ERR | HUP
    with pytest.raises(ConnectionRefusedError):
        client.send(b"x")
    assert client.recv(1) == b"" and client.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == 0
    client.close()
    assert pair.left.stats()["connections"] == 0 and pair.left.stats()["slots"] == 0


def test_nobody_answers() -> None:
    pair = Pair(syn_retries=3)
    pair.cut()
    client = pair.left.socket()
    client.connect_ex((RIGHT, 80))
    pair.drive(lambda: client.poll())
    assert len(pair.sent) == 4
    assert [round(when / 1e9) for when, _, _ in pair.sent] == [0, 1, 3, 7]
    assert client.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == errno.ETIMEDOUT
    assert 14 <= pair.now < 16


def test_simultaneous_open() -> None:
    pair = Pair()
    left, right = pair.left.socket(), pair.right.socket()
    assert left.connect_ex((RIGHT, 2000), local_port=1000) == errno.EINPROGRESS
    assert right.connect_ex((LEFT, 1000), local_port=2000) == errno.EINPROGRESS
    pair.drive(lambda: left.poll() and right.poll())
    left.send(b"to the right")
    right.send(b"to the left")
    pair.drive(lambda: readable(left) and readable(right))
    assert (left.recv(99), right.recv(99)) == (b"to the left", b"to the right")


def test_a_backlog_is_not_exceeded() -> None:
    pair = Pair()
    listener = pair.right.socket()
    listener.listen(80, backlog=2)
    clients = [pair.left.socket() for _ in range(3)]
    for client in clients:
        client.connect_ex((RIGHT, 80))
    pair.run(0.5)
    assert [client.poll() for client in clients] == [OUT, OUT, 0]
    assert pair.right.stats()["dropped"]["backlog-full"] == 1
    listener.accept()
    pair.drive(lambda: clients[2].poll())
    assert clients[2].poll() == OUT, "the next SYN finds room"


def test_a_full_host_says_so() -> None:
    host = Host(HostConfig(connections=2, seed=1))
    sockets = [host.socket() for _ in range(3)]
    assert [socket.connect_ex((RIGHT, 80)) for socket in sockets] == [errno.EINPROGRESS] * 2 + [errno.ENOBUFS]
    sockets[0].close()
    assert sockets[2].connect_ex((RIGHT, 80)) == errno.EINPROGRESS


def test_wrong_openings() -> None:
    pair = Pair()
    client, server = pair.connect()
    assert client.connect_ex((RIGHT, 80)) == errno.EISCONN
    fails(errno.EINVAL, client.listen, 80)
    fails(errno.EINVAL, client.accept)
    listener, second = pair.right.socket(), pair.right.socket()
    listener.listen(80)
    fails(errno.EADDRINUSE, second.listen, 80)
    for port in (0, 65536, -1):
        fails(errno.EINVAL, pair.right.socket().listen, port)
        assert pair.left.socket().connect_ex((RIGHT, port)) == errno.EINVAL
    fails(errno.EINVAL, listener.connect, (LEFT, 1))
    waiting = pair.left.socket()
    waiting.connect_ex((RIGHT, 80))
    assert waiting.connect_ex((RIGHT, 80)) == errno.EALREADY
    taken = client.getsockname()[1]
    assert pair.left.socket().connect_ex((RIGHT, 80), local_port=taken) == errno.EADDRINUSE
    for nobody in ("10.0.0.255", "255.255.255.255", "224.0.0.1", LEFT):
        assert pair.left.socket().connect_ex((nobody, 80)) == errno.ENETUNREACH
    with pytest.raises(ValueError):
        pair.left.socket().connect_ex(("localhost", 80))


# ---- bytes ----


def test_bytes_go_both_ways() -> None:
    pair = Pair()
    client, server = pair.connect()
    assert client.send(b"ping") == 4 and server.send(bytearray(b"pong")) == 4 and client.send(b"") == 0
    pair.drive(lambda: readable(client) and readable(server))
    assert server.recv(2) == b"pi" and server.recv(0) == b"" and server.recv(99) == b"ng"
    buffer = bytearray(8)
    assert client.recv_into(buffer) == 4 and buffer == b"pong\0\0\0\0"
    fails(errno.EAGAIN, client.recv, 1)
    fails(errno.EAGAIN, server.recv_into, buffer)
    with pytest.raises(ValueError):
        client.recv(-1)


def test_a_full_fifo_takes_a_part_then_nothing() -> None:
    pair = Pair(fifo=4096)
    client, server = pair.connect()
    assert client.send(bytes(6000)) == 4096
    assert client.poll() == 0
    fails(errno.EAGAIN, client.send, b"x")
    pair.run(1.0)
    assert client.poll() == OUT, "the peer's fifo has them now"
    assert client.send(bytes(6000)) == 4096
    pair.run(1.0)
    assert client.poll() == 0, "both fifos are full"
    assert len(read_all(server)) == 4096
    pair.drive(lambda: client.poll() & OUT)


def test_calls_without_a_connection() -> None:
    socket = Host(HostConfig(seed=1)).socket()
    assert socket.poll() == OUT | HUP and socket.state == "new"
    for call, args in (
        (socket.send, (b"x",)), (socket.recv, (1,)), (socket.getpeername, ()), (socket.shutdown, (std.SHUT_WR,)),
    ):  # fmt: skip
        fails(errno.ENOTCONN, call, *args)
    assert socket.getsockname() == ("0.0.0.0", 0) and socket.info()["state"] == "CLOSED"
    socket.connect_ex((RIGHT, 80))
    fails(errno.EAGAIN, socket.send, b"x")
    fails(errno.EAGAIN, socket.recv, 1)
    fails(errno.ENOTCONN, socket.shutdown, std.SHUT_WR)
    socket.close()
    socket.close()
    assert socket.poll() == select.POLLNVAL
    fails(errno.EBADF, socket.send, b"x")
    fails(errno.EBADF, socket.recv, 1)
    assert socket.connect_ex((RIGHT, 80)) == errno.EBADF


# ---- closing ----


def test_half_close() -> None:
    pair = Pair()
    client, server = pair.connect()
    client.send(b"question")
    client.shutdown(std.SHUT_WR)
    fails(errno.EPIPE, client.send, b"more")
    pair.drive(lambda: server.poll() & RDHUP)
    assert server.recv(99) == b"question" and server.recv(99) == b""
    pair.run(0.05)
    assert client.info()["state"] == "FIN-WAIT-2" and server.info()["state"] == "CLOSE-WAIT"
    server.send(b"answer")
    pair.drive(lambda: readable(client))
    assert client.recv(99) == b"answer"
    server.close()
    pair.drive(lambda: client.poll() & RDHUP)
    assert client.poll() & (RDHUP | HUP) == RDHUP | HUP
    assert client.recv(99) == b""
    client.close()
    pair.drive(pair.empty)
    assert pair.left.stats()["slots"] == pair.right.stats()["slots"] == 0
    assert pair.left.stats()["resets_out"] == pair.right.stats()["resets_out"] == 0


def test_close_delivers_what_was_sent() -> None:
    pair = Pair()
    client, server = pair.connect()
    client.send(bytes(range(256)) * 100)
    client.close()
    fails(errno.EBADF, client.recv, 1)
    got = bytearray()
    pair.drive(lambda: got.extend(read_all(server)) or server.poll() & RDHUP)
    assert bytes(got + read_all(server)) == bytes(range(256)) * 100
    server.close()
    pair.drive(pair.empty)


def test_both_close_at_once() -> None:
    pair = Pair()
    client, server = pair.connect()
    client.close()
    server.close()
    pair.run(0.1)
    assert [host.stats()["connections"] for host in (pair.left, pair.right)] == [1, 1], "both are in TIME-WAIT"
    pair.drive(pair.empty)
    assert 10 <= pair.now < 10.5


def test_close_with_unread_bytes_resets() -> None:
    pair = Pair()
    client, server = pair.connect()
    client.send(b"never read")
    pair.drive(lambda: readable(server))
    server.close()
    pair.drive(lambda: client.poll() & ERR)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert client.recv(1) == b""
    fails(errno.EPIPE, client.send, b"x")
    fails(errno.ENOTCONN, client.shutdown, std.SHUT_WR)
    client.close()
    assert pair.empty()


def test_bytes_for_a_closed_socket_reset() -> None:
    pair = Pair()
    client, server = pair.connect()
    server.close()
    pair.run(0.1)
    client.send(b"too late")
    pair.drive(lambda: client.poll() & ERR)
    assert client.getsockopt(std.SOL_SOCKET, std.SO_ERROR) in (errno.ECONNRESET, errno.EPIPE)


def test_abort_resets() -> None:
    pair = Pair()
    client, server = pair.connect()
    client.send(b"lost with it")
    client.abort()
    pair.drive(lambda: server.poll() & ERR)
    fails(errno.ECONNRESET, server.recv, 1)
    assert any(segment.flags & RST for segment in pair.segments(pair.left))
    server.close()
    assert pair.empty()


def test_what_arrived_before_the_reset_can_be_read() -> None:
    pair = Pair()
    client, server = pair.connect()
    client.send(b"news")
    pair.drive(lambda: readable(server))
    client.abort()
    pair.drive(lambda: server.poll() & ERR)
    assert server.recv(99) == b"news"
    fails(errno.ECONNRESET, server.recv, 99)
    assert server.recv(99) == b""


def test_shutdown_of_reading() -> None:
    pair = Pair()
    client, server = pair.connect()
    server.shutdown(std.SHUT_RD)
    assert server.recv(1) == b"" and server.poll() & IN
    server.send(b"still")
    pair.drive(lambda: readable(client))
    fails(errno.EINVAL, server.shutdown, 7)


def test_a_closed_listener_resets_who_was_not_accepted() -> None:
    pair = Pair()
    listener, client = pair.right.socket(), pair.left.socket()
    listener.listen(80)
    client.connect_ex((RIGHT, 80))
    pair.drive(lambda: listener.poll())
    pair.run(0.1)
    listener.close()
    pair.drive(lambda: client.poll() & ERR)
    fails(errno.ECONNRESET, client.recv, 1)
    assert pair.right.stats()["connections"] == pair.right.stats()["slots"] == 0
    again = pair.right.socket()
    again.listen(80)


def test_a_listener_closed_during_the_handshake() -> None:
    pair = Pair()
    listener, client = pair.right.socket(), pair.left.socket()
    listener.listen(80)
    client.connect_ex((RIGHT, 80))
    pair.drive(lambda: pair.right.stats()["half_open"] == 1)
    listener.close()
    pair.run(2.0)
    assert client.poll() & ERR
    stats = pair.right.stats()
    assert stats["half_open"] == stats["connections"] == stats["slots"] == 0


def test_a_peer_that_is_gone() -> None:
    pair = Pair(retries=3)
    client, server = pair.connect()
    pair.cut()
    client.send(b"anybody?")
    pair.drive(lambda: client.poll() & ERR)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert pair.left.stats()["gave_up"] == 1


def test_a_closed_connection_does_not_linger_for_ever() -> None:
    pair = Pair(close_timeout=2.0)
    client, server = pair.connect()
    client.close()
    pair.run(1.0)
    assert pair.left.stats()["connections"] == 1, "FIN-WAIT-2: the server has not closed"
    pair.run(2.0)
    assert pair.left.stats()["connections"] == 0


# ---- options ----


def test_nodelay_sends_at_once() -> None:
    pair = Pair()
    client, server = pair.connect()
    assert client.getsockopt(std.IPPROTO_TCP, std.TCP_NODELAY) == 0
    start = len(pair.sent)
    for _ in range(3):
        client.send(b"x")
        pair.flush()
    assert len(pair.segments(pair.left, start)) == 1, "Nagle: one small segment in flight"
    client.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1)
    pair.flush()
    assert [s.payload for s in pair.segments(pair.left, start)] == [b"x", b"xx"]
    client.send(b"y")
    pair.flush()
    assert pair.segments(pair.left, start)[-1].payload == b"y"


def test_keepalive_finds_a_dead_peer() -> None:
    pair = Pair(keep_idle=100.0, keep_interval=10.0, keep_probes=3)
    client, server = pair.connect()
    server.setsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE, 1)
    assert server.getsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE) == 1
    pair.run(350.0)
    assert server.poll() == OUT and pair.right.stats()["keepalives"] >= 3, "answered each time"
    pair.cut()
    pair.drive(lambda: server.poll() & ERR)
    fails(errno.ETIMEDOUT, server.recv, 1)
    assert client.poll() == OUT, "nobody asked on this side"


def test_accepted_sockets_inherit_options() -> None:
    pair = Pair()
    listener, client = pair.right.socket(), pair.left.socket()
    listener.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1)
    listener.listen(80)
    client.connect_ex((RIGHT, 80))
    pair.drive(lambda: listener.poll())
    server, _ = listener.accept()
    assert server.getsockopt(std.IPPROTO_TCP, std.TCP_NODELAY) == 1


def test_options_that_there_are_not() -> None:
    socket = Host(HostConfig(seed=1)).socket()
    fails(errno.ENOPROTOOPT, socket.getsockopt, std.SOL_SOCKET, std.SO_BROADCAST)
    fails(errno.ENOPROTOOPT, socket.setsockopt, std.SOL_SOCKET, std.SO_RCVBUF, 1)


def test_info() -> None:
    pair = Pair(delay=0.05)
    client, server = pair.connect()
    client.send(bytes(30000))
    pair.run(1.0)
    info = client.getsockopt(std.IPPROTO_TCP, std.TCP_INFO)
    assert info["mss"] == client.getsockopt(std.IPPROTO_TCP, std.TCP_MAXSEG) == 1500 - 40 - 12
    assert 0.1 <= info["srtt"] < 0.15 and 0.2 <= info["rto"] < 0.5
    assert info["cwnd"] >= 10 * info["mss"] and info["unacked"] == 0 and info["recovery"] == "open"
    assert info["timestamps"] and info["sack"] and info["wscale"]
    assert server.info()["rcv_wnd"] == 65536 - 30000
    assert client.getsockopt(std.SOL_SOCKET, std.SO_SNDBUF) == 65536


# ---- the host ----


def test_the_clock_does_not_go_back() -> None:
    host = Host(HostConfig(seed=1), now=5.0)
    assert host.next_timer() is None and host.transmit(6.0) == []
    with pytest.raises(ValueError, match="went back from 6"):
        host.transmit(5.5)


def test_next_timer_is_kept() -> None:
    """A driver that comes exactly when it is asked to never comes in vain more than a few times."""
    host = Host(HostConfig(seed=1, syn_retries=5), now=1e6 / 3)
    socket = host.socket()
    host.advance(1e6 / 3)
    socket.connect_ex((RIGHT, 80))
    sent = 0
    visits = 0
    while (timer := host.next_timer()) is not None:
        sent += len(host.transmit(timer))
        visits += 1
        assert visits < 200
    assert sent == 6 and socket.poll() & ERR


def test_what_is_over_the_retransmit_budget_goes_at_once() -> None:
    """The budget is per step; a transmit goes on until there is nothing left to send now."""
    pair = Pair(budget=1)
    clients = [pair.connect(port)[0] for port in (80, 81, 82)]
    pair.cut()
    for client in clients:
        client.send(b"lost")
    start = len(pair.sent)
    pair.run(0.25)
    assert [round(when / 1e9 - pair.sent[start][0] / 1e9, 1) for when, _, _ in pair.sent[start:]] == [0] * 3 + [0.2] * 3


def test_a_packet_that_is_too_long_is_dropped() -> None:
    host = Host(HostConfig(seed=1, mtu=576))
    host.receive(bytes(577), 0.0)
    host.receive(b"", 0.0)
    assert host.stats()["segments_in"] == 2
    assert host.stats()["dropped"]["length"] == 1 and host.stats()["dropped"]["short"] == 1


def test_everything_is_captured(tmp_path: Path) -> None:
    pair = Pair()
    with PcapWriter(tmp_path / "left.pcap") as pair.left.pcap:
        client, _ = pair.connect()
        client.send(b"seen")
        pair.run(1.0)
        assert pair.left.pcap.captured == len(pair.sent) >= 5
    with (tmp_path / "left.pcap").open("rb") as file:
        records = list(dpkt.pcap.Reader(file))
    assert {packet for _, packet in records} == {packet for _, _, packet in pair.sent}
    assert [when for when, _ in records] == sorted(when for when, _ in records)


def test_two_thousand_connections_come_and_go() -> None:
    pair = Pair(connections=8, slots=4, msl=0.05, delay=0.001)
    listener = pair.right.socket()
    listener.listen(80)
    for _ in range(2000):
        client = pair.left.socket()
        pair.drive(lambda client=client: client.connect_ex((RIGHT, 80)) != errno.ENOBUFS)
        pair.drive(lambda: listener.poll())
        server, _ = listener.accept()
        client.close()
        pair.drive(lambda server=server: server.poll() & RDHUP)
        server.close()
    pair.drive(pair.empty)
    assert pair.right.stats()["opened_passive"] == 2000 and pair.left.stats()["slots"] == 0
