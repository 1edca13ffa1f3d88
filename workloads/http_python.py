"""The ``http`` server in plain Python: the same replies, h11 for the protocol, one object per connection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11

from stackcore.native import busy_python
from stackcore.vcl import native as vls
from workloads.loop import listener_mask

_READ, _WRITE = vls.EPOLLIN, vls.EPOLLOUT
_GONE = vls.EPOLLERR | vls.EPOLLHUP


class Connection:
    """One client: h11's state machine, and what is left to send."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.http = h11.Connection(h11.SERVER)
        self.unsent = b""
        self.wants_out = False


class Server:
    """Serves the files of ``root`` through one epoll set of ``vcl`` until told to stop."""

    def __init__(self, vcl: Any, listener: int, root: Path, config: Any) -> None:
        self.vcl, self.listener, self.config = vcl, listener, config
        self.files = {b"/" + p.name.encode(): p.read_bytes() for p in root.iterdir()}
        self.connections: dict[int, Connection] = {}
        self.edge = config.trigger == "edge"
        self.epoll = vcl.epoll_create()
        vcl.epoll_ctl(self.epoll, vls.EPOLL_CTL_ADD, listener, listener_mask(config), listener)

    def run(self, running: Callable[[], bool]) -> None:
        while running():
            for fd, events in self.vcl.epoll_wait(self.epoll, self.config.maxevents, 10):
                if fd == self.listener:
                    self.accept_all()
                else:
                    self.serve(self.connections[fd], events)

    def accept_all(self) -> None:
        mask = _READ | _WRITE | vls.EPOLLRDHUP | vls.EPOLLET if self.edge else _READ
        while True:
            try:
                fd = self.vcl.accept(self.listener)
            except BlockingIOError:
                return
            self.connections[fd] = Connection(fd)
            self.vcl.epoll_ctl(self.epoll, vls.EPOLL_CTL_ADD, fd, mask, fd)

    def serve(self, connection: Connection, events: int) -> None:
        try:
            alive = not events & _GONE
            if alive and connection.unsent:
                self.flush(connection)
                alive = bool(connection.unsent) or connection.http.our_state is not h11.MUST_CLOSE
            if alive and not connection.unsent:
                alive = self.read(connection)
        except (ConnectionError, h11.RemoteProtocolError):
            alive = False
        if not alive:
            del self.connections[connection.fd]
            self.vcl.close(connection.fd)
        elif not self.edge and connection.wants_out != bool(connection.unsent):
            connection.wants_out = bool(connection.unsent)
            mask = _WRITE if connection.wants_out else _READ
            self.vcl.epoll_ctl(self.epoll, vls.EPOLL_CTL_MOD, connection.fd, mask, connection.fd)

    def read(self, connection: Connection) -> bool:
        """Answer what has come; False when the connection is over."""
        if not self.answer(connection):  # requests that came while a reply was stuck
            return False
        while not connection.unsent:
            try:
                data = self.vcl.recv(connection.fd, 4096)
            except BlockingIOError:
                return True
            if not data:
                return False
            connection.http.receive_data(data)
            if not self.answer(connection):
                return False
        return True

    def answer(self, connection: Connection) -> bool:
        http = connection.http
        while not connection.unsent:
            event = http.next_event()
            if event is h11.NEED_DATA:
                return True
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return False
            if isinstance(event, h11.Request):
                self.reply(connection, event.target)
            elif isinstance(event, h11.EndOfMessage) and http.our_state is h11.DONE:
                http.start_next_cycle()
            if http.our_state is h11.MUST_CLOSE:
                return bool(connection.unsent)  # the rest of the last reply goes out first
        return True

    def reply(self, connection: Connection, target: bytes) -> None:
        body = self.files.get(target)
        status, reason = (200, b"OK") if body is not None else (404, b"Not Found")
        body = body or b""
        if self.config.work_ns:
            busy_python(self.config.work_ns)
        fields = [(b"Server", b"stackcore"), (b"Content-Length", str(len(body)).encode())]
        http = connection.http
        head = http.send(h11.Response(status_code=status, reason=reason, headers=fields))
        data = (head or b"") + body
        http.send(h11.Data(data=body))
        http.send(h11.EndOfMessage())
        connection.unsent = data
        self.flush(connection)
        self.vcl.count_requests(1)

    def flush(self, connection: Connection) -> None:
        while connection.unsent:
            try:
                sent = self.vcl.send(connection.fd, connection.unsent)
            except BlockingIOError:
                return
            connection.unsent = connection.unsent[sent:]
        if connection.http.our_state is h11.DONE and connection.http.their_state is h11.DONE:
            connection.http.start_next_cycle()
