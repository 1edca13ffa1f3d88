"""multiprocessing.Pipe: whole messages of bytes over a pipe."""

from __future__ import annotations

import multiprocessing

from bench.peers.base import Adapter, Link, Receiver, Sender


class MpPipeAdapter(Adapter):
    name = "multiprocessing.Pipe"
    kinds = frozenset({"single", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> _PipeLink:
        return _PipeLink()


class _PipeLink(Link):
    def __init__(self) -> None:
        self._reading, self._writing = multiprocessing.Pipe(duplex=False)

    def sender(self) -> Sender:
        return Sender(self._writing.send_bytes, waits=True)

    def receiver(self) -> Receiver:
        receive, poll = self._reading.recv_bytes, self._reading.poll
        return Receiver(receive, waits=True, poll=lambda: receive() if poll(0) else None, wait=receive)

    def close(self) -> None:
        self._reading.close()
        self._writing.close()
