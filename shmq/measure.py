"""Times one way of passing messages between two pinned processes, with every message checked.

What is measured is a *link*: anything that can make a sending end in one process and a receiving end in another.
`shmq bench` hands in Ring and Channel, `stackcore bench peers` other libraries; all of them run through the loops below.

Promise. A receiver compares every message with the one it expects next: messages of up to `WHOLE` bytes byte by byte, larger
ones at both ends (64 bytes) and byte by byte every `FULL_CHECK`-th time. What is missing, twice, out of place or corrupt
is counted, never hidden. Both processes are forked from one that starts no thread, are pinned to two CPUs, and are killed
when they do not end in time.

Method. Streams are timed by the receiver, after a warm-up of a fifth of the time; it then asks the sender to stop and drains
what is under way. Round trips are timed one by one, closed loop, so a reply that is late delays the next request.

Doubt. The loops are Python: about 50 ns of every message are the loop's and the comparison's own, which makes fast links look
more alike than they are. The messages come from a set of a few hundred kilobytes, made beforehand, so making them costs
nothing here but would elsewhere.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import select
import signal
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

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
WHOLE = 4096
FULL_CHECK = 16
_EDGE = 64
_CHUNK = 256
_PATIENCE = 4096
_GRACE_SECONDS = 5.0
_IDLE_SECONDS = 0.5


_T = TypeVar("_T")


class MeasureError(RuntimeError):
    """A measurement gave no result; the text says why."""


@dataclass(frozen=True)
class Sender:
    """A sending end: the calls it has. With `waits` they return when the message is in, else falsy or short means full."""

    send: Callable[[bytes], object]
    waits: bool = False
    send_batch: Callable[[list[bytes]], int] | None = None
    send_array: Callable[[Any], int] | None = None
    """Takes whole records one after another; returns how many went in."""
    lend: Callable[[], Any] | None = None
    """Returns a writable view of one message's place, or None when there is no room; `publish` sends it."""
    publish: Callable[[], object] | None = None
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Receiver:
    """A receiving end. `receive` serves streams; it waits for a message if `waits`, else None means that there is none."""

    receive: Callable[[], Any]
    waits: bool = False
    poll: Callable[[], Any] | None = None
    """Never waits; None: use `receive`."""
    wait: Callable[[], Any] | None = None
    """Sleeps until there is a message."""
    receive_batch: Callable[[int], Sequence[Any]] | None = None
    receive_array: Callable[[int], tuple[bytes | bytearray, int]] | None = None
    """Takes up to so many records; returns a buffer that starts with them, and how many they are."""
    borrow: Callable[[], Any] | None = None
    """Returns a readable view of the next message or None; `give_back` ends its use."""
    give_back: Callable[[], object] | None = None
    close: Callable[[], object] = lambda: None


class Link(Protocol):
    """Made before the fork; each end is made in the process that uses it, `close` is called by neither of them."""

    def sender(self) -> Sender: ...
    def receiver(self) -> Receiver: ...
    def close(self) -> None: ...


def slots(size: int) -> int:
    """Return how many messages of `size` bytes a link should have room for: 1024 small ones, 1 MB of large ones at most."""
    return max(16, min(1024, 1 << 18 >> (size - 1).bit_length()))


