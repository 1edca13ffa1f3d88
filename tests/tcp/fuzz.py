"""Packets that nobody sane would send, at a host that listens, has an established connection, and one half open.

Three sources: bytes at random; real packets with a few bytes changed (and mostly their checksums put right, so that they
come further than the first check); segments made to measure, whose numbers lie around those the connections expect. All
from one generator, so that a seed is a test case.
"""

from __future__ import annotations

import errno
import random
import struct
from typing import Any

from stackcore.tcp import Host, HostConfig
from stackcore.tcp.config import packed_address
from stackcore.tcp.state import REASONS
from tests.tcp.packets import Options, Segment, internet_checksum, read, with_checksum
from tests.tcp.pair import LEFT, RIGHT, Pair
from tests.tcp.sound import check_sound

PORT = 80
STRANGER = "10.0.0.77"
NOT_A_SEGMENTS_FATE = ("stray-full",)
"""Counted beside the reason why the segment itself was dropped."""


class Victim:
    """A host under attack, and what it looked like just before each packet."""

    def __init__(self, seed: int, **config: Any) -> None:
        self.pair = Pair(seed=seed, connections=16, half_open_limit=4, **config)
        self.host = self.pair.right
        self.client, self.server = self.pair.connect(PORT)
        self.listener = self.host.socket()
        self.listener.listen(PORT, backlog=4)
        self.client.send(b"from the client")
        self.server.send(b"from the server")
        self.pair.run(1.0)
        self.established = self.host.tcp.con[int(self.host.tcp.slot[self.server._slot]["con"])]
        self.seen = [packet for _, who, packet in self.pair.sent if who is self.pair.left]

    def drops(self) -> int:
        dropped = self.host.stats()["dropped"]
        return sum(dropped[reason] for reason in REASONS if reason not in NOT_A_SEGMENTS_FATE)

    def receive(self, packet: bytes) -> list[bytes]:
        """One packet; what the host answers. Nothing may be wrong with the host afterwards."""
        before, dropped = self.host.stats()["segments_in"], self.drops()
        self.host.receive(packet, self.pair.now)
        answers = self.host.transmit(self.pair.now)
        stats = self.host.stats()
        assert stats["segments_in"] == before + 1
        assert dropped <= self.drops() <= dropped + 1, "a segment is dropped for one reason"
        assert stats["half_open"] <= 4 and stats["connections"] <= 16
        for answer in answers:
            read(answer)  # raises when it is not perfect
        return answers

    def pass_time(self, seconds: float) -> None:
        """Timers run; the peer hears nothing."""
        stop = self.pair.now_ns + round(seconds * 1e9)
        for _ in range(1000):
            timer = self.host.next_timer()
            if timer is None or timer * 1e9 > stop:
                break
            self.host.transmit(timer)
        else:
            raise AssertionError("a timer fires for ever")
        self.pair.now_ns = stop

    def serves(self) -> None:
        """A newcomer gets a connection and an answer."""
        newcomer = Host(HostConfig(addr="10.0.0.99", seed=5), now=self.pair.now)
        socket = newcomer.socket()
        assert socket.connect_ex((RIGHT, PORT)) == errno.EINPROGRESS
        server = None
        now = self.pair.now
        for _ in range(100):
            now += 0.1
            for packet in newcomer.transmit(now):
                self.host.receive(packet, now)
            for packet in self.host.transmit(now):
                if read(packet).dst == packed_address("10.0.0.99"):
                    newcomer.receive(packet, now)
            while self.listener.poll():
                child, address = self.listener.accept()
                if address == socket.getsockname():
                    server = child
                else:
                    child.close()
            if server and socket.poll():
                break
        assert server is not None, self.pair.dump()
        socket.send(b"still there?")
        for packet in newcomer.transmit(now):
            self.host.receive(packet, now)
        assert server.recv(99) == b"still there?"
        server.abort()
        self.pair.now_ns = round(now * 1e9)


def repaired(packet: bytes) -> bytes:
    """With right checksums, as far as there is a place for them."""
    if len(packet) < 20:
        return packet
    header = 4 * (packet[0] & 15)
    if not 20 <= header <= len(packet) - 20:
        return packet
    ip = packet[:10] + b"\0\0" + packet[12:header]
    ip = ip[:10] + struct.pack("!H", internet_checksum(ip)) + ip[12:]
    src, dst = struct.unpack_from("!II", packet, 12)
    length = min(len(packet), struct.unpack_from("!H", packet, 2)[0])
    if length < header + 20:
        return ip + packet[header:]
    return ip + with_checksum(src, dst, packet[header:length]) + packet[length:]


