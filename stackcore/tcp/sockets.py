"""Sockets of a :class:`~stackcore.tcp.host.Host`: the calls of BSD sockets, non-blocking, with their errors.

Each call does what the standard library's ``socket`` does on a non-blocking socket, and fails as it does: with the OSError
subclass of the errno, :class:`BlockingIOError` for "not now". Nothing here waits. What a call causes on the wire leaves
with the host's next ``transmit``; what the wire causes here is seen after ``receive`` or ``transmit``.

A socket stands on a slot of the stack, which has one byte fifo per direction: ``send`` copies into one, ``recv`` out of the
other. The protocol tells of everything else by the slot's notes. After an error (reset, timeout) bytes that had arrived can
still be read; then the error is raised once, by whichever call comes first, or taken by ``getsockopt(SOL_SOCKET,
SO_ERROR)``; from then on ``recv`` gives ``b""`` and ``send`` EPIPE. That is what Linux does.

Doubtful: RFC 9293 section 3.10.7.4 would have a reset flush what was not read yet.
"""

from __future__ import annotations

import errno
import os
import select
import socket as std
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

import stackcore.native  # noqa: F401  (the functions below are its library's)
from stackcore.kernel import c_function
from stackcore.tcp import engine
from stackcore.tcp.config import dotted_address, packed_address
from stackcore.tcp.memory import END_WORDS, HEADERS
from stackcore.tcp.state import (
    F_SACK,
    F_TS,
    F_WSCALE,
    NOTE_CONNECTED,
    NOTE_ERROR,
    NOTE_FIN,
    STATE_NAMES,
    S,
)

if TYPE_CHECKING:
    from stackcore.tcp.host import Host

_bind = c_function("shmq_x_fifo_bind", 4)
_room = c_function("shmq_x_fifo_room", 2)
_write = c_function("shmq_x_fifo_write", 3)
_avail = c_function("shmq_x_fifo_avail", 2)
_read = c_function("shmq_x_fifo_read", 3)

END_BYTES = 8 * END_WORDS

# What a socket is to its owner; the protocol's state is another matter.
NEW, LISTENING, CONNECTING, CONNECTED, CLOSED = range(5)
_RECOVERIES = ("open", "fast", "loss")
_NAMES = ("new", "listening", "connecting", "connected", "closed")


def _fail(number: int, why: str = "") -> OSError:
    """The OSError (of the right subclass) to raise for ``number``."""
    return OSError(number, f"{os.strerror(number)}: {why}" if why else os.strerror(number))


def _checked(result: int, why: str = "") -> int:
    """``result``, or the OSError that a negative one stands for."""
    if result < 0:
        raise _fail(-result, why)
    return int(result)


