"""Initial sequence numbers and the table's hash: the keyed function itself, and what RFC 6528 wants from it."""

from __future__ import annotations

import struct
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackcore.tcp.isn import flow_hash, halfsiphash13, isn
from stackcore.tcp.state import CONFIG, S

M32 = 0xFFFFFFFF
u32, ports = st.integers(0, M32), st.integers(0, 0xFFFF)


def configuration(secret0: int = 0x12345678, secret1: int = 0x9ABCDEF0) -> Any:
    cfg = np.zeros(1, CONFIG)[0]
    cfg["secret0"], cfg["secret1"] = secret0, secret1
    return cfg


def rotated(x: int, n: int) -> int:
    return (x << n | x >> (32 - n)) & M32


def halfsiphash(key: bytes, message: bytes) -> int:
    """HalfSipHash-2-4 with 32 bits of output for a message of any length, as its authors' reference code defines it."""
    k0, k1 = struct.unpack("<2I", key)
    v = [k0, k1, 0x6C796765 ^ k0, 0x74656462 ^ k1]

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & M32
            v[1] = rotated(v[1], 5) ^ v[0]
            v[0] = rotated(v[0], 16)
            v[2] = (v[2] + v[3]) & M32
            v[3] = rotated(v[3], 8) ^ v[2]
            v[0] = (v[0] + v[3]) & M32
            v[3] = rotated(v[3], 7) ^ v[0]
            v[2] = (v[2] + v[1]) & M32
            v[1] = rotated(v[1], 13) ^ v[2]
            v[2] = rotated(v[2], 16)

    whole = len(message) // 4 * 4
    padded = message + bytes(3 - len(message) % 4) + bytes([len(message) & 0xFF])
    assert len(padded) == whole + 4
    for (word,) in struct.iter_unpack("<I", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[1] ^ v[3]


class TestHalfSipHash:
    def test_reference_vectors(self) -> None:
        """Key 00..07, messages 00.. of 0 to 13 bytes: ``vectors_hsip32`` of the authors' test program."""
        expected = [
            0x5B9F35A9, 0xB85A4727, 0x03A662FA, 0x04E7FE8A, 0x89466E2A, 0x69B6FAC5, 0x23FC6358, 0xC563CF8B,
            0x8F84B8D0, 0x79E706F8, 0x3479B094, 0x50300808, 0x2F87F057, 0xFF63E677,
        ]  # fmt: skip
        assert [halfsiphash(bytes(range(8)), bytes(range(n))) for n in range(14)] == expected
        assert halfsiphash13(0x03020100, 0x07060504, 0x03020100, 0x07060504, 0x0B0A0908, 0x0C) == expected[13]

    @settings(deadline=None)
    @given(st.tuples(u32, u32, u32, u32, u32), st.integers(0, 255))
    def test_any_thirteen_bytes(self, words: tuple[int, ...], last: int) -> None:
        message = struct.pack("<3I", *words[2:]) + bytes([last])
        assert halfsiphash13(*words, last) == halfsiphash(struct.pack("<2I", *words[:2]), message)


class TestIsn:
    @settings(deadline=None)
    @given(u32, ports, u32, ports, st.integers(0, 1 << 61), st.integers(0, 10**6))
    def test_the_clock_ticks_every_four_microseconds(
        self, laddr: int, lport: int, raddr: int, rport: int, now: int, ticks: int
    ) -> None:
        cfg = configuration()
        first, later = (isn(cfg, laddr, lport, raddr, rport, at) for at in (now, now + 4000 * ticks))
        assert 0 <= first <= M32
        assert (later - first) & M32 == ticks

    def test_a_later_incarnation_starts_above_the_earlier_one(self) -> None:
        """For half of the clock's 4.77 hours, as RFC 9293 section 3.4.1 has it."""
        cfg = configuration()
        start = isn(cfg, 1, 2, 3, 4, 0)
        assert all((isn(cfg, 1, 2, 3, 4, minutes * 60 * S) - start) & M32 < 1 << 31 for minutes in range(1, 143))

    @pytest.mark.parametrize("other", [(2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5), (3, 4, 1, 2), (1, 4, 3, 2)])
    def test_every_part_of_the_tuple_counts(self, other: tuple[int, int, int, int]) -> None:
        cfg = configuration()
        assert isn(cfg, 1, 2, 3, 4, 0) != isn(cfg, *other, 0)
        assert flow_hash(cfg, 1, 2, 3, 4) != flow_hash(cfg, *other)

    def test_both_halves_of_the_secret_count(self) -> None:
        secrets = [(1, 2), (1, 3), (2, 2), (2, 1)]
        assert len({isn(configuration(*s), 1, 2, 3, 4, 0) for s in secrets}) == 4
        assert len({flow_hash(configuration(*s), 1, 2, 3, 4) for s in secrets}) == 4

    def test_numbers_of_neighbouring_ports_do_not_give_each_other_away(self) -> None:
        """Differences between consecutive ports' numbers, what RFC 6528 section 3 is about, do not repeat."""
        cfg = configuration()
        numbers = [isn(cfg, 1, port, 3, 80, 0) for port in range(1024)]
        differences = {(b - a) & M32 for a, b in pairwise(numbers)}
        assert len(differences) == 1023


class TestFlowHash:
    def test_is_not_the_sequence_numbers_function(self) -> None:
        """A bucket that somebody can tell by its speed must say nothing about sequence numbers."""
        cfg = configuration()
        assert all(flow_hash(cfg, 1, port, 3, 80) != isn(cfg, 1, port, 3, 80, 0) for port in range(1000))

    def test_fills_buckets_evenly(self) -> None:
        """One server, 64 clients, 1024 consecutive ports each, in 4096 buckets of 16: chi-square within 5 standard deviations."""
        cfg = configuration()
        clients, client_ports = range(0x0A000100, 0x0A000140), range(49152, 50176)
        count = Counter(flow_hash(cfg, 0x0A000001, 80, client, port) & 4095 for client in clients for port in client_ports)
        chi_square = sum((count[bucket] - 16) ** 2 / 16 for bucket in range(4096))
        assert abs(chi_square - 4095) < 5 * (2 * 4095) ** 0.5
