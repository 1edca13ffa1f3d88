"""The drill itself notices what it is there to notice; and packets that are none are not read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tcp.drill import LATE, Drill, stream
from tests.tcp.packets import Options, Segment, flag_bits, flag_text, read, read_options


def answered(d: Drill) -> None:
    """A SYN has just been answered with S., length 0."""
    d.listen()
    d.inject("S", seq=0, mss=1460)


class TestExpect:
    @pytest.mark.parametrize(
        "wrong",
        [{"flags": "S"}, {"flags": "R."}, {"length": 1}, {"seq": 1}, {"ack": 0}, {"mss": 536}, {"sack": ((1, 2),)}, {"at": 0.5}],
        ids=str,
    )
    def test_a_difference(self, wrong: dict[str, Any]) -> None:
        with Drill() as d:
            answered(d)
            fields = {"flags": "S.", "seq": 0, "ack": 1} | wrong
            with pytest.raises(AssertionError, match=r"sent S\. seq 0 ack 1 .*expected"):
                d.expect(fields.pop("flags"), **fields)

    def test_nothing_comes(self) -> None:
        with Drill() as d:
            with pytest.raises(AssertionError, match="nothing was sent"):
                d.expect("S", within=(0, 5))
            assert d.now <= 5

    def test_a_moment_early_or_late(self) -> None:
        """A timer of one second: its tick late is in time, twice the tolerance is not, nor is any time before."""
        for off, good in ((0.0, True), (2 * LATE / 1e9, False), (-2 * LATE / 1e9, False)):
            d = Drill()
            d.connect()
            d.expect("S")
            if good:
                d.expect("S", at=1 + off)
            else:
                with pytest.raises(AssertionError):
                    d.expect("S", at=1 + off)

    def test_what_is_left_over(self) -> None:
        with pytest.raises(AssertionError, match="1 segments that nobody expected"), Drill() as d:
            answered(d)

    def test_something_instead_of_nothing(self) -> None:
        with Drill() as d:
            answered(d)
            with pytest.raises(AssertionError, match="expected nothing"):
                d.expect_nothing()
            d.collect()

    def test_the_failure_shows_the_exchange(self) -> None:
        with Drill() as d:
            answered(d)
            with pytest.raises(AssertionError, match=r"(?s)0\.000000 < S seq 0 mss 1460.*0\.000000 > S\. seq 0 ack 1"):
                d.expect("R")


class TestBytes:
    def test_received_ones_are_compared(self) -> None:
        with Drill() as d:
            s = d.established()
            d.inject("P.", seq=1, ack=1, data=b"something else")
            with pytest.raises(AssertionError, match="bytes received"):
                d.read(s)
            d.collect()

    def test_sent_ones_are_compared(self) -> None:
        with Drill() as d:
            s = d.established()
            s.send(b"something else")
            with pytest.raises(AssertionError, match="bytes sent"):
                d.expect("P.", length=14)

    def test_the_stream_does_not_repeat_itself_soon(self) -> None:
        parts = [stream(k * 1460, 1460) for k in range(100)]
        assert len(set(parts)) == 100
        assert stream(0, 4096)[1:] != stream(0, 4095)


class TestPackets:
    GOOD = Segment(1, 2, 3, 4, 5, 6, 18, 7, Options(1460, 7, True, (8, 9)), b"data")

    def test_round_trip(self) -> None:
        assert read(self.GOOD.pack()) == self.GOOD

    @pytest.mark.parametrize("at", [0, 2, 3, 9, 10, 20, 32, 36, -1])
    def test_a_changed_byte(self, at: int) -> None:
        packet = bytearray(self.GOOD.pack())
        packet[at] ^= 1
        with pytest.raises(ValueError):
            read(bytes(packet))

    def test_a_longer_or_shorter_one(self) -> None:
        for packet in (self.GOOD.pack() + b"\0", self.GOOD.pack()[:-1], b""):
            with pytest.raises(ValueError):
                read(packet)

    @pytest.mark.parametrize("raw", [b"\2\5\1\1", b"\2\0", b"\x08\x0a\0\0"])
    def test_an_option_that_overruns(self, raw: bytes) -> None:
        with pytest.raises(ValueError, match="overruns"):
            read_options(raw)

    @pytest.mark.parametrize("text", ["S", "S.", "F.", "FP.", "R", "R.", ".", "P.", "PU."])
    def test_flags(self, text: str) -> None:
        assert flag_text(flag_bits(text)) == text
