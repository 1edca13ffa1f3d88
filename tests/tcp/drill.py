"""Time-stamped segment tests in the manner of packetdrill: one stack, a peer made of lines, a virtual clock.

    with Drill() as d:
        d.listen()
        d.inject("S", seq=0, mss=1460)
        d.expect("S.", seq=0, ack=1, mss=1460)
        d.inject(".", seq=1, ack=1, at=0.1)
        s = d.accept()

Sequence numbers are relative to each side's initial one: the peer's is chosen (``peer_isn``; by default 100 below the
wrap-around), the stack's is read from its SYN. Times are seconds since the start. Nothing is waited for: the clock goes
to where the test says, stopping at each timer on the way, and every segment is stamped with the time it came out at.

A segment that is sent has to be expected: an :meth:`~Drill.expect` looks at the oldest one, whose flags, length and time
must be exactly what it says, the rest as far as it is named; what is left at the end fails the test. Each is looked at as
a packet, too: lengths, checksums, size, and whether its bytes are those that were written at this place of the stream.

Only :class:`stackcore.tcp.Host` is used of the stack, and `tests.tcp.packets` to write and read packets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stackcore.tcp import Host, HostConfig
from tests.tcp.packets import Options, Segment, flag_bits, flag_text, read

S = 1_000_000_000
HOST, PEER = 0x0A000001, 0x0A000002
HOST_PORT, PEER_PORT = 80, 4000
TICK = 1 << 17
"""ns of one slot of the timer wheel: what a timer may be late by."""
LATE = 8 * TICK
"""A backoff is a chain of timers."""
START = 100 * S
"""The clock's reading at time 0."""
_MASK = 0xFFFFFFFF
_PATTERN = bytes((i * 7 + (i >> 8) * 13) & 0xFF for i in range(1 << 20))


def stream(offset: int, n: int) -> bytes:
    """The bytes that both sides send: ``n`` from ``offset`` of the stream on."""
    assert offset >= 0 and offset + n <= len(_PATTERN)
    return _PATTERN[offset : offset + n]


@dataclass(frozen=True)
class Sent:
    """A segment that the stack sent, numbers relative, ``time`` in seconds since the start."""

    time: float
    flags: str
    seq: int
    ack: int
    length: int
    win: int
    port: int
    """The peer's."""
    local_port: int
    mss: int | None
    wscale: int | None
    sack_ok: bool
    sack: tuple[tuple[int, int], ...]
    ts: tuple[int, int] | None
    ttl: int
    tos: int

    def __str__(self) -> str:
        extra = "".join(f" {n} {v}" for n in ("mss", "wscale", "ts") if (v := getattr(self, n)) is not None)
        extra += f" sack {self.sack}" * bool(self.sack) + " sack_ok" * self.sack_ok
        return f"{self.flags} seq {self.seq} ack {self.ack} length {self.length} win {self.win} port {self.port}{extra}"


def signed(number: int) -> int:
    """A 32-bit difference as a number around 0."""
    return (number + 0x80000000 & _MASK) - 0x80000000


