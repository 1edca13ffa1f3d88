"""Two hosts, a wire between them, and a clock that jumps: whatever happens on the way is a verb of :class:`Pair`.

    pair = Pair(seed=1)
    client, server = pair.connect()
    pair.lose(pair.left, count=1)       # the next packet that the left host sends
    client.send(b"hello")
    pair.drive(lambda: readable(server))

Time passes only between events, and every drive is bounded, in virtual time and in events: two hosts that talk for ever
without getting anywhere, or a timer that fires for ever, fail the test with both hosts' state and the last packets.
"""

from __future__ import annotations

import errno
import heapq
import random
import select
import socket as std
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stackcore.tcp import Host, HostConfig
from stackcore.tcp.sockets import Socket
from tests.tcp.packets import read

LEFT, RIGHT = "10.0.0.1", "10.0.0.2"
S = 10**9

Rule = Callable[[bytes], "list[tuple[int, bytes]] | None"]
"""What becomes of a packet: copies with their extra delay in ns; None: the rule has no opinion."""


@dataclass(frozen=True)
class Faults:
    """Probabilities of what happens to each packet by itself, and the times in seconds that go with it."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    reorder_delay: float = 0.02


class Stuck(AssertionError):
    """A drive that came to no end."""


class Pair:
    """``left`` and ``right``, which see nothing but each other; ``delay`` seconds each way.

    ``config`` holds for both; ``left_config`` and ``right_config`` override it.
    """

    def __init__(
        self,
        seed: int = 0,
        delay: float = 0.01,
        faults: Faults = Faults(),
        left_config: dict[str, Any] | None = None,
        right_config: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        both = HostConfig(**config)
        self.left = Host(replace(both, addr=LEFT, seed=2 * seed, **(left_config or {})))
        self.right = Host(replace(both, addr=RIGHT, seed=2 * seed + 1, **(right_config or {})))
        self.now_ns = 0
        self.delay_ns = round(delay * S)
        self.faults = faults
        self.random = random.Random(seed)
        self.rules: dict[Host, list[Rule]] = {self.left: [], self.right: []}
        self.sent: list[tuple[int, Host, bytes]] = []
        """Every packet that a host sent: when, who, what; also those that were lost."""
        self._air: list[tuple[int, int, Host, bytes]] = []
        self._count = 0

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self.now_ns / S

    def other(self, host: Host) -> Host:
        return self.right if host is self.left else self.left

    # ---- what happens on the way ----

    def lose(self, host: Host, count: int = 1, which: Callable[[bytes], bool] = lambda packet: True) -> None:
        """The next ``count`` packets from ``host`` that are ``which`` get lost."""
        self._next(host, count, which, lambda packet: [])

    def duplicate(self, host: Host, count: int = 1, which: Callable[[bytes], bool] = lambda packet: True) -> None:
        """They arrive twice."""
        self._next(host, count, which, lambda packet: [(0, packet), (0, packet)])

    def hold(
        self, host: Host, seconds: float, count: int = 1, which: Callable[[bytes], bool] = lambda packet: True
    ) -> None:
        """They arrive that much later, behind others."""
        self._next(host, count, which, lambda packet: [(round(seconds * S), packet)])

    def spoil(self, host: Host, count: int = 1, which: Callable[[bytes], bool] = lambda packet: True) -> None:
        """One bit of each is flipped."""
        self._next(host, count, which, lambda packet: [(0, self._flip(packet))])

    def cut(self) -> None:
        """Nothing arrives any more."""
        for host in (self.left, self.right):
            self.rules[host].append(lambda packet: [])

    def inject(self, host: Host, packet: bytes) -> None:
        """``host`` gets a packet that nobody sent."""
        host.receive(packet, self.now)

    def _next(self, host: Host, count: int, which: Callable[[bytes], bool], fate: Callable[[bytes], Any]) -> None:
        left = count

        def rule(packet: bytes) -> list[tuple[int, bytes]] | None:
            nonlocal left
            if left == 0 or not which(packet):
                return None
            left -= 1
            fated: list[tuple[int, bytes]] = fate(packet)
            return fated

        self.rules[host].append(rule)

    def _flip(self, packet: bytes) -> bytes:
        bit = self.random.randrange(8 * len(packet))
        spoiled = bytearray(packet)
        spoiled[bit >> 3] ^= 1 << (bit & 7)
        return bytes(spoiled)

    def _by_chance(self, packet: bytes) -> list[tuple[int, bytes]]:
        faults, chance = self.faults, self.random.random
        copies = []
        for _ in range(2 if chance() < faults.duplicate else 1):
            if chance() < faults.loss:
                continue
            late = round(faults.reorder_delay * S) if chance() < faults.reorder else 0
            copies.append((late, self._flip(packet) if chance() < faults.corrupt else packet))
        return copies

    def _send(self, host: Host, packet: bytes) -> None:
        self.sent.append((self.now_ns, host, packet))
        fates = next((fate for rule in self.rules[host] if (fate := rule(packet)) is not None), None)
        for extra, copy in self._by_chance(packet) if fates is None else fates:
            self._count += 1
            heapq.heappush(self._air, (self.now_ns + self.delay_ns + extra, self._count, self.other(host), copy))

    # ---- time ----

    def flush(self) -> None:
        """What the hosts want to send now is on its way."""
        for host in (self.left, self.right):
            for packet in host.transmit(self.now):
                self._send(host, packet)

    def next_event(self) -> int | None:
        """When something happens next, ns; None: never."""
        times = [self._air[0][0]] if self._air else []
        times += [round(timer * S) for host in (self.left, self.right) if (timer := host.next_timer()) is not None]
        return min(times) if times else None

    def step(self, until_ns: int | None = None) -> bool:
        """Send, jump to the next event, deliver; False when there was none (before ``until_ns``)."""
        self.flush()
        event = self.next_event()
        if event is None or (until_ns is not None and event > until_ns):
            return False
        self.now_ns = max(self.now_ns, event)
        while self._air and self._air[0][0] <= self.now_ns:
            _, _, host, packet = heapq.heappop(self._air)
            host.receive(packet, self.now)
        return True

    def drive(self, done: Callable[[], Any], limit: float = 600.0, events: int = 20_000) -> None:
        """Until ``done()``; Stuck when it is not after ``limit`` seconds, after ``events`` events, or ever."""
        stop = self.now_ns + round(limit * S)
        for _ in range(events):
            if done():
                return
            if not self.step(stop):
                break
        self.flush()
        if not done():
            raise Stuck(f"not done after {self.now:.3f} s\n{self.dump()}")

    def run(self, seconds: float, events: int = 20_000) -> None:
        """Let that much time pass, whatever happens meanwhile."""
        stop = self.now_ns + round(seconds * S)
        for _ in range(events):
            if not self.step(stop):
                self.now_ns = stop
                for host in (self.left, self.right):
                    host.advance(self.now)
                return
        raise Stuck(f"more than {events} events until {self.now:.3f} s\n{self.dump()}")

    def empty(self) -> bool:
        """Nothing is under way, and no connection is left on either side."""
        return not self._air and all(host.stats()["connections"] == 0 for host in (self.left, self.right))

    # ---- sockets ----

    def connect(self, port: int = 80, backlog: int = 8) -> tuple[Socket, Socket]:
        """A connection from left to right: both its sockets, established. The listener is closed again."""
        listener, client = self.right.socket(), self.left.socket()
        listener.listen(port, backlog)
        assert client.connect_ex((RIGHT, port)) == errno.EINPROGRESS
        self.drive(lambda: listener.poll() and client.poll())
        server, _ = listener.accept()
        listener.close()
        return client, server

    # ---- looking ----

    def segments(self, host: Host, since: int = 0) -> list[Any]:
        """The segments that ``host`` sent, from the ``since``-th packet of the record on."""
        return [read(packet) for _, who, packet in self.sent[since:] if who is host]

    def dump(self, last: int = 20) -> str:
        """Both hosts in words, and what they said last."""
        lines = []
        for name, host in (("left", self.left), ("right", self.right)):
            stats = host.stats()
            dropped = {reason: n for reason, n in stats.pop("dropped").items() if n}
            lines.append(f"{name}: {({k: v for k, v in stats.items() if v})} dropped {dropped} timer {host.next_timer()}")
            lines += [f"  {socket} {socket.info()}" for socket in host.sockets.values()]
        for when, host, packet in self.sent[-last:]:
            lines.append(f"{when / S:10.6f} {'->' if host is self.left else '<-'} {read(packet)}")
        return "\n".join(lines)


def readable(socket: Socket) -> bool:
    return bool(socket.poll() & select.POLLIN)


def read_all(socket: Socket, size: int = 1 << 20) -> bytes:
    """What can be received now."""
    parts = []
    while True:
        try:
            part = socket.recv(size)
        except BlockingIOError:
            return b"".join(parts)
        if not part:
            return b"".join(parts)
        parts.append(part)


class Talker:
    """Sends ``data`` through ``socket`` in the given chunks, then shuts down; receives in chunks until the end.

    ``pump`` does as much as it may now; ``finished`` is True when both directions have ended, or ``error`` is set.
    """

    def __init__(self, socket: Socket, data: bytes, send_sizes: list[int], recv_sizes: list[int]) -> None:
        self.socket = socket
        self.left = memoryview(data)
        self.got = bytearray()
        self.error: OSError | None = None
        self.ended = False
        self.shut = False
        self._send_sizes, self._recv_sizes = deque(send_sizes), deque(recv_sizes)

    @property
    def finished(self) -> bool:
        return self.error is not None or (self.ended and self.shut)

    def pump(self) -> None:
        try:
            self._send()
            self._receive()
        except OSError as error:
            self.error = error

    def _send(self) -> None:
        try:
            while self.left:
                self.left = self.left[self.socket.send(self.left[: self._send_sizes[0]]) :]
                self._send_sizes.rotate(-1)
        except BlockingIOError:
            return
        if not self.shut:
            self.socket.shutdown(std.SHUT_WR)
            self.shut = True

    def _receive(self) -> None:
        try:
            while not self.ended:
                part = self.socket.recv(self._recv_sizes[0])
                self._recv_sizes.rotate(-1)
                self.ended = not part
                self.got += part
        except BlockingIOError:
            return
