"""Times one way of passing messages between two pinned processes, with every message checked.

What is measured is a *link*: anything that can make a sending end in one process and a receiving end in another.
`shmq bench` hands in Ring and Channel, `stackcore bench peers` other libraries; all of them run through the loops below.

Promise. A receiver compares every message with the one it expects next: byte by byte, but single ones of more than 4096 bytes
only at both ends (64 bytes each), and byte by byte every 16th time. What is missing, twice, out of place or corrupt is
counted, never hidden. Both processes are forked from one that starts no thread, are pinned to two CPUs, and are killed when
they do not end in time.

Method. Streams are timed by the receiver, after a warm-up of a fifth of the time; it then asks the sender to stop and drains
what is under way. Round trips are closed loop, so a reply that is late delays the next request. They are timed twice: in
blocks of 16, whose median is free of the clock's own cost (60 ns with a list to keep it in), and one by one for p50 and p99.

Doubt. The loops are Python: about 50 ns of every message are the loop's and the comparison's own, which makes fast links look
more alike than they are. The messages come from a set of a few hundred kilobytes, made beforehand, so making them costs
nothing here but would elsewhere.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Protocol

from shmq.traffic import (
    RECEIVES,
    SENDS,
    WHOLE,
    Check,
    Clock,
    Control,
    MeasureError,
    Messages,
    Receiver,
    Sender,
    batch_size,
    echo,
    idle,
    ping,
    receive_large,
)  # fmt: skip

__all__ = ["KINDS", "Link", "MeasureError", "Receiver", "Sender", "batch_size", "measure", "slots", "two_cpus"]

KINDS = {
    "single": "one message per call",
    "batch": "many bytes objects per call",
    "array": "one buffer of many per call",
    "view": "written and read in place",
    "busy": "round trip, polling",
    "blocking": "round trip, waiting calls",
    "idle": "a receiver that waits",
}
_GRACE_SECONDS = 5.0
_IDLE_SECONDS = 0.5


class Link(Protocol):
    """Made before the fork; each end is made in the process that uses it, `close` is called by neither of them."""

    def sender(self) -> Sender: ...
    def receiver(self) -> Receiver: ...
    def close(self) -> None: ...


def slots(size: int) -> int:
    """Return how many messages of `size` bytes a link should have room for: 1024, 4 MB of large ones, at least 16.

    A link for large messages is made larger than the second-level caches on purpose. In a smaller one the sender's lines are
    still modified in its own cache when they are wanted, and the receiver's in the other: fetching them from there takes longer
    than from the third level, to which a larger link has displaced them. It shows from 1 KB on.
    """
    return max(16, min(1024, 1 << 22 >> (size - 1).bit_length()))


def two_cpus() -> tuple[int, int]:
    """Return the first two CPUs that this process may use; twice the same when there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 % len(allowed)]


