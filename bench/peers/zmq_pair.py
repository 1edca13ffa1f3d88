"""pyzmq: a PAIR of sockets over ipc://, with I/O threads behind both ends."""

from __future__ import annotations

from bench.peers.base import Adapter, FolderLink, Receiver, Sender, load


class ZmqPairAdapter(Adapter):
    name = "pyzmq PAIR"
    package = "pyzmq"
    module = "zmq"
    kinds = frozenset({"single", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> _ZmqLink:
        return _ZmqLink()


class _ZmqLink(FolderLink):
    def sender(self) -> Sender:
        zmq = load("zmq")

        context = zmq.Context()
        end = context.socket(zmq.PAIR)
        end.bind(f"ipc://{self.folder}/socket")
        return Sender(end.send, waits=True, close=lambda: context.destroy(linger=0))

    def receiver(self) -> Receiver:
        zmq = load("zmq")

        context = zmq.Context()
        end = context.socket(zmq.PAIR)
        end.connect(f"ipc://{self.folder}/socket")  # tries again until the other end has bound
        recv, flag, nothing = end.recv, zmq.NOBLOCK, zmq.Again

        def poll() -> bytes | None:
            try:
                return recv(flag)
            except nothing:
                return None

        return Receiver(recv, waits=True, poll=poll, wait=recv, close=lambda: context.destroy(linger=0))
