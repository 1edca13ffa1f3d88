"""An app worker: the process's attachment to a core, and how it survives a fork.

The control socket is kept open for the worker's whole life: when the process dies the kernel closes it, and that is
how the core knows. A forked child opens its own, and becomes a worker of its own on the memory it inherited.
Not thread safe; one per process.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple, Self

from shmq.segment import Segment
from stackcore import control
from stackcore.abi.layout import View
from stackcore.control import ControlError, Type
from stackcore.core.process import SEGMENT_KIND, segment_abi
from stackcore.vcl import _vcl


class Modes(NamedTuple):
    """How this side works: the choices of --listener, --lock, --events, --wait, and busy checks before a yield."""

    listener: str = "duplicated"
    events: str = "single-queue"
    futex_lock: bool = False
    wait: str = "adaptive"
    spins: int = 2000
    table_capacity: int = 1024


class Worker:
    """Made by :meth:`attach`. ``vcl`` has the socket calls (see :class:`stackcore.vcl._vcl.Worker`)."""

    def __init__(self, path: Path, sock: socket.socket, index: int, segment: Segment, doorbell: int, modes: Modes) -> None:
        self.path, self.sock, self.segment, self.doorbell, self.modes = path, sock, segment, doorbell, modes
        self._pid = os.getpid()
        self.vcl = _vcl.Worker(
            segment=segment.buf, index=index, control_fd=sock.fileno(), doorbell=doorbell, listener=modes.listener,
            events=modes.events, futex_lock=modes.futex_lock, wait=modes.wait, spins=modes.spins,
            table_capacity=modes.table_capacity,
        )  # fmt: skip

    @classmethod
    def attach(cls, path: Path, modes: Modes, launcher: bool = False) -> Self:
        """Connect to the core at ``path`` and map its segment.

        Raises ConnectionError (no core), ControlError (refused: another build, another user, no free record),
        CorruptSegment, or OSError from the native side.
        """
        sock, index, fds = _register(path, launcher)
        try:
            segment = Segment.from_fd(fds[0], SEGMENT_KIND, segment_abi())
            try:
                return cls(path, sock, index, segment, fds[1], modes)
            except BaseException:
                segment.close()
                raise
        except BaseException:
            sock.close()
            os.close(fds[1])
            raise
        finally:
            os.close(fds[0])

    @property
    def index(self) -> int:
        return self.vcl.index

    def become_child(self) -> None:
        """In a forked child: register as a worker of its own, and do what the listener mode does after a fork."""
        self.sock.close()  # the copy; the parent's registration is the parent's
        self._pid = os.getpid()
        self.sock, index, fds = _register(self.path, launcher=False)
        for fd in fds:
            os.close(fd)  # the memory and the doorbell are inherited
        self.vcl.child(index, self.sock.fileno())

    def children_registered(self) -> None:
        """In the parent, when all children have registered."""
        self.vcl.parent()

    def view(self) -> View:
        """The shared records; drop it before :meth:`close`."""
        return View(self.segment.buf, self.segment.address)

    def request(self, kind: Type) -> control.Message:
        """One request on the control socket; ControlError, EOFError or TimeoutError."""
        return control.request(self.sock, kind, self.index)[0]

    def close(self) -> None:
        """Detach in good order. Safe when the core is gone, and safe to call twice."""
        if self.sock.fileno() < 0:
            return
        index = self.vcl.index
        self.vcl.detach()
        if self._pid == os.getpid():  # else a child drops its copy: the attachment is its parent's
            try:
                control.request(self.sock, Type.DETACH, index)
            except (OSError, EOFError, ControlError):
                pass  # the core is gone or going; it has nothing of ours any more
        self.sock.close()
        os.close(self.doorbell)
        self.segment.close()


def _register(path: Path, launcher: bool) -> tuple[socket.socket, int, list[int]]:
    sock = control.connect(path)
    try:
        body = {"abi": segment_abi(), "launcher": launcher}
        answer, fds = control.request(sock, Type.ATTACH, body=body, max_fds=2)
        if answer.type is not Type.ATTACHED or len(fds) != 2:
            for fd in fds:
                os.close(fd)
            raise ControlError(f"the core answered ATTACH with {answer.type.name} and {len(fds)} descriptors")
        return sock, int(answer.body["worker"]), fds
    except BaseException:
        sock.close()
        raise