class Socket:
    """One end of a connection, or a listener; made by :meth:`Host.socket` and :meth:`accept`.

    Belongs to its host's thread. A socket that is dropped without :meth:`close` stays open.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._state = NEW
        self._slot = -1
        self._listener = -1
        self._waiting: deque[Socket] = deque()
        self._error = 0
        self._end_seen = False
        self._read_shut = False
        self._write_shut = False
        self._nodelay = not host.config.nagle
        self._diffserv = 0
        self._keepalive = False
        self._addresses: tuple[tuple[str, int], tuple[str, int]] | None = None

    def __repr__(self) -> str:
        peer = f" {self._addresses[0]} to {self._addresses[1]}" if self._addresses else ""
        return f"<stackcore.tcp.Socket {self.state}{peer}>"

    # ---- opening ----

    @property
    def state(self) -> str:
        """``new``, ``listening``, ``connecting``, ``connected`` or ``closed``, as the owner sees it."""
        return _NAMES[self._state]

    def listen(self, port: int, backlog: int = 128) -> None:
        """Take connections to ``port`` (1..65535); ``backlog`` of them may wait to be accepted.

        EADDRINUSE when another socket listens there, ENFILE when the host's listeners are used up, EINVAL for a socket
        that is in use or a port that there is not.
        """
        if self._state != NEW or not 1 <= port <= 65535 or backlog < 1:
            raise _fail(errno.EINVAL, "listen needs a new socket, a port of 1..65535 and a backlog of at least 1")
        host = self._host
        self._listener = _checked(engine.listen_open(host.tcp, 0, port, backlog), f"port {port}")
        host.listeners[self._listener] = self
        self._state = LISTENING
        self._addresses = ((host.config.addr, port), ("0.0.0.0", 0))

    def connect_ex(self, address: tuple[str, int], local_port: int = 0) -> int:
        """Begin to connect to (dotted address, port); EINPROGRESS (a number, not an exception) when it has begun.

        ``local_port`` 0: one that is free is chosen. The outcome is there when :meth:`poll` has POLLOUT, and
        ``getsockopt(SOL_SOCKET, SO_ERROR)`` says which it is. Otherwise EISCONN, EALREADY, EADDRINUSE (a connection with
        these addresses and ports exists), EADDRNOTAVAIL (no local port is left), ENETUNREACH (not a host's address, or our
        own), ENOBUFS (no connection or slot is left).
        """
        if self._error:
            return self._take_error()
        if self._state != NEW:
            return {LISTENING: errno.EINVAL, CONNECTING: errno.EALREADY, CONNECTED: errno.EISCONN}.get(self._state, errno.EBADF)
        remote, port = address
        if not 1 <= port <= 65535 or not 0 <= local_port <= 65535:
            return errno.EINVAL
        host = self._host
        slot = engine.tcp_connect(host.tcp, local_port, packed_address(remote), port, host.now_ns)
        if slot < 0:
            return int(-slot)
        self._attach(int(slot))
        self._state = CONNECTING
        return errno.EINPROGRESS

    def connect(self, address: tuple[str, int], local_port: int = 0) -> None:
        """As :meth:`connect_ex`, but raised; so BlockingIOError (EINPROGRESS) when all is well."""
        raise _fail(self.connect_ex(address, local_port), "{}:{}".format(*address))

    def accept(self) -> tuple[Socket, tuple[str, int]]:
        """The oldest connection that waits, and its peer's address. BlockingIOError when none does."""
        if self._state != LISTENING:
            raise _fail(errno.EINVAL, "accept needs a listening socket")
        if not self._waiting:
            raise _fail(errno.EAGAIN)
        child = self._waiting.popleft()
        engine.tcp_accepted(self._host.tcp, child._slot)
        return child, child.getpeername()

    # ---- bytes ----

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Hand over as much as there is room for; how many bytes that was (at least 1, or 0 of nothing).

        BlockingIOError when the fifo is full or the connection not established yet; BrokenPipeError after
        ``shutdown(SHUT_WR)`` or when the connection is over; ENOTCONN when there never was one; the connection's error, once.
        """
        self._need_connection()
        if self._error:
            raise _fail(self._take_error())
        if self._write_shut or self._gone():
            raise _fail(errno.EPIPE)
        if self._state == CONNECTING:
            raise _fail(errno.EAGAIN)
        block = np.frombuffer(data, "u1")
        if not len(block):
            return 0
        put = _write(self._tx, block.ctypes.data, len(block))
        if not put:
            raise _fail(errno.EAGAIN)
        engine.tcp_send_ready(self._host.tcp, self._slot)
        return put

    def recv(self, size: int) -> bytes:
        """Up to ``size`` bytes in order; ``b""`` when the peer has finished (or ``size`` is 0).

        BlockingIOError when none are there yet; ENOTCONN when there is no connection; the connection's error, once.
        """
        if size < 0:
            raise ValueError(f"cannot receive {size} bytes")
        buffer = np.empty(min(size, self._host.config.fifo), "u1")
        return buffer[: self.recv_into(buffer)].tobytes()

    def recv_into(self, buffer: Any) -> int:
        """As :meth:`recv`, into a writable buffer of bytes; how many came."""
        self._need_connection()
        block = np.frombuffer(buffer, "u1")
        if self._read_shut or not len(block):
            return 0
        if self._state == CONNECTING and not self._error:
            raise _fail(errno.EAGAIN)
        got = _read(self._rx, block.ctypes.data, len(block))
        if got:
            engine.tcp_received(self._host.tcp, self._slot)
            return got
        if self._error:
            raise _fail(self._take_error())
        if self._end_seen or self._gone():
            return 0
        raise _fail(errno.EAGAIN)

    # ---- closing ----

    def shutdown(self, how: int) -> None:
        """SHUT_WR: a FIN follows the last byte, receiving goes on. SHUT_RD: ``recv`` gives ``b""``. SHUT_RDWR: both."""
        if self._state != CONNECTED or self._gone():
            raise _fail(errno.ENOTCONN)
        if how not in (std.SHUT_RD, std.SHUT_WR, std.SHUT_RDWR):
            raise _fail(errno.EINVAL)
        if how != std.SHUT_WR:
            self._read_shut = True
        if how != std.SHUT_RD and not self._write_shut:
            self._write_shut = True
            engine.tcp_shutdown(self._host.tcp, self._slot, self._host.now_ns)

    def close(self) -> None:
        """Give the socket up; a second time does nothing.

        A connection finishes in the background: what was sent is still delivered, then a FIN. When bytes were left unread,
        the peer is told by a reset that they were lost (RFC 9293 section 3.10.4, RFC 2525 section 2.17). A listener's
        connections that nobody has accepted are reset.
        """
        self._finish(engine.tcp_close)

    def abort(self) -> None:
        """Give the socket up at once: a reset, nothing more is delivered (RFC 9293 section 3.10.5)."""
        self._finish(engine.tcp_abort)

    def _finish(self, how: Any) -> None:
        host, state = self._host, self._state
        self._state = CLOSED
        if state == LISTENING:
            engine.listen_close(host.tcp, self._listener)
            host.listeners.pop(self._listener, None)
            while self._waiting:
                self._waiting.popleft().abort()
        elif state in (CONNECTING, CONNECTED):
            host.sockets.pop(self._slot, None)
            how(host.tcp, self._slot, host.now_ns)
            self._slot = -1

    # ---- looking ----

    def poll(self) -> int:
        """What could be done now, as bits of ``select.poll``: POLLIN, POLLOUT, POLLRDHUP, POLLERR, POLLHUP."""
        if self._state == LISTENING:
            return select.POLLIN if self._waiting else 0
        if self._state == CLOSED:
            return select.POLLNVAL
        if self._state == NEW:
            return select.POLLOUT | select.POLLHUP
        if self._state == CONNECTING and not self._error:
            return 0
        over = self._error != 0 or self._gone()
        ended = over or self._end_seen or self._read_shut
        bits = select.POLLERR if self._error else 0
        if ended or _avail(self._rx, 1) > 0:
            bits |= select.POLLIN
        if ended:
            bits |= select.POLLRDHUP
        if over or (ended and self._write_shut):
            bits |= select.POLLHUP
        if over or self._write_shut or _room(self._tx, self._host.config.fifo) > 0:
            bits |= select.POLLOUT
        return bits

    def getsockname(self) -> tuple[str, int]:
        """Own address and port; ``("0.0.0.0", 0)`` before there is one."""
        return self._addresses[0] if self._addresses else ("0.0.0.0", 0)

    def getpeername(self) -> tuple[str, int]:
        """The peer's address and port; ENOTCONN without one."""
        if self._state not in (CONNECTING, CONNECTED) or not self._addresses:
            raise _fail(errno.ENOTCONN)
        return self._addresses[1]

    def getsockopt(self, level: int, option: int) -> Any:
        """SO_ERROR (which it clears), SO_KEEPALIVE, SO_ACCEPTCONN, SO_RCVBUF, SO_SNDBUF, IP_TOS, TCP_NODELAY, TCP_MAXSEG,
        and TCP_INFO as a dict (:meth:`info`). ENOPROTOOPT for others."""
        config = self._host.config
        if (level, option) == (std.SOL_SOCKET, std.SO_ERROR):
            return self._take_error()
        values: dict[tuple[int, int], Any] = {
            (std.SOL_SOCKET, std.SO_KEEPALIVE): lambda: int(self._keepalive),
            (std.SOL_SOCKET, std.SO_ACCEPTCONN): lambda: int(self._state == LISTENING),
            (std.SOL_SOCKET, std.SO_RCVBUF): lambda: config.fifo,
            (std.SOL_SOCKET, std.SO_SNDBUF): lambda: config.fifo,
            (std.IPPROTO_IP, std.IP_TOS): lambda: self._diffserv,
            (std.IPPROTO_TCP, std.TCP_NODELAY): lambda: int(self._nodelay),
            (std.IPPROTO_TCP, std.TCP_MAXSEG): lambda: self.info()["mss"],
            (std.IPPROTO_TCP, std.TCP_INFO): self.info,
        }
        try:
            return values[level, option]()
        except KeyError:
            raise _fail(errno.ENOPROTOOPT, f"level {level}, option {option}") from None

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """TCP_NODELAY, SO_KEEPALIVE and IP_TOS (the Diffserv field; ECN's two bits stay 0), also before there is a connection:
        a listener's are those of its connections. ENOPROTOOPT for others."""
        if (level, option) == (std.IPPROTO_TCP, std.TCP_NODELAY):
            self._nodelay = bool(value)
        elif (level, option) == (std.SOL_SOCKET, std.SO_KEEPALIVE):
            self._keepalive = bool(value)
        elif (level, option) == (std.IPPROTO_IP, std.IP_TOS):
            self._diffserv = value & 0xFC
        else:
            raise _fail(errno.ENOPROTOOPT, f"level {level}, option {option}")
        self._apply_options()

    def info(self) -> dict[str, Any]:
        """The connection's variables: times in seconds, sizes in bytes. Only ``state`` when there is none."""
        con = self._connection()
        if con is None:
            return {"state": "LISTEN" if self._state == LISTENING else "CLOSED", "mss": 0}
        flags = int(con["flags"])
        sizes = ("mss", "cwnd", "ssthresh", "snd_wnd", "snd_scale", "rcv_scale", "retransmits", "backoff", "dupacks")
        return {
            "state": STATE_NAMES[con["state"]],
            "recovery": _RECOVERIES[con["recovery"]],
            "timestamps": bool(flags & F_TS),
            "sack": bool(flags & F_SACK),
            "wscale": bool(flags & F_WSCALE),
            "rcv_wnd": int(con["rcv_adv"] - con["rcv_nxt"]),
            "unacked": int(con["snd_nxt"] - con["snd_una"]),
            **{name: int(con[name]) for name in sizes},
            **{name: float(con[name] / S) for name in ("srtt", "rttvar", "rto")},
        }

    # ---- between socket and stack ----

    def _attach(self, slot: int) -> None:
        """Stand on ``slot``, whose fifos are fresh."""
        host = self._host
        self._slot = slot
        host.sockets[slot] = self
        cfg = host.tcp.cfg[0]
        fifos = int(cfg["fifos_at"]) + slot * int(cfg["fifo_stride"])
        data, size = fifos + HEADERS, int(cfg["fifo_size"])
        self._rx = host.ends_at + 2 * slot * END_BYTES
        self._tx = self._rx + END_BYTES
        _bind(self._rx, fifos, data, size)
        _bind(self._tx, fifos + HEADERS // 2, data + size, size)
        con = self._connection()
        if con is not None:
            self._addresses = (
                (dotted_address(int(con["local_addr"])), int(con["local_port"])),
                (dotted_address(int(con["remote_addr"])), int(con["remote_port"])),
            )
        self._apply_options()

    def _take_child(self, slot: int) -> None:
        """A connection to this listener is established."""
        child = Socket(self._host)
        child._nodelay, child._keepalive, child._diffserv = self._nodelay, self._keepalive, self._diffserv
        child._attach(slot)
        child._state = CONNECTED
        self._waiting.append(child)

    def _noted(self, bits: int) -> None:
        """The stack has told ``bits`` about the slot."""
        if bits & NOTE_CONNECTED:
            self._state = CONNECTED
        if bits & NOTE_FIN:
            self._end_seen = True
        if bits & NOTE_ERROR:
            self._state = CONNECTED
            self._error = int(self._host.tcp.slot[self._slot]["error"])

    def _connection(self) -> Any:
        """The connection's record, None when the transport has let go."""
        if self._slot < 0 or (c := int(self._host.tcp.slot[self._slot]["con"])) < 0:
            return None
        return self._host.tcp.con[c]

    def _gone(self) -> bool:
        """The transport has let go of the slot."""
        return self._connection() is None

    def _apply_options(self) -> None:
        if self._slot >= 0:
            engine.set_nodelay(self._host.tcp, self._slot, int(self._nodelay))
            engine.set_diffserv(self._host.tcp, self._slot, self._diffserv)
            engine.set_keepalive(self._host.tcp, self._slot, int(self._keepalive), self._host.now_ns)

    def _need_connection(self) -> None:
        if self._state == CLOSED:
            raise _fail(errno.EBADF)
        if self._state in (NEW, LISTENING):
            raise _fail(errno.ENOTCONN)

    def _take_error(self) -> int:
        error, self._error = self._error, 0
        return error


def new_ends(slots: int) -> np.ndarray[Any, Any]:
    """The owner's fifo ends of all slots: rx reader, tx writer. Must outlive the sockets."""
    return np.zeros((slots, 2, END_WORDS), "i8")
