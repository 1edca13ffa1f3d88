"""Selective acknowledgments on the wire: RFC 2018 (what the receiver reports) and RFC 6675 (what the sender makes of it)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tcp.drill import Drill

MSS = 1460


def edges(*ranges: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """SACK blocks for segments [first, last) of the stream."""
    return tuple((1 + MSS * left, 1 + MSS * right) for left, right in ranges)


def segments(d: Drill, until: float | None = None) -> list[int]:
    sent = d.collect(until=until)
    assert all((x.seq - 1) % MSS == 0 for x in sent), sent
    return [(x.seq - 1) // MSS for x in sent]


def ack(d: Drill, n: int, *ranges: tuple[int, int], **more: Any) -> None:
    """The peer has the first ``n`` segments and these ranges."""
    d.inject(".", seq=1, ack=1 + MSS * n, sack=edges(*ranges), **more)


def sending(d: Drill, **options: Any) -> Any:
    """Ten segments are on their way, and more waits."""
    s = d.established(sack=True, **options)
    d.write(s, 65536)
    assert segments(d) == list(range(10))
    return s


class TestReceiver:
    """RFC 2018 sections 3 and 4."""

    def test_a_hole_is_reported(self) -> None:
        with Drill() as d:
            d.established(sack=True)
            d.inject(".", seq=1001, ack=1, length=500)
            d.expect(".", ack=1, sack=((1001, 1501),))

    def test_the_latest_comes_first(self) -> None:
        """Section 4: the first block contains the segment that triggered the ACK; the others are repeated behind it."""
        with Drill() as d:
            d.established(sack=True)
            for seq in (1001, 3001, 5001):
                d.inject(".", seq=seq, ack=1, length=500)
            assert [x.sack[0] for x in d.collect()] == [(1001, 1501), (3001, 3501), (5001, 5501)]
            d.inject(".", seq=3501, ack=1, length=100)
            sent = d.expect(".", ack=1)
            assert sent.sack[0] == (3001, 3601)
            assert set(sent.sack) == {(1001, 1501), (3001, 3601), (5001, 5501)}

    def test_neighbours_are_one_block(self) -> None:
        with Drill() as d:
            d.established(sack=True)
            d.inject(".", seq=1001, ack=1, length=500)
            d.inject(".", seq=2001, ack=1, length=500)
            d.collect()
            d.inject(".", seq=1501, ack=1, length=500)
            d.expect(".", ack=1, sack=((1001, 2501),))

    @pytest.mark.parametrize(("ts", "most"), [(False, 4), (True, 3)])
    def test_as_many_as_fit(self, ts: bool, most: int) -> None:
        """Section 3: 8n+2 bytes of 40: four blocks, three beside timestamps."""
        with Drill() as d:
            d.established(sack=True, ts=ts)
            for k in range(1, 7):
                d.inject(".", seq=1 + 1000 * k, ack=1, length=10)
            sent = d.collect()
            assert [len(x.sack) for x in sent] == [min(k, most) for k in range(1, 7)]
            assert sent[-1].sack[0] == (6001, 6011)

    def test_what_is_acknowledged_is_not_reported(self) -> None:
        with Drill() as d:
            d.established(sack=True)
            d.inject(".", seq=1001, ack=1, length=500)
            d.inject(".", seq=3001, ack=1, length=500)
            d.collect()
            d.inject(".", seq=1, ack=1, length=1000)
            d.expect(".", ack=1501, sack=((3001, 3501),))
            d.inject(".", seq=1501, ack=1, length=1000)
            d.expect(".", ack=2501, sack=((3001, 3501),))
            d.inject(".", seq=2501, ack=1, length=500)
            d.expect(".", ack=3501, sack=())

    def test_on_data_too(self) -> None:
        """Section 4: SACK options SHOULD be in all ACKs that do not acknowledge the highest number in the queue."""
        with Drill() as d:
            s = d.established(sack=True)
            d.inject(".", seq=1001, ack=1, length=500)
            d.collect()
            d.write(s, 10)
            d.expect("P.", seq=1, length=10, sack=((1001, 1501),))

    def test_not_without_permission(self) -> None:
        """Section 2: never sent unless the peer's SYN had SACK-permitted."""
        with Drill() as d:
            d.established(sack=False)
            d.inject(".", seq=1001, ack=1, length=500)
            d.expect(".", ack=1, sack=())

    def test_turned_off(self) -> None:
        with Drill(sack=False) as d:
            d.listen()
            d.inject("S", seq=0, sack_ok=True)
            d.expect("S.", ack=1, sack_ok=False)
            d.inject(".", seq=1, ack=1)
            d.inject(".", seq=1001, ack=1, length=500)
            d.expect(".", ack=1, sack=())

    def test_across_the_end_of_the_numbers(self) -> None:
        """RFC 9293 section 3.4: a block may begin before and end after the wrap-around."""
        with Drill(peer_isn=0xFFFFFFFF - 1200) as d:
            d.established(sack=True)
            d.inject(".", seq=1001, ack=1, length=1000)
            d.expect(".", ack=1, sack=((1001, 2001),))