def measure(
    make: Callable[[], Link],
    kind: str,
    size: int,
    seconds: float,
    *,
    as_received: Callable[[bytes], bytes] = lambda message: message,
    timeout: float = 20.0,
) -> dict[str, Any]:
    """Time one kind of traffic over new links and return its figures.

    `make` returns a link with room for at least `slots(size)` messages of `size` (16 or more) bytes; round trips use two.
    `as_received` says what becomes of a message on its way (padding, for example). Returned: kind, size, cpus, operations,
    seconds, ns (per message or round trip), errors; trip_ns (by blocks), p50_ns and p99_ns of round trips, cpu_share of `idle`.

    Raises MeasureError when an end raises, dies or takes `timeout` seconds more than it should.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    if size < 16:
        raise ValueError(f"messages have at least 16 bytes, not {size}")
    links = [make()]
    try:
        if kind in ("busy", "blocking"):
            links.append(make())
        pair = _Pair(kind, size, seconds, links, as_received)
        figures = pair.run(seconds + timeout)
    finally:
        for link in links:
            link.close()
    return {"kind": kind, "size": size, "batch": batch_size(size), "cpus": list(pair.cpus), **figures}


# ---- the two processes ----


class _Pair:
    """Two forked processes, the sending one on the first CPU; this process only waits for them."""

    def __init__(
        self, kind: str, size: int, seconds: float, links: Sequence[Link], as_received: Callable[[bytes], bytes]
    ) -> None:
        self.kind, self.seconds, self.links = kind, seconds, links
        self.cpus = two_cpus()
        self._messages = Messages(size, as_received)
        self._control = Control()
        self._barrier = socket.socketpair()
        self._result = os.pipe()
        self._large = size > WHOLE

    def run(self, timeout: float) -> dict[str, Any]:
        pids: list[int] = []
        try:
            for side in (0, 1):
                pids.append(self._fork(side))
            os.close(self._result[1])
            for end in self._barrier:
                end.close()
            figures = self._collect(pids, timeout)
        except BaseException:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            for pid in pids:
                _reap(pid)
            os.close(self._result[0])
        return figures

    def _fork(self, side: int) -> int:
        pid = os.fork()
        if pid == 0:
            self._child(side)
        return pid

    def _child(self, side: int) -> NoReturn:
        """Run one side and leave; what it has to say goes through the pipe, one line each."""
        said: dict[str, Any]
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._barrier[1 - side].close()
            os.sched_setaffinity(0, {self.cpus[side]})
            said = self._sending() if side == 0 else self._receiving()
        except BaseException as error:
            said = {"problem": f"{'sender' if side == 0 else 'receiver'}: {type(error).__name__}: {error}"}
        finally:
            os.write(self._result[1], json.dumps(said).encode() + b"\n")
            os._exit(0)

    def _meet(self, side: int) -> None:
        """Return when both processes are here."""
        self._barrier[side].send(b".")
        if not self._barrier[side].recv(1):
            raise MeasureError("the other end is gone")

    def _sending(self) -> dict[str, Any]:
        sender = self.links[0].sender()
        if self.kind in ("busy", "blocking"):
            receiver = self.links[1].receiver()
            self._attached(0, receiver)
            figures = ping(sender, receiver, self._messages, self.seconds, self.kind == "busy")
            self._meet(0)
            receiver.close()
        elif self.kind == "idle":
            self._meet(0)
            self._meet(0)
            self._meet(0)
            time.sleep(max(self.seconds, _IDLE_SECONDS))  # this is what is measured: the other end's wait
            sender.send(self._messages.sent[0])
            self._meet(0)
            figures = {}
        else:
            self._meet(0)
            self._meet(0)
            sent = SENDS[self.kind](sender, self._messages, self._control)
            self._control.finish(sent)
            self._send_end(sender)
            self._meet(0)
            figures = {}
        sender.close()
        return figures

    def _send_end(self, sender: Sender) -> None:
        end = self._messages.end
        if self.kind == "array":
            assert sender.send_array is not None
            while not sender.send_array(end):
                pass
        else:
            while not sender.send(end) and not sender.waits:
                pass

    def _receiving(self) -> dict[str, Any]:
        receiver = self.links[0].receiver()
        if self.kind in ("busy", "blocking"):
            sender = self.links[1].sender()
            self._attached(1, receiver)
            echo(sender, receiver, self._messages, self.kind == "busy")
            self._meet(1)
            sender.close()
            figures: dict[str, Any] = {}
        elif self.kind == "idle":
            self._attached(1, receiver)
            figures = idle(receiver, self._messages, lambda: self._meet(1))
            self._meet(1)
        else:
            self._attached(1, receiver)
            check = Check(self._messages, self._control)
            clock = Clock(self.seconds, self._control)
            receive = receive_large if self._large and self.kind == "single" else RECEIVES[self.kind]
            receive(receiver, check, clock)
            self._meet(1)
            figures = {**clock.figures(), "errors": check.errors()}
        receiver.close()
        return figures

    def _attached(self, side: int, receiver: Receiver) -> None:
        """Both ends of each link exist; a receiver has looked once before anything is sent: some connect only then."""
        self._meet(side)
        if not receiver.waits:
            receiver.receive()
        self._meet(side)

    def _collect(self, pids: Sequence[int], timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        figures: dict[str, Any] = {}
        lines = _lines(self._result[0], deadline)
        for _ in pids:
            line = next(lines, None)
            if line is None:
                raise MeasureError("one of the two processes died" if time.monotonic() < deadline else "it did not end in time")
            said = json.loads(line)
            if "problem" in said:
                raise MeasureError(said["problem"])
            figures |= said
        return figures


def _lines(fd: int, deadline: float) -> Iterator[bytes]:
    """Yield lines from a pipe until it is closed or the deadline has passed."""
    data = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([fd], [], [], left)[0]:
            return
        got = os.read(fd, 65536)
        if not got:
            return
        data += got
        while b"\n" in data:
            line, data = data.split(b"\n", 1)
            yield line


def _reap(pid: int) -> None:
    """Wait a moment for a process that should end by itself, then kill it."""
    deadline = time.monotonic() + _GRACE_SECONDS
    fd = os.pidfd_open(pid)
    try:
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(fd)
    os.waitpid(pid, 0)
