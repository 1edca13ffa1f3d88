"""The loops of `shmq.measure`: what each of the two processes does, and how every message is checked.

Nothing here knows how the processes are started. Ends are plain calls (`Sender`, `Receiver`), so that the same loops run over
shmq and over any other library.
"""

from __future__ import annotations

import itertools
import mmap
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = [
    "RECEIVES", "SENDS", "WHOLE", "Check", "Clock", "Control", "MeasureError", "Messages", "Receiver", "Sender", "batch_size",
    "echo", "idle", "ping", "receive_large",
]  # fmt: skip

WHOLE = 4096
FULL_CHECK = 16
_EDGE = 64
_CHUNK = 256
_PATIENCE = 4096
_SET = 1 << 18
"""Bytes of large messages: they stay in the sender's second-level cache, beside the places they are copied to."""
_BLOCK = 16
"""Round trips timed at once."""

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


def batch_size(size: int) -> int:
    """Return how many messages go into one batch: 8 KB, at least 4."""
    return max(4, min(256, 8192 // size))


# ---- messages and their check ----


class Messages:
    """The messages in their order, for ever round: each holds its number, the rest of it differs from its neighbours'."""

    def __init__(self, size: int, as_received: Callable[[bytes], bytes]) -> None:
        batch = batch_size(size)
        self.size, self.batch = size, batch
        self.count = 13 * batch if size <= 1024 else max(4, min(8, _SET // size))
        self.sent = [_message(number, size) for number in range(self.count)]
        self.end = b"\xff" * size
        self.expected = [as_received(message) for message in self.sent] * 2
        self.expected_end = as_received(self.end)
        self.batches = [self.sent[at : at + batch] for at in range(0, self.count, batch)]
        self.blocks = [b"".join(block) for block in self.batches]


def _message(number: int, size: int) -> bytes:
    return (struct.pack("<II", number, number ^ 0x5A5A5A5A) * (size // 8 + 1))[:size]


class Check:
    """The receiver's view of the order: what comes next, how much came, what was wrong."""

    def __init__(self, messages: Messages, control: Control) -> None:
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


class Control:
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


class Clock:
    """The receiver's time: warm-up, measured part, end."""

    def __init__(self, seconds: float, control: Control) -> None:
        self._seconds, self._control = seconds, control
        self._from = self._until = 0.0
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def look(self, received: int) -> None:
        if self._last:
            return
        now = time.monotonic()
        if not self._from:  # it runs from the first messages on: connecting is not measured
            self._from, self._until = now + self._seconds / 5, now + self._seconds * 1.2
        elif self._first is None:
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


def _until_stopped(items: Sequence[_T], control: Control) -> Iterator[_T]:
    """Yield the items, for ever round, until the receiver has seen enough."""
    for item in itertools.cycle(items):
        if control.stopping:
            return
        yield item


def _chunks(messages: Messages) -> list[list[bytes]]:
    """Return the messages in pieces, after each of which a sender looks whether it is to stop."""
    return [messages.sent[at : at + _CHUNK] for at in range(0, messages.count, _CHUNK)]


def _send_single(sender: Sender, messages: Messages, control: Control) -> int:
    send, sent = sender.send, 0
    for chunk in _until_stopped(_chunks(messages), control):
        if sender.waits:
            for message in chunk:
                send(message)
        else:
            for message in chunk:
                while not send(message):
                    pass
        sent += len(chunk)
    return sent


def _send_batches(sender: Sender, messages: Messages, control: Control) -> int:
    send, sent, size = sender.send_batch, 0, messages.batch
    assert send is not None
    for batch in _until_stopped(messages.batches, control):
        done = send(batch)
        while done < size:
            done += send(batch[done:])
        sent += size
    return sent


def _send_arrays(sender: Sender, messages: Messages, control: Control) -> int:
    send, sent, count, size = sender.send_array, 0, messages.batch, messages.size
    assert send is not None
    for block in _until_stopped(messages.blocks, control):
        done = send(block)
        while done < count:
            done += send(memoryview(block)[done * size :])
        sent += count
    return sent


def _send_views(sender: Sender, messages: Messages, control: Control) -> int:
    lend, publish, sent = sender.lend, sender.publish, 0
    assert lend is not None and publish is not None
    for chunk in _until_stopped(_chunks(messages), control):
        for message in chunk:
            while (view := lend()) is None:
                pass
            view[:] = message
            publish()
        sent += len(chunk)
    return sent


def _receive_single(receiver: Receiver, check: Check, clock: Clock) -> None:
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


def receive_large(receiver: Receiver, check: Check, clock: Clock) -> None:
    """Messages too large to compare each of them in full: that would cost as much as passing them on."""
    receive = receiver.receive
    while True:
        message = receive()
        if message is None:
            message = check.patient(receive)
        if message is None or (not _fits(check, message) and check.misfit(message)):
            return
        clock.look(check.received)


def _fits(check: Check, message: Any) -> bool:
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


def _receive_batches(receiver: Receiver, check: Check, clock: Clock) -> None:
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


def _receive_arrays(receiver: Receiver, check: Check, clock: Clock) -> None:
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


def _receive_views(receiver: Receiver, check: Check, clock: Clock) -> None:
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


SENDS = {"single": _send_single, "batch": _send_batches, "array": _send_arrays, "view": _send_views}
RECEIVES = {"single": _receive_single, "batch": _receive_batches, "array": _receive_arrays, "view": _receive_views}


# ---- round trips and idling ----


def ping(sender: Sender, receiver: Receiver, messages: Messages, seconds: float, busy: bool) -> dict[str, Any]:
    """Send one message after the other and wait for each to come back; returns the figures."""
    trip = _Trips(sender, receiver, messages, busy)
    trip.block(1)  # apart from the rest: the first one may have to connect
    trip.timed(seconds / 5, trip.block, _BLOCK)
    blocks = trip.timed(seconds / 2, trip.block, _BLOCK)
    single = [passed for times in trip.timed(seconds / 2, trip.one_by_one, _BLOCK) for passed in times]
    assert sender.send is not None
    sender.send(messages.end)
    return {
        "trip_ns": statistics.median(blocks) / _BLOCK, **_distribution(single),
        "errors": {"lost": 0, "duplicate": 0, "misplaced": 0, "corrupt": trip.wrong},
    }  # fmt: skip


class _Trips:
    """Makes round trips; `wrong` counts replies that were not what had been sent."""

    def __init__(self, sender: Sender, receiver: Receiver, messages: Messages, busy: bool) -> None:
        self._send, self._receive = sender.send, _taking(receiver, busy)
        self._pairs = itertools.cycle(list(zip(messages.sent, messages.expected[: messages.count], strict=True)))
        self.wrong = 0

    def timed(self, seconds: float, make: Callable[[int], _T], n: int) -> list[_T]:
        """Call make(n) for at least so long; returns what it returned."""
        until = time.perf_counter() + seconds
        results = [make(n)]
        while time.perf_counter() < until:
            results.append(make(n))
        return results

    def block(self, n: int) -> int:
        """Return the nanoseconds that n round trips took."""
        send, receive, wrong = self._send, self._receive, 0
        before = time.perf_counter_ns()
        for message, expected in itertools.islice(self._pairs, n):
            if send(message) is False:
                raise MeasureError("an empty link had no room")
            while (back := receive()) is None:
                pass
            if back != expected:
                wrong += 1
        self.wrong += wrong
        return time.perf_counter_ns() - before

    def one_by_one(self, n: int) -> list[int]:
        """Return the nanoseconds of each of n round trips, the clock's own included."""
        send, receive, clock, wrong = self._send, self._receive, time.perf_counter_ns, 0
        times: list[int] = []
        before = clock()
        for message, expected in itertools.islice(self._pairs, n):
            send(message)
            while (back := receive()) is None:
                pass
            now = clock()
            times.append(now - before)
            before = now
            if back != expected:
                wrong += 1
        self.wrong += wrong
        return times


def _distribution(times: list[int]) -> dict[str, Any]:
    ordered = sorted(times)
    total = sum(ordered)
    return {
        "operations": len(ordered), "seconds": total / 1e9, "ns": total / len(ordered), "p50_ns": statistics.median(ordered),
        "p99_ns": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }  # fmt: skip


def echo(sender: Sender, receiver: Receiver, messages: Messages, busy: bool) -> None:
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


def idle(receiver: Receiver, messages: Messages, ready: Callable[[], None]) -> dict[str, Any]:
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
