"""Random, mutated and hostile packets: never a crash, everything dropped is counted once, and service goes on."""

from __future__ import annotations

import errno
import random
import select
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackcore.tcp import Host, HostConfig
from stackcore.tcp.config import packed_address
from stackcore.tcp.state import REASONS
from tests.tcp.fuzz import PORT, STRANGER, Victim, attack
from tests.tcp.packets import FLAGS, Options, Segment, read
from tests.tcp.pair import LEFT, RIGHT, Pair, readable

CORPUS = Path(__file__).with_name("corpus.txt")
FIN, SYN, RST, PSH, ACK, URG = (1 << FLAGS.index(letter) for letter in "FSRPAU")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 32), st.booleans(), st.booleans())
def test_attacks_do_no_harm(seed: int, timestamps: bool, sack: bool) -> None:
    attack(seed, 100, timestamps=timestamps, sack=sack, retries=3, syn_retries=2)


def test_the_fuzzer_reaches_every_check() -> None:
    """Otherwise it would prove little. A full table is another test's business."""
    seen = dict.fromkeys(REASONS, 0)
    for seed in range(30):
        for reason, count in attack(seed, 100, retries=3, syn_retries=2).host.stats()["dropped"].items():
            seen[reason] += count
    rare = {"no-connection-left", "no-slot-left", "pieces-full", "stray-full", "rx-full", "backlog-full"}
    assert {reason for reason, count in seen.items() if not count} <= rare


# ---- a corpus: one packet each, with what becomes of it ----


def corpus() -> list[Any]:
    """Lines of ``reason hex``; reason ``-``: not dropped. They are for Victim(seed=1), whose numbers are always the same."""
    lines = [line.split() for line in CORPUS.read_text().splitlines() if line and not line.startswith("#")]
    return [pytest.param(reason, bytes.fromhex(packet), id=f"{i}-{reason}") for i, (reason, packet) in enumerate(lines)]


@pytest.mark.parametrize(("reason", "packet"), corpus())
def test_corpus(reason: str, packet: bytes) -> None:
    victim = Victim(seed=1)
    before = victim.host.stats()["dropped"]
    victim.receive(packet)
    after = victim.host.stats()["dropped"]
    assert [name for name in REASONS if after[name] != before[name]] == ([] if reason == "-" else [reason])
    victim.pass_time(100.0)
    victim.serves()


# ---- attacks with a name ----


def segment(victim: Victim, flags: int, seq: int = 0, ack: int = 0, **fields: Any) -> bytes:
    """From the established peer; ``seq`` and ``ack`` relative to what the victim expects."""
    con = victim.established
    options = Options(ts=(int(con["ts_recent"]), 0)) if victim.pair.right.config.timestamps else Options()
    values = {
        "src": packed_address(LEFT), "dst": packed_address(RIGHT), "sport": int(con["remote_port"]), "dport": PORT,
        "seq": int(con["rcv_nxt"]) + seq & 0xFFFFFFFF, "ack": int(con["snd_nxt"]) + ack & 0xFFFFFFFF, "flags": flags,
        "options": options,
    }  # fmt: skip
    return Segment(**values | fields).pack()


def works(victim: Victim) -> None:
    """The established connection carries bytes both ways."""
    assert victim.client.recv(99) == b"from the server" and victim.server.recv(99) == b"from the client"
    victim.client.send(b"one")
    victim.server.send(b"two")
    victim.pair.run(2.0)
    assert (victim.server.recv(99), victim.client.recv(99)) == (b"one", b"two")


@pytest.mark.parametrize("flags", [RST, RST | ACK], ids=["rst", "rst-ack"])
@pytest.mark.parametrize("seq", [1, 1000, 60_000])
def test_a_blind_reset_inside_the_window_is_challenged(flags: int, seq: int) -> None:
    """RFC 5961 section 3.2: only the exact number resets."""
    victim = Victim(seed=1)
    (answer,) = victim.receive(segment(victim, flags, seq=seq))
    assert read(answer).flags == ACK and victim.host.stats()["challenges"] == 1
    assert victim.host.stats()["dropped"]["blind-reset"] == 1
    works(victim)