class TestSender:
    """RFC 6675."""

    def test_three_blocks_of_news(self) -> None:
        """Section 5: the third duplicate starts recovery with the first hole (limited transmit before, RFC 3042)."""
        with Drill() as d:
            s = sending(d)
            ack(d, 0, (1, 2))
            assert segments(d) == [10]
            ack(d, 0, (1, 3))
            assert segments(d) == [11]
            ack(d, 0, (1, 4))
            assert segments(d)[:1] == [0]
            assert s.info()["recovery"] == "fast"

    def test_much_news_in_one_ack(self) -> None:
        """Section 5, step 4 with IsLost (section 4): more than (DupThresh - 1) segments' worth of SACKed bytes above count as
        three duplicates."""
        with Drill() as d:
            sending(d)
            ack(d, 0, (1, 5))
            assert segments(d)[:1] == [0]

    def test_only_holes_are_sent_again(self) -> None:
        """Section 4, NextSeg rule 1: what is SACKed is not retransmitted, what is lost is, in order."""
        with Drill() as d:
            sending(d)
            ack(d, 0, (1, 2), (3, 10))
            sent = segments(d, until=0.15)
            assert [x for x in sent if x < 10] == [0, 2]
            ack(d, 3, (3, 10))
            ack(d, 10)
            assert all(x >= 10 for x in segments(d))

    def test_a_hole_near_the_end_is_not_lost_yet(self) -> None:
        """Section 4, IsLost: without DupThresh segments SACKed above it, a segment may only be late."""
        with Drill() as d:
            sending(d)
            ack(d, 0, (1, 8), (9, 10))
            assert 8 not in segments(d)[:1]

    def test_the_pipe_limits_what_is_sent(self) -> None:
        """Section 5, step C: while cwnd - pipe >= 1 SMSS. NewReno's cwnd is 5 after recovery began; 0 is lost, 6 of 10 are
        SACKed, 3 in flight: with the retransmission 4, so one more may go."""
        with Drill(cc="newreno") as d:
            s = sending(d)
            ack(d, 0, (1, 7))
            sent = segments(d)
            assert sent[0] == 0
            assert s.info()["cwnd"] == 5 * MSS
            assert len(sent) == 2

    def test_further_sacks_release_more(self) -> None:
        """Section 5, step C: each segment that has left the pipe lets one go."""
        with Drill(cc="newreno") as d:
            sending(d)
            ack(d, 0, (1, 7))
            count = len(segments(d))
            for k in (8, 9, 10):
                ack(d, 0, (1, k))
                assert len(segments(d)) == 1
            assert count == 2

    def test_the_end_of_recovery(self) -> None:
        """Section 5: an ACK of RecoveryPoint or above ends it; one below does not."""
        with Drill(cc="newreno") as d:
            s = sending(d)
            ack(d, 0, (1, 5))
            d.collect()
            ack(d, 9)
            assert s.info()["recovery"] == "fast"
            ack(d, 10)
            assert s.info()["recovery"] == "open"
            assert s.info()["cwnd"] <= 5 * MSS
            d.collect()

    def test_one_reduction_per_window(self) -> None:
        """Section 5: losses of the same window are repaired within the recovery; ssthresh is set once."""
        with Drill(cc="newreno") as d:
            s = sending(d)
            ack(d, 0, (1, 2), (3, 7))
            threshold = s.info()["ssthresh"]
            d.collect()
            ack(d, 2, (3, 8))
            ack(d, 2, (3, 9))
            ack(d, 2, (3, 10))
            d.collect()
            assert s.info()["ssthresh"] == threshold == 5 * MSS

    def test_each_hole_is_filled_once(self) -> None:
        """Section 4: HighRxt keeps a segment from being sent again by more of the same news."""
        with Drill() as d:
            sending(d)
            ack(d, 0, (1, 5))
            sent = segments(d)
            for k in range(6, 11):
                ack(d, 0, (1, k))
                sent += segments(d)
            assert sent.count(0) == 1

    def test_many_holes_in_one_round_trip(self) -> None:
        """Section 4, rule 1 over several holes: 0, 2 and 4 are lost, all are repaired before any timer."""
        with Drill(initial_window=20, fifo=1 << 17) as d:
            s = d.established(sack=True, wscale=2)
            d.write(s, 1 << 17)
            d.collect()
            ack(d, 0, (1, 2), (3, 4), (5, 20))
            assert [x for x in segments(d, until=0.11) if x < 20] == [0, 2, 4]
            ack(d, 20)
            d.collect()

    def test_sacks_without_news_are_no_duplicates(self) -> None:
        """Section 2: a duplicate ACK is one whose SACK blocks report something new."""
        with Drill() as d:
            s = sending(d)
            ack(d, 0, (1, 2))
            d.collect()
            for _ in range(5):
                ack(d, 0, (1, 2))
            d.collect()
            assert s.info()["recovery"] == "open"

    def test_rescue_retransmission(self) -> None:
        """Section 4, rule 4: at the end of the data, when the window allows more than is known lost, the last segment is sent
        once, so that a loss of the tail shows."""
        with Drill(cc="newreno") as d:
            s = d.established(sack=True)
            d.write(s, 10 * MSS)
            assert segments(d) == list(range(10))
            ack(d, 0, (1, 9))
            assert segments(d, until=0.12) == [0, 9]  # once, though there is room for more

    @pytest.mark.parametrize(
        "blocks",
        [
            ((5, 3),), ((0, 0),), ((30, 40),), ((-9, -5),), ((-9, 3),), ((9, 30),), ((1, 1), (2, 2)), ((0, 10),),
        ],
        ids=["backwards", "empty", "never sent", "old", "begins below", "ends beyond", "nothing", "everything"],
    )  # fmt: skip
    def test_blocks_that_cannot_be(self, blocks: tuple[tuple[int, int], ...]) -> None:
        """RFC 2018 section 5, RFC 5961 section 5 in spirit: nonsense is clipped or ignored; the transfer goes on and ends."""
        with Drill() as d:
            s = sending(d)
            for _ in range(3):
                ack(d, 0, *blocks)
            d.collect(until=0.2)
            d.inject(".", seq=1, ack=1 + s.info()["unacked"])
            d.collect(until=0.3)
            assert s.info()["state"] == "ESTABLISHED" and s.info()["recovery"] == "open"

    def test_a_timeout_keeps_what_was_sacked(self) -> None:
        """Section 5.1: the scoreboard may be kept; what is SACKed need not be sent again."""
        with Drill(cc="newreno") as d:
            sending(d)
            ack(d, 0, (5, 7))
            sent = segments(d, until=0.45)
            assert sent[-1] == 0
            ack(d, 1, (5, 7), at=0.5)
            got = segments(d)
            for n in (2, 3, 4):
                ack(d, n, (5, 7))
                got += segments(d)
            assert got[:4] == [1, 2, 3, 4] and not {5, 6} & set(got)

    def test_a_second_timeout_trusts_nothing(self) -> None:
        """RFC 2018 section 8: the receiver may have discarded what it had SACKed; in the end everything is sent again."""
        with Drill(cc="newreno") as d:
            sending(d)
            ack(d, 0, (1, 3))
            d.collect(until=0.45)
            d.collect(until=1.05)  # the second one
            got: list[int] = []
            for n in (1, 2, 3):
                ack(d, n)
                got += segments(d)
            assert {1, 2} <= set(got)

    def test_reneging_does_not_lose_data(self) -> None:
        """RFC 2018 section 8: data is only dropped from the buffer when the cumulative ACK covers it."""
        with Drill(fifo=16384) as d:
            s = d.established(sack=True)
            d.write(s, 16384)
            d.collect()
            ack(d, 0, (1, 10))
            d.collect()
            with pytest.raises(BlockingIOError):
                s.send(b"x")

    def test_limited_transmit_with_sack(self) -> None:
        """RFC 3042 section 2, RFC 6675 section 5 step 3: new segments for the first two duplicates."""
        with Drill() as d:
            sending(d)
            ack(d, 0, (1, 2))
            ack(d, 0, (1, 3))
            assert segments(d) == [10, 11]
