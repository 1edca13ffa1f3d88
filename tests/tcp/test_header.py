"""Headers: what is written, others read; what others write, we read; and nothing outside a datagram is looked at."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackcore.tcp import header
from stackcore.tcp.state import CONFIG, HEADROOM, REASONS, SEGMENT
from tests.tcp.packets import Options, Segment, internet_checksum, ip_datagram, with_checksum

ROOT = Path(__file__).resolve().parent.parent.parent
OURS, THEIRS, MASK = 0x0A000001, 0x0A000002, 0xFFFFFF00
STRIDE = HEADROOM + 2048
GOOD = -1
patient = settings(deadline=None)
"""The first example may have to wait for the compiler."""

u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
ports, payloads = st.integers(1, 0xFFFF), st.binary(max_size=1460)
blocks = st.lists(st.tuples(u32, u32), max_size=3).map(tuple)
syn_options = st.builds(
    Options, mss=st.none() | u16, wscale=st.none() | st.integers(0, 14), sack_ok=st.booleans(), ts=st.none() | st.tuples(u32, u32)
)
data_options = st.builds(Options, ts=st.none() | st.tuples(u32, u32), sack=blocks)
segments = st.builds(
    Segment, st.just(THEIRS), st.just(OURS), ports, ports, u32, u32, st.just(2) | st.just(18), u16, syn_options, payloads
) | st.builds(
    Segment, st.just(THEIRS), st.just(OURS), ports, ports, u32, u32, st.integers(0, 63).map(lambda f: f & ~2), u16,
    data_options, payloads,
)  # fmt: skip


def config(**changes: int) -> Any:
    cfg = np.zeros(1, CONFIG)
    for name, value in ({"addr": OURS, "mask": MASK, "checksum": 1, "ttl": 64} | changes).items():
        cfg[0][name] = value
    return cfg


def parse(packet: bytes, cfg: Any = None, fill: int = 0, length: int | None = None) -> tuple[int, dict[str, int]]:
    """The result for ``packet`` in a row that holds ``fill`` everywhere else, and what became of the segment record."""
    buf = np.full((2, STRIDE), fill, "u1")
    buf[1, HEADROOM : HEADROOM + len(packet)] = np.frombuffer(packet, "u1")
    seg = np.zeros(1, SEGMENT)
    before = buf.copy()
    found = header.parse((config() if cfg is None else cfg)[0], buf, 1, len(packet) if length is None else length, seg[0])
    assert (buf == before).all()
    return int(found), {name: int(seg[0][name]) for name in SEGMENT.names or ()}


def reason(packet: bytes, cfg: Any = None) -> str:
    found, _ = parse(packet, cfg)
    return "good" if found == GOOD else REASONS[found]


def segment(**changes: Any) -> Segment:
    return Segment(**({"src": THEIRS, "dst": OURS, "sport": 4000, "dport": 80, "payload": b"hello"} | changes))


def write(s: Segment, cfg: Any = None) -> bytes:
    """The same segment by the kernels under test, in a row of garbage."""
    buf = np.full((2, STRIDE), 0xA5, "u1")
    header.put_header(buf, 1, s.src, s.dst, s.sport, s.dport, s.seq, s.ack, s.flags, s.wnd, 7)
    o = s.options
    if s.flags & 2:
        options = header.options_syn(
            buf, 1, o.mss, -1 if o.wscale is None else o.wscale, int(o.sack_ok), int(o.ts is not None), *(o.ts or (0, 0))
        )
    else:
        options = header.option_ts(buf, 1, 0, *o.ts) if o.ts else 0
        if o.sack:
            options = header.option_sack(buf, 1, options, len(o.sack))
            for left, right in o.sack:
                options = header.option_block(buf, 1, options, left, right)
    at = HEADROOM + 40 + options
    buf[1, at : at + len(s.payload)] = np.frombuffer(s.payload, "u1")
    n = header.finish((config() if cfg is None else cfg)[0], buf, 1, options, len(s.payload))
    assert (buf[0] == 0xA5).all() and (buf[1, :HEADROOM] == 0xA5).all() and (buf[1, HEADROOM + n :] == 0xA5).all()
    return bytes(buf[1, HEADROOM : HEADROOM + n])


class TestChecksum:
    @patient
    @given(st.binary(max_size=1500), st.integers(0, 40), st.lists(u16, max_size=8))
    def test_it_is_that_of_rfc_1071(self, data: bytes, words: int, start: list[int]) -> None:
        """At any multiple of 4, of any length, with the pseudo header's sum on top."""
        buf = np.full((1, 2048), 0xEE, "u1")
        at = 4 * words
        buf[0, at : at + len(data)] = np.frombuffer(data, "u1")
        whole = struct.pack(f"!{len(start)}H", *start) + data
        assert header.checksum(buf, 0, at, len(data), sum(start)) == internet_checksum(whole)

    @pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 20, 1459, 1460, 65520])
    @pytest.mark.parametrize("byte", [0, 1, 0xFF])
    def test_carries_of_the_largest_sums(self, n: int, byte: int) -> None:
        buf = np.full((1, 65536), byte, "u1")
        assert header.checksum(buf, 0, 0, n, 0) == internet_checksum(bytes([byte]) * n)

    def test_rfc_1071_section_3_example(self) -> None:
        buf = np.zeros((1, 8), "u1")
        buf[0] = np.frombuffer(bytes.fromhex("0001f203f4f5f6f7"), "u1")
        assert header.checksum(buf, 0, 0, 8, 0) == 0xFFFF ^ 0xDDF2