class Drill:
    """One stack and its peer. Named arguments beside those below are :class:`HostConfig`'s."""

    def __init__(self, *, peer_isn: int = 0x100000000 - 100, **config: Any) -> None:
        self.host = Host(HostConfig(**{"addr": "10.0.0.1", "seed": 1} | config))
        self.mtu = config.get("mtu", 1500)
        self.peer_isn = peer_isn
        self.address = HOST
        """The stack's, which all it sends must come from."""
        self.clock = START
        self.win = 65535
        self.ts: bool = False
        """Segments carry timestamps, because both SYNs did."""
        self.last_tsval = 0
        self.host_isn: dict[int, int] = {}
        self.local_port = HOST_PORT
        self.listener: Any = None
        self.queue: list[Sent] = []
        self.log: list[str] = []
        self._written: dict[int, int] = {}
        self._read: dict[int, int] = {}

    def __enter__(self) -> Drill:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._flush()
            if self.queue:
                self.fail(f"{len(self.queue)} segments that nobody expected")

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return (self.clock - START) / S

    def fail(self, why: str) -> None:
        lines = "\n  ".join(self.log[-60:])
        raise AssertionError(f"{why}\n  {lines}")

    # ---- the clock ----

    def _flush(self) -> None:
        """Take what the stack sends now."""
        for _ in range(1000):
            packets = self.host.transmit(self.clock / S)
            if not packets:
                return
            for packet in packets:
                self._sent(packet)
        self.fail("the stack does not stop sending")

    def _step(self, limit: int) -> bool:
        """To the next timer, but not beyond ``limit``; False when there is none before."""
        at = self.host.next_timer()
        if at is None or round(at * S) >= limit:
            return False
        self.clock = max(round(at * S), self.clock + 1000)  # a timer may look again later; the clock goes on all the same
        self._flush()
        return True

    def run(self, until: float) -> None:
        """Let time pass; timers fire on the way."""
        limit = START + round(until * S)
        assert limit >= self.clock, f"time {until} is over, it is {self.now}"
        self._flush()
        for _ in range(1_000_000):
            if not self._step(limit):
                break
        else:
            self.fail("the stack's timers do not let time pass")
        self.clock = max(limit, self.clock)
        self._flush()

    def pause(self, seconds: float) -> None:
        self.run(self.now + seconds)

    # ---- segments ----

    def _sent(self, packet: bytes) -> None:
        try:
            p = read(packet)
        except ValueError as error:
            self.fail(f"the stack sent a packet that is none: {error}")
        assert len(packet) <= self.mtu and p.src == self.address, p
        if p.flags & 2:
            self.host_isn[p.dport] = p.seq
            self.local_port = p.sport
        isn = self.host_isn.get(p.dport, 0)
        seq, ack = signed(p.seq - isn), signed(p.ack - self.peer_isn) if p.flags & 16 else 0
        sack = tuple((signed(left - self.peer_isn), signed(right - self.peer_isn)) for left, right in p.options.sack)
        o = p.options
        sent = Sent(
            self.now, flag_text(p.flags), seq, ack, len(p.payload), p.wnd, p.dport, p.sport, o.mss, o.wscale, o.sack_ok, sack,
            o.ts, p.ttl, p.tos,
        )  # fmt: skip
        self.log.append(f"{self.now:12.6f} > {sent}")
        if p.payload and p.payload != stream(seq - 1, len(p.payload)):
            self.fail("the bytes sent are not those that were written there")
        if o.ts is not None:
            self.last_tsval = o.ts[0]
        self.queue.append(sent)

    def _timestamps(self, ts: tuple[int, int] | bool | None) -> tuple[int, int] | None:
        if isinstance(ts, tuple):
            return ts
        if ts is None:
            ts = self.ts
        return (1000 + int(self.now * 1000), self.last_tsval) if ts else None

    def build(
        self,
        flags: str,
        *,
        seq: int = 0,
        ack: int | None = None,
        length: int = 0,
        win: int | None = None,
        port: int = PEER_PORT,
        to: int | None = None,
        data: bytes | None = None,
        mss: int | None = None,
        wscale: int | None = None,
        sack_ok: bool = False,
        sack: tuple[tuple[int, int], ...] = (),
        ts: tuple[int, int] | bool | None = None,
        raw: bytes = b"",
        urgent: int = 0,
        src: int = PEER,
        dst: int = HOST,
    ) -> Segment:
        """A segment of the peer's.

        ``ack`` goes with the ``.`` in ``flags``. ``length`` bytes of the common stream, or ``data``, are its payload; ``win``
        is the field. ``ts``: (TSval, TSecr); True and False: with and without, whatever was agreed on.
        """
        assert ("." in flags) == (ack is not None), "an ACK flag and an acknowledgment number go together"
        isn = self.host_isn.get(port, 0)
        if data is None:
            data = stream(seq - 1 + flags.count("S"), length) if length else b""
        edges = tuple((left + isn, right + isn) for left, right in sack)
        return Segment(
            src, dst, port, self.local_port if to is None else to, self.peer_isn + seq,
            0 if ack is None else isn + ack, flag_bits(flags), self.win if win is None else win,
            Options(mss, wscale, sack_ok, self._timestamps(ts), edges, raw), data, urgent,
        )  # fmt: skip

    def inject(self, flags: str, *, at: float | None = None, **fields: Any) -> None:
        """The segment that :meth:`build` makes arrives at time ``at`` (default: now), and the stack answers."""
        if at is not None:
            self.run(at)
        p = self.build(flags, **fields)
        given = " ".join(f"{name} {value}" for name, value in fields.items())
        self.log.append(f"{self.now:12.6f} < {flags} {given}")
        self.packet(p.pack())

    def packet(self, packet: bytes) -> None:
        """Any packet arrives now."""
        self._flush()
        self.host.receive(packet, self.clock / S)
        self._flush()

    def expect(
        self, flags: str, *, length: int = 0, at: float | None = None, within: tuple[float, float] | None = None, **named: Any
    ) -> Sent:
        """The next segment that the stack sends has these flags and ``length``, and comes now; or ``at`` that time (a timer
        may be late by its tick); or ``within`` (first, last). ``named``: other fields of :class:`Sent` and their values."""
        self._flush()
        if at is not None:
            first, last = START + round(at * S), START + round(at * S) + LATE
        elif within is not None:
            first, last = START + round(within[0] * S), START + round(within[1] * S)
        else:
            first = last = self.clock
        for _ in range(1_000_000):
            if self.queue or not self._step(last + 1):
                break
        wanted = f"{flags} length {length} {named}, at {(first - START) / S:.6f} to {(last - START) / S:.6f}"
        if not self.queue:
            self.fail(f"nothing was sent; expected {wanted}")
        sent = self.queue.pop(0)
        time = START + round(sent.time * S)
        wrong = [f"{n} {getattr(sent, n)}" for n, value in named.items() if getattr(sent, n) != value]
        if sent.flags != flags or sent.length != length or not first <= time <= last or wrong:
            self.fail(f"sent {sent} at {sent.time:.6f}; expected {wanted}; wrong: {wrong or 'flags, length or time'}")
        return sent

    def expect_nothing(self, until: float | None = None) -> None:
        """No segment now, nor (with ``until``) up to that time."""
        if until is not None:
            self.run(until)
        self._flush()
        if self.queue:
            self.fail(f"sent {self.queue[0]} at {self.queue[0].time:.6f}; expected nothing")

    def collect(self, until: float | None = None) -> list[Sent]:
        """All that was sent and not looked at, up to now or ``until``."""
        if until is not None:
            self.run(until)
        self._flush()
        sent, self.queue = self.queue, []
        return sent

    # ---- sockets ----

    def listen(self, port: int = HOST_PORT, backlog: int = 16) -> Any:
        self.listener = self.host.socket()
        self.listener.listen(port, backlog)
        return self.listener

    def accept(self) -> Any:
        s, _ = self.listener.accept()
        return s

    def connect(self, port: int = PEER_PORT) -> Any:
        """A socket on its way to the peer; its SYN has not been looked at."""
        s = self.host.socket()
        try:
            s.connect(("10.0.0.2", port))
        except BlockingIOError:
            pass
        self._flush()
        return s

    def write(self, s: Any, n: int) -> int:
        """The next ``n`` bytes of the stream into the socket, as many as it takes: how many."""
        offset = self._written.get(id(s), 0)
        taken: int = s.send(stream(offset, n))
        self._written[id(s)] = offset + taken
        self._flush()
        return taken

    def read(self, s: Any, n: int = 1 << 20) -> int:
        """Read up to ``n`` bytes, which must be the stream's next: how many."""
        offset = self._read.get(id(s), 0)
        data = s.recv(n)
        assert data == stream(offset, len(data)), "the bytes received are not those that were sent"
        self._read[id(s)] = offset + len(data)
        self._flush()
        return len(data)

    # ---- the beginning of most tests ----

    def established(
        self,
        *,
        active: bool = False,
        rtt: float = 0.1,
        win: int = 65535,
        mss: int | None = 1460,
        wscale: int | None = None,
        sack: bool = False,
        ts: bool = False,
    ) -> Any:
        """A connection after its handshake, whose round trip took ``rtt``; the peer offered these options.

        ``win`` is the window field of the peer's segments from now on.
        """
        self.win = win
        options: dict[str, Any] = {"mss": mss, "wscale": wscale, "sack_ok": sack, "ts": ts}
        if active:
            s = self.connect()
            self.expect("S", seq=0)
            self.inject("S.", seq=0, ack=1, at=self.now + rtt, **options)
            self.ts = ts
            self.expect(".", seq=1, ack=1)
            return s
        if self.listener is None:
            self.listen()
        self.inject("S", seq=0, **options)
        self.ts = ts
        self.expect("S.", seq=0, ack=1)
        self.inject(".", seq=1, ack=1, at=self.now + rtt)
        return self.accept()