def mutated(rng: random.Random, packet: bytes) -> bytes:
    """A few bytes changed, cut off or added."""
    changed = bytearray(packet)
    for _ in range(rng.choice((1, 1, 2, 4))):
        changed[rng.randrange(min(len(changed), 60))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    if rng.random() < 0.2:
        del changed[rng.randrange(1, len(changed)) :]
    if rng.random() < 0.1:
        changed += rng.randbytes(rng.randrange(1, 100))
    return repaired(bytes(changed)) if rng.random() < 0.8 else bytes(changed)


def _near(rng: random.Random, expected: int) -> int:
    """A number around the one that is expected, or anywhere."""
    far = rng.choice((0, 0, 0, 1, 2, 100, 1460, 65535, 65536, 1 << 20, 1 << 30, (1 << 31) - 1, 1 << 31))
    return (expected + rng.choice((-1, 1)) * far if rng.random() < 0.9 else rng.randrange(1 << 32)) & 0xFFFFFFFF


def _options(rng: random.Random, tsval: int, tsecr: int, expected: int) -> Options:
    if rng.random() < 0.2:
        return Options(raw=rng.randbytes(rng.randrange(1, 41)))
    ts = (_near(rng, tsval), _near(rng, tsecr)) if rng.random() < 0.8 else None
    edges = sorted(_near(rng, expected) for _ in range(2 * rng.choice((0, 0, 1, 2, 3))))
    sack = tuple(zip(edges[::2], edges[1::2], strict=True))
    if ts and len(sack) == 3 and rng.random() < 0.5:
        sack = sack[:2]
    return Options(
        mss=rng.choice((None, None, 0, 1, 536, 1460, 65535)),
        wscale=rng.choice((None, None, 0, 7, 14, 15, 255)) if len(sack) < 3 else None,
        sack_ok=rng.random() < 0.2 and len(sack) < 2,
        ts=ts,
        sack=sack if ts is None or len(sack) < 3 else sack[:2],
    )


def made_to_measure(rng: random.Random, victim: Victim) -> bytes:
    """A well-formed segment whose every number is a guess, good or bad."""
    con = victim.established
    known = rng.random() < 0.7
    src, sport = (LEFT, int(con["remote_port"])) if known else (STRANGER, rng.randrange(1, 4))
    flags = rng.choice((2, 16, 16, 24, 17, 4, 20, 18, 1, 0, 63, rng.randrange(64)))
    if known and flags & 4 and rng.random() < 0.8:
        flags &= ~4  # a reset that fits ends the connection: that should not be every run's fate
    options = _options(rng, int(con["ts_recent"]), 0, int(con["snd_una"]))
    if len(options.pack()) > 40:
        options = Options()
    return Segment(
        src=packed_address(src), dst=packed_address(RIGHT), sport=sport, dport=PORT,
        seq=_near(rng, int(con["rcv_nxt"])), ack=_near(rng, int(con["snd_una"])), flags=flags,
        wnd=rng.choice((0, 1, 100, 65535)), options=options, payload=rng.randbytes(rng.choice((0, 0, 1, 100, 1400))),
        urgent=rng.choice((0, 0, 1, 65535)),
    ).pack()  # fmt: skip


def attack(seed: int, packets: int, **config: Any) -> Victim:
    """``packets`` packets at one victim, time passing now and then. The victim is asked for service at the end."""
    rng = random.Random(seed)
    victim = Victim(seed, **config)
    for i in range(packets):
        kind = rng.random()
        if kind < 0.1:
            packet = rng.randbytes(rng.choice((0, 1, 19, 20, 39, 40, 100, 1500)))
        elif kind < 0.5:
            packet = mutated(rng, rng.choice(victim.seen))
        else:
            packet = made_to_measure(rng, victim)
        victim.receive(packet)
        if i % 16 == 15:
            check_sound(victim.host)
            victim.pass_time(rng.choice((0.01, 0.5, 3.0)))
    victim.pass_time(200.0)
    victim.serves()
    return victim


def fate(packet: bytes) -> str:
    """Why a fresh victim drops the packet; ``-``: it does not."""
    victim = Victim(seed=1)
    before = victim.host.stats()["dropped"]
    victim.receive(packet)
    after = victim.host.stats()["dropped"]
    reasons = [name for name in REASONS if after[name] != before[name]]
    return reasons[0] if reasons else "-"


def collect(per_fate: int = 3, tries: int = 4000) -> list[str]:
    """Lines of a corpus: some packets for each fate, the shortest of those that were found."""
    rng = random.Random(1)
    found: dict[str, set[bytes]] = {}
    victim = Victim(seed=1)
    for _ in range(tries):
        packet = mutated(rng, rng.choice(victim.seen)) if rng.random() < 0.5 else made_to_measure(rng, victim)
        found.setdefault(fate(packet), set()).add(packet)
    return [
        f"{name} {packet.hex()}" for name in sorted(found) for packet in sorted(found[name], key=lambda p: (len(p), p))[:per_fate]
    ]


if __name__ == "__main__":  # python -m tests.tcp.fuzz: a new corpus, when initial sequence numbers come out otherwise
    print("# What a host does with these packets (tests/tcp/test_fuzz.py): why it drops them, - if it does not.")
    print("\n".join(collect()))