class TestGood:
    @patient
    @given(segments)
    def test_what_the_model_writes_is_read(self, s: Segment) -> None:
        found, seg = parse(s.pack())
        assert found == GOOD
        o = s.options
        expected = {
            "src": s.src, "dst": s.dst, "sport": s.sport, "dport": s.dport, "seq": s.seq, "ack": s.ack, "flags": s.flags,
            "wnd": s.wnd, "data": HEADROOM + 40 + len(o.pack()), "len": len(s.payload), "mss": o.mss or 0,
            "wscale": -1 if o.wscale is None else o.wscale, "sack_ok": int(o.sack_ok), "has_ts": int(o.ts is not None),
            "tsval": (o.ts or (0, 0))[0], "tsecr": (o.ts or (0, 0))[1], "sacks": len(o.sack),
        }  # fmt: skip
        for i, (left, right) in enumerate(o.sack):
            expected |= {f"l{i}": left, f"r{i}": right}
        assert {name: seg[name] for name in expected} == expected

    @patient
    @given(segments)
    def test_what_is_written_dpkt_reads(self, s: Segment) -> None:
        if s.flags & 2 and s.options.mss is None:
            s = segment(flags=2, options=Options(mss=1460), payload=s.payload)
        packet = write(s)
        ip = dpkt.ip.IP(packet)
        tcp = ip.data
        assert isinstance(tcp, dpkt.tcp.TCP)
        assert (ip.len, ip.id, ip.df, ip.ttl, ip.hl) == (len(packet), 7, 1, 64, 5)
        assert (int.from_bytes(ip.src, "big"), int.from_bytes(ip.dst, "big")) == (s.src, s.dst)
        assert (tcp.sport, tcp.dport, tcp.seq, tcp.ack, tcp.flags, tcp.win) == (s.sport, s.dport, s.seq, s.ack, s.flags, s.wnd)
        assert tcp.urp == 0 and tcp.data == s.payload
        assert tcp.opts == s.options.pack()
        sums = ip.sum, tcp.sum
        ip.sum = tcp.sum = 0  # dpkt computes what is 0
        again = dpkt.ip.IP(bytes(ip))
        assert (again.sum, again.data.sum) == sums

    @patient
    @given(ports, ports, u32, u32, u16, payloads)
    def test_what_dpkt_writes_is_read(self, sport: int, dport: int, seq: int, ack: int, wnd: int, payload: bytes) -> None:
        tcp = dpkt.tcp.TCP(sport=sport, dport=dport, seq=seq, ack=ack, win=wnd, flags=24, data=payload)
        tcp.opts = b"\1\1\x08\x0a" + struct.pack("!II", ack, seq)
        tcp.off = 8
        src, dst = THEIRS.to_bytes(4, "big"), OURS.to_bytes(4, "big")
        ip = dpkt.ip.IP(src=src, dst=dst, p=6, data=tcp)
        ip.len = len(ip)
        found, seg = parse(bytes(ip))
        assert found == GOOD
        assert (seg["sport"], seg["dport"], seg["seq"], seg["ack"], seg["wnd"]) == (sport, dport, seq, ack, wnd)
        assert (seg["tsval"], seg["tsecr"], seg["len"]) == (ack, seq, len(payload))

    @patient
    @given(segments, st.binary(max_size=64))
    def test_padding_behind_the_datagram_is_not_data(self, s: Segment, padding: bytes) -> None:
        assert parse(s.pack() + padding) == parse(s.pack())

    @patient
    @given(st.integers(1, 10))
    def test_ip_options_are_skipped(self, words: int) -> None:
        body = segment().pack()[20:]
        found, seg = parse(ip_datagram(THEIRS, OURS, body, options=b"\1" * 4 * words))
        assert found == GOOD and seg["data"] == HEADROOM + 40 + 4 * words and seg["len"] == 5

    def test_numbers_are_cut_to_their_fields(self) -> None:
        """The engine's sequence numbers have 64 bits."""
        buf = np.zeros((1, STRIDE), "u1")
        header.put_header(buf, 0, THEIRS, OURS, 80, 81, (1 << 34) + 5, (1 << 33) - 1, 16, 70000, 1 << 20 | 3)
        n = header.finish(config()[0], buf, 0, 0, 0)
        found, seg = parse(bytes(buf[0, HEADROOM : HEADROOM + n]))
        assert found == GOOD
        assert (seg["seq"], seg["ack"], seg["wnd"]) == (5, 0xFFFFFFFF, 70000 & 0xFFFF)

    def test_the_tcp_checksum_may_be_somebody_elses(self) -> None:
        off = config(checksum=0)
        packet = write(segment(), off)
        assert packet[36:38] == b"\0\0"
        assert (reason(packet, off), reason(packet)) == ("good", "tcp-checksum")

    def test_reserved_bits_are_ignored(self) -> None:
        """RFC 9293 section 3.1: Rsrvd and the bits of ECN change nothing."""
        tcp = bytearray(segment().pack()[20:])
        tcp[12] |= 0x0F
        tcp[13] |= 0xC0
        found, seg = parse(ip_datagram(THEIRS, OURS, with_checksum(THEIRS, OURS, bytes(tcp))))
        assert found == GOOD and seg["flags"] == 16