@pytest.mark.parametrize("seq", [-1, 70_000, 1 << 30])
def test_a_reset_outside_the_window_is_ignored(seq: int) -> None:
    victim = Victim(seed=1)
    assert victim.receive(segment(victim, RST, seq=seq)) == []
    works(victim)


@pytest.mark.parametrize("seq", [-1, 0, 1000, 1 << 30])
@pytest.mark.parametrize("flags", [SYN, SYN | ACK], ids=["syn", "syn-ack"])
def test_a_blind_syn_is_challenged(seq: int, flags: int) -> None:
    """RFC 5961 section 4.2."""
    victim = Victim(seed=1)
    (answer,) = victim.receive(segment(victim, flags, seq=seq))
    assert read(answer).flags == ACK
    works(victim)


@pytest.mark.parametrize("ack", [1, 1 << 20, 1 << 30, -(1 << 30)])
def test_data_with_an_impossible_ack_is_not_taken(ack: int) -> None:
    """RFC 5961 section 5.2."""
    victim = Victim(seed=1)
    (answer,) = victim.receive(segment(victim, ACK | PSH, ack=ack, payload=b"injected"))
    assert read(answer).flags == ACK and victim.host.stats()["dropped"]["bad-ack"] == 1
    works(victim)


def test_challenges_are_bounded() -> None:
    """RFC 5961 section 7: so many per second, whoever asks."""
    victim = Victim(seed=1, challenge_limit=10)
    answers = [victim.receive(segment(victim, RST, seq=1000)) for _ in range(50)]
    assert sum(len(answer) for answer in answers) == 10
    victim.pass_time(1.5)
    assert len(victim.receive(segment(victim, RST, seq=1000))) == 1
    works(victim)


def test_the_exact_reset_resets() -> None:
    victim = Victim(seed=1)
    victim.receive(segment(victim, RST))
    assert victim.server.poll() & select.POLLERR
    assert victim.server.getsockopt(1, 4) == errno.ECONNRESET


def test_a_syn_flood_is_bounded_and_passes() -> None:
    """RFC 4987 section 3: a bounded table. Who is connected stays so; when the flood is over, newcomers get in."""
    victim = Victim(seed=1, syn_retries=2)
    answers = 0
    for i in range(5000):
        source = packed_address("172.16.0.0") + i
        syn = Segment(src=source, dst=packed_address(RIGHT), sport=1 + i, dport=PORT, seq=i, flags=SYN)
        answers += len(victim.receive(syn.pack()))
    stats = victim.host.stats()
    assert answers == stats["half_open"] == 4
    assert stats["syns_dropped"] == 4996
    works(victim)
    victim.pass_time(30.0)
    assert victim.host.stats()["half_open"] == 0
    victim.serves()


def test_a_flood_of_connections_stops_at_the_backlog() -> None:
    """Complete handshakes whose owner does not accept: no more than the backlog holds, and none of them lost."""
    right = Host(HostConfig(addr=RIGHT, connections=64, seed=1))
    listener = right.socket()
    listener.listen(PORT, backlog=5)
    opened = 0
    for i in range(200):
        peer = {"src": packed_address("172.16.0.1") + i, "dst": packed_address(RIGHT), "sport": 9, "dport": PORT}
        right.receive(Segment(**peer, seq=100, flags=SYN).pack(), 0.0)
        for answer in right.transmit(0.0):
            right.receive(Segment(**peer, seq=101, ack=read(answer).seq + 1 & 0xFFFFFFFF, flags=ACK).pack(), 0.0)
            opened += 1
    assert opened == right.stats()["opened_passive"] == 5
    assert right.stats()["dropped"]["backlog-full"] == 195
    assert len([listener.accept() for _ in range(5)]) == 5