def batch_size(size: int) -> int:
    """Return how many messages go into one batch: 8 KB, at least 4."""
    return max(4, min(256, 8192 // size))


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
    seconds, ns (per message or round trip), errors; p50_ns and p99_ns of round trips, cpu_share of `idle`.

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


# ---- messages and their check ----


class _Messages:
    """The messages in their order, for ever round: each holds its number, the rest of it differs from its neighbours'."""

    def __init__(self, size: int, as_received: Callable[[bytes], bytes]) -> None:
        batch = batch_size(size)
        self.size, self.batch = size, batch
        self.count = 13 * batch if size <= 1024 else 8
        self.sent = [_message(number, size) for number in range(self.count)]
        self.end = b"\xff" * size
        self.expected = [as_received(message) for message in self.sent] * 2
        self.expected_end = as_received(self.end)
        self.batches = [self.sent[at : at + batch] for at in range(0, self.count, batch)]
        self.blocks = [b"".join(block) for block in self.batches]


def _message(number: int, size: int) -> bytes:
    return (struct.pack("<II", number, number ^ 0x5A5A5A5A) * (size // 8 + 1))[:size]


class _Check:
    """The receiver's view of the order: what comes next, how much came, what was wrong."""

    def __init__(self, messages: _Messages, control: _Control) -> None:
        self.messages, self.control = messages, control
        self.at = self.received = self.misplaced = self.corrupt = 0
        self._numbers = {message: number for number, message in enumerate(messages.expected[: messages.count])}

    def ahead(self, n: int) -> list[bytes]:
        """Return the next `n` messages, at most one round."""
        return self.messages.expected[self.at : self.at + n]

    def passed(self, n: int) -> None:
        """Count `n` messages as right."""
        self.received += n
        self.at = (self.at + n) % self.messages.count

    def misfit(self, message: bytes) -> bool:
        """Look at a message that was not the next one; True when it is the end."""
        if message == self.messages.expected_end:
            return True
        self.received += 1
        number = self._numbers.get(bytes(message))
        if number is None:
            self.corrupt += 1
            self.at = (self.at + 1) % self.messages.count
        else:
            self.misplaced += 1
            self.at = (number + 1) % self.messages.count
        return False

    def one(self, message: bytes) -> bool:
        """Check one message the slow way; True when it is the end."""
        if message == self.messages.expected[self.at]:
            self.passed(1)
            return False
        return self.misfit(message)

    def patient(self, receive: Callable[[], Any]) -> Any:
        """Poll until something comes, or return None once the sender has finished and nothing comes any more."""
        while True:
            finished = self.control.finished
            for _ in range(_PATIENCE):
                got = receive()
                if got:
                    return got
            if finished:
                return None

    def errors(self) -> dict[str, int]:
        sent = self.control.sent
        return {
            "lost": max(0, sent - self.received), "duplicate": max(0, self.received - sent),
            "misplaced": self.misplaced, "corrupt": self.corrupt,
        }  # fmt: skip


class _Control:
    """A few words that both processes see, apart from the link. Ordered by the pipes around them, not by themselves."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    @property
    def stopping(self) -> bool:
        return self._words[0] != 0

    def stop(self) -> None:
        self._words[0] = 1

    @property
    def finished(self) -> bool:
        return self._words[8] != 0

    @property
    def sent(self) -> int:
        return self._words[16]

    def finish(self, sent: int) -> None:
        self._words[16] = sent
        self._words[8] = 1


class _Clock:
    """The receiver's time: warm-up, measured part, end."""

    def __init__(self, seconds: float, control: _Control) -> None:
        start = time.monotonic()
        self._from, self._until = start + seconds / 5, start + seconds * 1.2
        self._control = control
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def look(self, received: int) -> None:
        if self._last:
            return
        now = time.monotonic()
        if self._first is None:
            if now >= self._from:
                self._first = now, received
        elif now >= self._until:
            self._last = now, received
            self._control.stop()

    def figures(self) -> dict[str, Any]:
        if self._first is None or self._last is None or self._last[1] == self._first[1]:
            raise MeasureError("too few messages came through to measure anything")
        seconds, operations = self._last[0] - self._first[0], self._last[1] - self._first[1]
        return {"operations": operations, "seconds": seconds, "ns": 1e9 * seconds / operations}


# ---- streams: the sender's loops return how many messages they sent ----


def _until_stopped(items: Sequence[_T], control: _Control) -> Iterator[_T]:
    """Yield the items, for ever round, until the receiver has seen enough."""
    for item in itertools.cycle(items):
        if control.stopping:
            return
        yield item


def _send_single(sender: Sender, messages: _Messages, control: _Control) -> int:
    send, sent = sender.send, 0
    chunks = [messages.sent[at : at + _CHUNK] for at in range(0, messages.count, _CHUNK)]
    for chunk in _until_stopped(chunks, control):
        if sender.waits:
            for message in chunk:
                send(message)
        else:
            for message in chunk:
                while not send(message):
                    pass
        sent += len(chunk)
    return sent


def _send_batches(sender: Sender, messages: _Messages, control: _Control) -> int:
    send, sent, size = sender.send_batch, 0, messages.batch
    assert send is not None
    for batch in _until_stopped(messages.batches, control):
        done = send(batch)
        while done < size:
            done += send(batch[done:])
        sent += size
    return sent


def _send_arrays(sender: Sender, messages: _Messages, control: _Control) -> int:
    send, sent, count, size = sender.send_array, 0, messages.batch, messages.size
    assert send is not None
    for block in _until_stopped(messages.blocks, control):
        done = send(block)
        while done < count:
            done += send(memoryview(block)[done * size :])
        sent += count
    return sent


def _send_views(sender: Sender, messages: _Messages, control: _Control) -> int:
    lend, publish, sent = sender.lend, sender.publish, 0
    assert lend is not None and publish is not None
    upcoming = _until_stopped(messages.sent, control)
    while (message := next(upcoming, None)) is not None:
        while (view := lend()) is None:
            pass
        view[:] = message
        publish()
        sent += 1
    return sent


def _receive_single(receiver: Receiver, check: _Check, clock: _Clock) -> None:
    receive, ended = receiver.receive, False
    while not ended:
        ahead = check.ahead(_CHUNK)
        for i, expected in enumerate(ahead):
            message = receive()
            if message is None:
                message = check.patient(receive)
            if message != expected:
                check.passed(i)
                ended = message is None or check.misfit(message)
                break
        else:
            check.passed(len(ahead))
        clock.look(check.received)


def _receive_large(receiver: Receiver, check: _Check, clock: _Clock) -> None:
    """Messages too large to compare each of them in full: that would cost as much as passing them on."""
    receive = receiver.receive
    while True:
        message = receive()
        if message is None:
            message = check.patient(receive)
        if message is None or (not _fits(check, message) and check.misfit(message)):
            return
        clock.look(check.received)


def _fits(check: _Check, message: Any) -> bool:
    expected = check.messages.expected[check.at]
    if check.received % FULL_CHECK == 0:
        same = bytes(message) == expected
    else:
        same = (
            len(message) == len(expected)
            and bytes(message[:_EDGE]) == expected[:_EDGE]
            and bytes(message[-_EDGE:]) == expected[-_EDGE:]
        )
    if same:
        check.passed(1)
    return same


def _receive_batches(receiver: Receiver, check: _Check, clock: _Clock) -> None:
    receive, most = receiver.receive_batch, check.messages.batch
    assert receive is not None
    while True:
        got = receive(most)
        if not got:
            got = check.patient(lambda: receive(most))
        if got is None:
            return
        if got == check.ahead(len(got)):
            check.passed(len(got))
        elif any(check.one(message) for message in got):
            return
        clock.look(check.received)


def _receive_arrays(receiver: Receiver, check: _Check, clock: _Clock) -> None:
    receive, most = receiver.receive_array, check.messages.batch
    assert receive is not None
    size = len(check.messages.expected_end)
    flat = b"".join(check.messages.expected)
    blocks = {at: flat[at * size : (at + most) * size] for at in range(check.messages.count)}
    while True:
        data, n = receive(most)
        if not n:
            patient = check.patient(lambda: found if (found := receive(most))[1] else None)
            if patient is None:
                return
            data, n = patient
        block = blocks[check.at]
        if data == block if n == most else data[: n * size] == block[: n * size]:
            check.passed(n)
        elif any(check.one(bytes(data[i * size : (i + 1) * size])) for i in range(n)):
            return
        clock.look(check.received)


def _receive_views(receiver: Receiver, check: _Check, clock: _Clock) -> None:
    borrow, give_back, ended = receiver.borrow, receiver.give_back, False
    assert borrow is not None and give_back is not None
    large = check.messages.size > WHOLE
    while not ended:
        view = borrow()
        if view is None:
            view = check.patient(borrow)
        if view is None:
            return
        if not large:
            ended = check.one(bytes(view))
        elif not _fits(check, view):
            ended = check.misfit(bytes(view))
        del view
        give_back()
        clock.look(check.received)


_SENDS = {"single": _send_single, "batch": _send_batches, "array": _send_arrays, "view": _send_views}
_RECEIVES = {"single": _receive_single, "batch": _receive_batches, "array": _receive_arrays, "view": _receive_views}


# ---- round trips and idling ----


def _ping(sender: Sender, receiver: Receiver, messages: _Messages, seconds: float, busy: bool) -> dict[str, Any]:
    """Send one message after the other and wait for each to come back; returns the figures."""
    send, receive, clock = sender.send, _taking(receiver, busy), time.perf_counter_ns
    times: list[int] = []
    append, wrong = times.append, 0
    first = before = clock()
    until = first + int(1.2e9 * seconds)
    for message, expected in itertools.cycle(zip(messages.sent, messages.expected[: messages.count], strict=True)):
        if send(message) is False:
            raise MeasureError("an empty link had no room")
        while (back := receive()) is None:
            pass
        now = clock()
        append(now - before)
        before = now
        if back != expected:
            wrong += 1
        if now >= until:
            break
    send(messages.end)
    warm = next(i for i, passed in enumerate(itertools.accumulate(times)) if passed >= 2e8 * seconds or i == len(times) - 1)
    return {**_distribution(times[warm:]), "errors": {"lost": 0, "duplicate": 0, "misplaced": 0, "corrupt": wrong}}


def _distribution(times: list[int]) -> dict[str, Any]:
    ordered = sorted(times)
    total = sum(ordered)
    return {
        "operations": len(ordered), "seconds": total / 1e9, "ns": total / len(ordered), "p50_ns": statistics.median(ordered),
        "p99_ns": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }  # fmt: skip


def _echo(sender: Sender, receiver: Receiver, messages: _Messages, busy: bool) -> None:
    send, receive, end = sender.send, _taking(receiver, busy), messages.expected_end
    length = messages.size if len(end) != messages.size else None
    while True:
        while (message := receive()) is None:
            pass
        if message == end:
            return
        send(message if length is None else message[:length])


def _taking(receiver: Receiver, busy: bool) -> Callable[[], Any]:
    take = (receiver.poll or receiver.receive) if busy else receiver.wait
    assert take is not None
    return take


def _idle(receiver: Receiver, messages: _Messages, ready: Callable[[], None]) -> dict[str, Any]:
    """Wait for one message; returns the CPU share of the wait."""
    assert receiver.wait is not None
    ready()
    cpu, wall = time.process_time(), time.monotonic()
    message = receiver.wait()
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    wrong = int(message != messages.expected[0])
    return {
        "operations": 1, "seconds": wall, "ns": 1e9 * wall, "cpu_share": cpu / wall,
        "errors": {"lost": 0, "duplicate": 0, "misplaced": 0, "corrupt": wrong},
    }  # fmt: skip


# ---- the two processes ----


class _Pair:
    """Two forked processes, the sending one on the first CPU; this process only waits for them."""

    def __init__(
        self, kind: str, size: int, seconds: float, links: Sequence[Link], as_received: Callable[[bytes], bytes]
    ) -> None:
        self.kind, self.seconds, self.links = kind, seconds, links
        self.cpus = two_cpus()
        self._messages = _Messages(size, as_received)
        self._control = _Control()
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
            figures = _ping(sender, receiver, self._messages, self.seconds, self.kind == "busy")
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
            sent = _SENDS[self.kind](sender, self._messages, self._control)
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
            _echo(sender, receiver, self._messages, self.kind == "busy")
            self._meet(1)
            sender.close()
            figures: dict[str, Any] = {}
        elif self.kind == "idle":
            self._attached(1, receiver)
            figures = _idle(receiver, self._messages, lambda: self._meet(1))
            self._meet(1)
        else:
            self._attached(1, receiver)
            check = _Check(self._messages, self._control)
            clock = _Clock(self.seconds, self._control)
            receive = _receive_large if self._large and self.kind == "single" else _RECEIVES[self.kind]
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