def changed(at: int, value: int) -> bytes:
    """A good packet with one byte of TCP's header changed and its checksum made right again."""
    tcp = bytearray(segment().pack()[20:])
    tcp[at] = value
    return ip_datagram(THEIRS, OURS, with_checksum(THEIRS, OURS, bytes(tcp)))


BODY = segment().pack()[20:]
BAD = [
    ("short", b""),
    ("short", segment().pack()[:19]),
    ("short", ip_datagram(THEIRS, OURS, BODY[:19])),
    ("short", ip_datagram(THEIRS, OURS, b"")),
    ("version", ip_datagram(THEIRS, OURS, BODY, version=6)),
    ("version", ip_datagram(THEIRS, OURS, BODY, version=0)),
    ("length", ip_datagram(THEIRS, OURS, BODY, ihl=4)),
    ("length", ip_datagram(THEIRS, OURS, BODY, total=20 + len(BODY) + 1)),
    ("length", ip_datagram(THEIRS, OURS, BODY, total=65535)),
    ("length", ip_datagram(THEIRS, OURS, BODY, total=19)),
    ("length", ip_datagram(THEIRS, OURS, b"", ihl=15)),
    ("length", changed(12, 4 << 4)),
    ("length", changed(12, 0)),
    ("length", changed(12, 7 << 4)),
    ("ip-checksum", segment().pack()[:8] + b"\x41" + segment().pack()[9:]),
    ("fragment", ip_datagram(THEIRS, OURS, BODY, fragment=0x2000)),
    ("fragment", ip_datagram(THEIRS, OURS, BODY, fragment=1)),
    ("protocol", ip_datagram(THEIRS, OURS, BODY, protocol=17)),
    ("not-ours", segment(dst=OURS + 1).pack()),
    ("not-ours", segment(dst=0xE0000001).pack()),
    ("not-ours", segment(dst=0xFFFFFFFF).pack()),
    ("source", segment(src=OURS).pack()),
    ("source", segment(src=0).pack()),
    ("source", segment(src=0xE0000001).pack()),
    ("source", segment(src=0xFFFFFFFF).pack()),
    ("source", segment(src=OURS | 0xFF).pack()),
    ("source", segment(src=OURS & MASK).pack()),
    ("tcp-checksum", segment().pack()[:-1] + b"\0"),
]


def with_options(raw: bytes, syn: bool = True) -> bytes:
    """``raw`` fills the option bytes to the last one."""
    assert len(raw) % 4 == 0
    return segment(flags=2 if syn else 16, options=Options(raw=raw)).pack()