@pytest.mark.parametrize("mss", [0, 1, 65535])
def test_an_absurd_mss_is_bounded(mss: int) -> None:
    """A peer cannot make us send one header per byte, nor datagrams beyond the MTU."""
    right = Host(HostConfig(addr=RIGHT, seed=1))
    listener = right.socket()
    listener.listen(PORT)
    peer = {"src": packed_address(LEFT), "dst": packed_address(RIGHT), "sport": 9, "dport": PORT}
    right.receive(Segment(**peer, seq=100, flags=SYN, options=Options(mss=mss)).pack(), 0.0)
    (answer,) = right.transmit(0.0)
    right.receive(Segment(**peer, seq=101, ack=read(answer).seq + 1 & 0xFFFFFFFF, flags=ACK).pack(), 0.0)
    server, _ = listener.accept()
    server.send(bytes(10_000))
    packets = right.transmit(0.0)
    sizes = [len(read(packet).payload) for packet in packets]
    assert all(64 <= size <= 1460 for size in sizes) and sizes, "0 means that the peer named none: RFC 9293 MUST-15"


def test_overlapping_segments_give_each_byte_once() -> None:
    """Retransmissions cut at other places, with other contents: the first copy of a byte that could be read stays."""
    victim = Victim(seed=1)
    victim.server.recv(99)
    for seq, payload in ((10, b"KLMNO"), (0, b"abcdefgh"), (5, b"FGHIJKLM"), (3, b"xxxxxxxxxxxxxxxxxx")):
        victim.receive(segment(victim, ACK, seq=seq - victim_read(victim), payload=payload))
    got = victim.server.recv(99)
    assert len(got) == 21 and got.startswith(b"abcdefghIJ")


def victim_read(victim: Victim) -> int:
    """How far the victim's expectation has moved since the start of the test."""
    con = victim.established
    return int(con["rcv_nxt"] - con["irs"] - 1) - len(b"from the client")


def test_holes_without_end_do_not_exhaust_memory() -> None:
    """Every second byte: the list of pieces is bounded, what does not fit is counted, the stream goes on afterwards."""
    victim = Victim(seed=1)
    victim.server.recv(99)
    for i in range(100):
        victim.receive(segment(victim, ACK, seq=2 * i + 1, payload=b"x"))
    assert victim.host.stats()["dropped"]["pieces-full"] > 0
    victim.receive(segment(victim, ACK, payload=b"y" * 201))
    assert victim.server.recv(999) == b"y" * 201 or victim.host.stats()["bytes_in"] > 201


def test_a_window_beyond_the_fifo_is_not_believed() -> None:
    """A sender that ignores the window loses what does not fit, and only that."""
    victim = Victim(seed=1, fifo=1024)
    victim.server.recv(99)
    for _ in range(5):
        victim.receive(segment(victim, ACK, payload=bytes(500)))
    assert len(victim.server.recv(9999)) == 1024
    dropped = victim.host.stats()["dropped"]
    assert dropped["out-of-window"] + dropped["rx-full"] >= 1


@pytest.mark.parametrize("seed", range(3))
def test_noise_beside_a_transfer(seed: int) -> None:
    """Mutated packets of other connections and random bytes, while a stream goes through: it arrives as it was sent."""
    rng = random.Random(seed)
    pair = Pair(seed=seed)
    client, server = pair.connect()
    data = rng.randbytes(50_000)
    sent, got = 0, bytearray()

    def done() -> bool:
        nonlocal sent
        for host in (pair.left, pair.right):
            noise = Segment(
                src=packed_address(STRANGER), dst=packed_address(host.config.addr), sport=rng.randrange(1, 99),
                dport=rng.choice((PORT, client.getsockname()[1])), seq=rng.randrange(1 << 32), flags=rng.randrange(64),
            )  # fmt: skip
            pair.inject(host, noise.pack())
            pair.inject(host, rng.randbytes(60))
        if client.poll() & select.POLLOUT and sent < len(data):
            sent += client.send(data[sent : sent + 3000])
        if readable(server):
            got.extend(server.recv(9999))
        return len(got) == len(data)

    pair.drive(done)
    assert bytes(got) == data
