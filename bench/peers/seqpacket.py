"""AF_UNIX sockets that keep message boundaries (SOCK_SEQPACKET)."""

from __future__ import annotations

import socket

from bench.peers.base import Adapter, Link, Receiver, Sender


class SeqpacketAdapter(Adapter):
    name = "SOCK_SEQPACKET"
    kinds = frozenset({"single", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> _SocketLink:
        return _SocketLink(size)


class _SocketLink(Link):
    def __init__(self, size: int) -> None:
        self._size = size
        self._writing, self._reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def sender(self) -> Sender:
        return Sender(self._writing.send, waits=True)

    def receiver(self) -> Receiver:
        recv, size, flag = self._reading.recv, self._size, socket.MSG_DONTWAIT

        def receive() -> bytes:
            return recv(size)

        def poll() -> bytes | None:
            try:
                return recv(size, flag)
            except BlockingIOError:
                return None

        return Receiver(receive, waits=True, poll=poll, wait=receive)

    def close(self) -> None:
        self._reading.close()
        self._writing.close()