BAD += [
    ("options", with_options(raw))
    for raw in (
        b"\1\1\1\2", b"\2\0\0\0", b"\2\1\0\0", b"\2\5\5\xb4", b"\xfd\xff\0\0", b"\1\1\1\x08", b"\1\1\x08\x0a", b"\xfd\0\1\1",
        b"\x05\x0a\0\0\0\1\0\0", b"\1\1\1\xff", b"\x03\x09\0\0\0\0\0\0",
    )
]  # fmt: skip


class TestBad:
    @pytest.mark.parametrize(("why", "packet"), BAD, ids=[f"{why}-{i}" for i, (why, _) in enumerate(BAD)])
    def test_each_reason(self, why: str, packet: bytes) -> None:
        assert reason(packet) == why

    def test_every_reason_of_this_module_is_among_them(self) -> None:
        assert {why for why, _ in BAD} == set(REASONS[: REASONS.index("source") + 1])

    @pytest.mark.parametrize("length", [-1, -(2**62), 2**62, STRIDE, STRIDE - HEADROOM + 1])
    def test_a_length_that_the_row_does_not_have(self, length: int) -> None:
        """A lying length of the caller reaches nothing outside the row either."""
        packet = ip_datagram(THEIRS, OURS, BODY, total=60000)
        assert parse(packet, length=length)[0] in (REASONS.index("short"), REASONS.index("length"))

    @pytest.mark.parametrize(
        ("src", "addr", "mask", "verdict"),
        [
            (0x7F000001, 0x7F000001, 0xFF000000, "good"),
            (0x7F000002, 0x7F000001, 0xFF000000, "good"),
            (THEIRS, OURS, 0, "good"),
            (OURS ^ 1, OURS, 0xFFFFFFFE, "good"),
            (OURS ^ 2, OURS, 0xFFFFFFFF, "good"),
            (0x0AFFFFFF, OURS, 0xFF000000, "source"),
            (0x0AFFFFFF, OURS, MASK, "good"),
            (0x00000001, OURS, MASK, "source"),
        ],
    )
    def test_senders_by_net(self, src: int, addr: int, mask: int, verdict: str) -> None:
        assert reason(segment(src=src, dst=addr).pack(), config(addr=addr, mask=mask)) == verdict

    def test_address_0_is_any_but_never_many(self) -> None:
        anything = config(addr=0, mask=0)
        assert reason(segment(dst=0xC0A80009).pack(), anything) == "good"
        for many in (0xE0000001, 0xFFFFFFFF, 0):
            assert reason(segment(dst=many).pack(), anything) == "not-ours"
        assert reason(segment(src=OURS, dst=OURS).pack(), anything) == "source"


class TestOptions:
    """RFC 9293 section 3.2, MUST-4 to MUST-7."""

    @pytest.mark.parametrize("raw", [b"\xfd\4ab\2\4\5\xb4", b"\1\xfd\3x\2\4\5\xb4", b"\x22\2\1\1\2\4\5\xb4"])
    def test_unknown_ones_are_skipped(self, raw: bytes) -> None:
        found, seg = parse(with_options(raw))
        assert found == GOOD and seg["mss"] == 1460

    def test_nothing_counts_behind_the_end(self) -> None:
        found, seg = parse(with_options(b"\0\2\4\5\xb4\0\0\0"))
        assert found == GOOD and seg["mss"] == 0

    @pytest.mark.parametrize("raw", [b"\2\3\5\1", b"\3\4\7\1", b"\4\3\0\1", b"\x08\4ab", b"\5\4ab", b"\2\6\5\xb4\0\0\1\1"])
    def test_known_ones_of_another_length_are_skipped(self, raw: bytes) -> None:
        found, seg = parse(with_options(raw))
        assert found == GOOD
        assert (seg["mss"], seg["wscale"], seg["sack_ok"], seg["has_ts"], seg["sacks"]) == (0, -1, 0, 0, 0)

    def test_some_count_only_on_a_syn(self) -> None:
        raw = Options(mss=536, wscale=7, sack_ok=True).pack()
        found, seg = parse(with_options(raw, syn=False))
        assert found == GOOD and (seg["mss"], seg["wscale"], seg["sack_ok"]) == (0, -1, 0)

    @pytest.mark.parametrize("shift", [14, 15, 255])
    def test_window_scale_is_at_most_14(self, shift: int) -> None:
        """RFC 7323 section 2.3."""
        assert parse(with_options(Options(wscale=shift).pack()))[1]["wscale"] == 14

    def test_four_sack_blocks(self) -> None:
        blocks = ((1, 2), (3, 4), (5, 6), (0xFFFFFFFF, 7))
        found, seg = parse(segment(options=Options(sack=blocks)).pack())
        assert found == GOOD and seg["sacks"] == 4
        assert tuple((seg[f"l{i}"], seg[f"r{i}"]) for i in range(4)) == blocks

    def test_forty_bytes_of_them(self) -> None:
        assert parse(with_options(b"\1" * 40))[0] == GOOD


def mutated(seed: int) -> bytes:
    """A packet with something wrong: bytes changed, cut or added, checksums sometimes made right again."""
    r = random.Random(seed)
    syn = r.random() < 0.5
    options = Options(
        mss=r.choice([None, 0, 536, 1460]) if syn else None,
        wscale=r.choice([None, 0, 14, 15]) if syn else None,
        sack_ok=syn and r.random() < 0.5,
        ts=(r.getrandbits(32), r.getrandbits(32)) if r.random() < 0.5 else None,
        sack=() if syn else tuple((r.getrandbits(32), r.getrandbits(32)) for _ in range(r.randrange(4))),
    )
    s = segment(flags=2 if syn else r.randrange(64), seq=r.getrandbits(32), options=options, payload=r.randbytes(r.randrange(99)))
    packet = bytearray(s.pack())
    for _ in range(r.randrange(4)):
        packet[r.randrange(len(packet))] = r.choice([0, 1, 255, r.randrange(256)])
    if r.random() < 0.3:
        packet = packet[: r.randrange(len(packet) + 1)]
    if r.random() < 0.8 and len(packet) >= 40:
        packet[10:12] = b"\0\0"
        packet[10:12] = internet_checksum(bytes(packet[:20])).to_bytes(2, "big")
        packet[20:] = with_checksum(*struct.unpack_from("!II", packet, 12), bytes(packet[20:]))
    return bytes(packet)


class TestHostile:
    @settings(max_examples=300, deadline=None)
    @given(st.integers(0, 2**32), st.integers(0, 255), st.integers(0, 255))
    def test_bytes_outside_the_datagram_do_not_matter(self, seed: int, one: int, other: int) -> None:
        """And so are not read, whatever the lengths in it say."""
        packet = mutated(seed)
        assert parse(packet, fill=one) == parse(packet, fill=other)

    @settings(max_examples=300, deadline=None)
    @given(st.integers(0, 2**32))
    def test_what_is_accepted_lies_inside(self, seed: int) -> None:
        packet = mutated(seed)
        found, seg = parse(packet)
        if found == GOOD:
            assert HEADROOM + 40 <= seg["data"] <= seg["data"] + seg["len"] <= HEADROOM + len(packet)
            assert 0 <= seg["sacks"] <= 4 and -1 <= seg["wscale"] <= 14 and 0 <= seg["mss"] <= 0xFFFF
        else:
            assert 0 <= found < 10

    @patient
    @given(st.binary(max_size=200))
    def test_anything_at_all(self, packet: bytes) -> None:
        found, _ = parse(packet, fill=0x45)
        assert 0 <= found < 10  # a random datagram has no right checksum


def digest() -> str:
    """Of everything this module's kernels make of a few hundred packets. Interpreted, rows end with their datagram:
    a look behind it is an IndexError then."""
    total = hashlib.sha256()
    cfg, seg = config(), np.zeros(1, SEGMENT)
    counts: dict[int, int] = {}
    for seed in range(600):
        packet = mutated(seed)
        row = np.zeros((1, HEADROOM + len(packet)), "u1")
        row[0, HEADROOM:] = np.frombuffer(packet, "u1")
        found = int(header.parse(cfg[0], row, 0, len(packet), seg[0]))
        counts[found] = counts.get(found, 0) + 1
        total.update(repr((found, seg.tolist() if found == GOOD else None)).encode())
        s = segment(seq=seed << 23, payload=packet, flags=24, options=Options(ts=(seed, 1)))
        total.update(write(s))
        total.update(write(segment(flags=2, options=Options(1460, seed % 15, True, (seed, 0)))))
    return json.dumps([total.hexdigest(), sorted(counts.items())])


def test_compiled_and_interpreted_do_the_same() -> None:
    code = "from tests.tcp.test_header import digest; print(digest())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120,
        env=os.environ | {"STACKCORE_JIT": "0", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest()
    counts = dict(json.loads(done.stdout)[1])
    assert counts[GOOD] > 100 and len(counts) > 5
