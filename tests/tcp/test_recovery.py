"""Congestion control and loss recovery without SACK: RFC 5681, 6582 (NewReno), 3042 (limited transmit), 6928 (initial window)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.tcp.drill import Drill

MSS = 1460
CUBIC_BETA = 0.7
"""RFC 9438 section 4.6."""


def segments(d: Drill, until: float | None = None) -> list[int]:
    """Numbers of the full segments that were sent, in segments from the start of the stream: 0 is the first."""
    sent = d.collect(until=until)
    assert all((x.seq - 1) % MSS == 0 for x in sent), sent
    return [(x.seq - 1) // MSS for x in sent]


def ack(d: Drill, n: int, **more: Any) -> None:
    """The peer has the first ``n`` segments."""
    d.inject(".", seq=1, ack=1 + MSS * n, **more)


def sending(d: Drill, **options: Any) -> Any:
    """A connection with a lot to send, whose first window is on its way: ten segments."""
    s = d.established(**options)
    d.write(s, 65536)
    return s


class TestInitialWindow:
    @pytest.mark.parametrize(("mss", "expected"), [(1460, 10), (1000, 10), (536, 10), (100, 10), (4000, 3), (8000, 2)])
    def test_of_rfc_6928(self, mss: int, expected: int) -> None:
        """RFC 6928 section 2: min(10 MSS, max(2 MSS, 14600)); whole segments of it here."""
        with Drill(mtu=9000) as d:
            s = d.established(mss=mss)
            d.write(s, 65536)
            sent = d.collect()
            assert len([x for x in sent if x.length == mss]) == expected
            assert sum(x.length for x in sent) <= min(10 * mss, max(2 * mss, 14600))

    @pytest.mark.parametrize("segments_", [1, 2, 4])
    def test_configured(self, segments_: int) -> None:
        """RFC 5681 section 3.1 allows less."""
        with Drill(initial_window=segments_) as d:
            sending(d)
            assert segments(d) == list(range(segments_))

    @pytest.mark.parametrize("active", [False, True])
    def test_one_segment_after_a_lost_syn(self, active: bool) -> None:
        """RFC 5681 section 3.1: if the SYN or SYN,ACK was lost, the initial window MUST be one segment."""
        with Drill() as d:
            if active:
                s = d.connect()
                d.collect(until=1.05)
                d.inject("S.", seq=0, ack=1, mss=MSS)
                d.expect(".", ack=1)
            else:
                d.listen()
                d.inject("S", seq=0, mss=MSS)
                d.collect(until=1.05)
                d.inject(".", seq=1, ack=1)
                s = d.accept()
            d.write(s, 65536)
            assert segments(d) == [0]


class TestSlowStart:
    @pytest.mark.parametrize("cc", ["newreno", "cubic"])
    def test_one_more_for_each_ack(self, cc: str) -> None:
        """RFC 5681 section 3.1, equation 2: cwnd += min(N, SMSS) per ACK of N new bytes; RFC 9406 section 4.2 lets it be N: an
        ACK of two segments releases three or four."""
        with Drill(cc=cc) as d:
            sending(d)
            assert segments(d) == list(range(10))
            highest = 10
            for n in (2, 4, 6, 8, 10):
                ack(d, n)
                sent = segments(d)
                assert len(sent) in (3, 4) and sent == list(range(highest, highest + len(sent)))
                highest += len(sent)

    @pytest.mark.parametrize("cc", ["newreno", "cubic"])
    def test_divided_acks_gain_nothing(self, cc: str) -> None:
        """RFC 5681 section 3.1: N is what was newly acknowledged: ten ACKs for a tenth each open the window by one segment
        together, not by ten."""
        with Drill(cc=cc) as d:
            sending(d)
            d.collect()
            for k in range(1, 11):
                d.inject(".", seq=1, ack=1 + 146 * k)
            assert segments(d) == [10, 11]

    def test_doubles_per_round_trip(self) -> None:
        """RFC 5681 section 3.1 with an ACK for every segment: 10, 20, 40 segments per round trip."""
        with Drill(cc="newreno", fifo=1 << 20) as d:
            s = d.established(wscale=7)
            d.write(s, 1 << 18)
            done, rounds = 0, []
            for _ in range(3):
                count = len(segments(d, until=d.now + 0.1))
                rounds.append(count)
                for _ in range(count):
                    done += 1
                    ack(d, done)
            assert rounds == [10, 20, 40]
            d.collect()

    def test_a_sender_that_is_idle_gains_nothing(self) -> None:
        """RFC 7661 section 3 (RFC 5681 section 4.1): a window that is not used does not grow."""
        with Drill(cc="newreno") as d:
            s = d.established()
            for k in range(30):
                d.write(s, 100)
                d.expect("P.", seq=1 + 100 * k, length=100)
                d.inject(".", seq=1, ack=101 + 100 * k)
            assert s.info()["cwnd"] == 10 * MSS


class TestCongestionAvoidance:
    def after_a_loss(self, d: Drill) -> Any:
        """NewReno with ten segments in flight; the first was lost and is recovered: cwnd = ssthresh = 5."""
        s = sending(d)
        assert segments(d) == list(range(10))
        for _ in range(3):
            ack(d, 0)
        d.collect()
        ack(d, 12)
        d.collect()
        return s

    def test_a_segment_per_round_trip(self) -> None:
        """RFC 5681 section 3.1, equation 3: about one SMSS per round trip."""
        with Drill(cc="newreno", fifo=1 << 20) as d:
            s = d.established(wscale=7)
            d.write(s, 1 << 19)
            d.collect()
            for _ in range(3):
                ack(d, 0)
            done = 12
            d.collect()
            ack(d, done)
            rounds = []
            for _ in range(5):
                flight = s.info()["unacked"] // MSS
                rounds.append(flight)
                d.collect(until=d.now + 0.1)
                for _ in range(flight):
                    done += 1
                    ack(d, done)
            d.collect()
            assert all(0 <= b - a <= 2 for a, b in itertools.pairwise(rounds))
            assert 3 <= rounds[-1] - rounds[0] <= 5

    def test_recovery_ends_with_the_threshold(self) -> None:
        """RFC 6582 section 3.2 step 3 (full acknowledgment): cwnd becomes ssthresh at most."""
        with Drill(cc="newreno") as d:
            s = self.after_a_loss(d)
            assert s.info()["recovery"] == "open"
            assert 2 * MSS <= s.info()["cwnd"] <= 5 * MSS + MSS

    def test_restart_after_idle(self) -> None:
        """RFC 5681 section 4.1: after an idle RTO the window is the restart window, min(IW, cwnd), again."""
        with Drill(cc="newreno") as d:
            s = d.established()
            d.write(s, 40 * MSS)
            got = 0
            while got < 40:
                got = max([got] + [x + 1 for x in segments(d)])
                ack(d, got, at=d.now + 0.1)
            assert s.info()["cwnd"] > 20 * MSS
            d.pause(30)
            d.write(s, 30 * MSS)
            assert len(d.collect()) == 10


class TestFastRetransmit:
    @pytest.mark.parametrize("cc", ["newreno", "cubic"])
    def test_three_duplicates(self, cc: str) -> None:
        """RFC 5681 section 3.2: the third duplicate ACK has the first segment sent again, without waiting for the timer."""
        with Drill(cc=cc) as d:
            sending(d)
            assert segments(d) == list(range(10))
            ack(d, 0)
            assert segments(d) == [10]  # limited transmit
            ack(d, 0)
            assert segments(d) == [11]
            ack(d, 0)
            assert segments(d) == [0]

    def test_two_are_not_enough(self) -> None:
        """RFC 5681 section 3.2: reordering also brings a few of them."""
        with Drill() as d:
            sending(d)
            d.collect()
            ack(d, 0)
            ack(d, 0)
            assert 0 not in segments(d)
            ack(d, 3)
            assert 0 not in segments(d)
            ack(d, 3)  # the count begins anew
            ack(d, 3)
            assert 3 not in segments(d)

    def test_limited_transmit(self) -> None:
        """RFC 3042 section 2: each of the first two duplicates lets one new segment go, cwnd unchanged, within the peer's
        window."""
        with Drill() as d:
            s = sending(d)
            d.collect()
            before = s.info()["cwnd"]
            ack(d, 0)
            assert segments(d) == [10]
            ack(d, 0)
            assert segments(d) == [11]
            assert s.info()["cwnd"] == before

    def test_limited_transmit_is_not_kept(self) -> None:
        """RFC 3042 section 2: what it lets go is beyond cwnd for the moment only: after the next ACK of two segments the
        window is twelve at most, of which ten are in flight."""
        with Drill(cc="newreno") as d:
            sending(d)
            d.collect()
            ack(d, 0)
            ack(d, 0)
            assert segments(d) == [10, 11]
            ack(d, 2)
            assert 1 <= len(segments(d)) <= 2

    def test_limited_transmit_within_the_peers_window(self) -> None:
        """RFC 3042 section 2: the receiver's advertised window allows it, or not."""
        with Drill() as d:
            sending(d, win=10 * MSS)
            d.collect()
            ack(d, 0)
            ack(d, 0)
            d.expect_nothing()

    @pytest.mark.parametrize(
        "change", [{"win": 60000}, {"length": 100}, {"flags": "F."}], ids=["another window", "with data", "with FIN"]
    )
    def test_what_is_no_duplicate(self, change: dict[str, Any]) -> None:
        """RFC 5681 section 2: (b) no data, (c) SYN and FIN off, (e) the same window; else it counts for nothing."""
        with Drill() as d:
            sending(d)
            d.collect()
            for k in range(4):
                fields = {"seq": 1, "ack": 1, **change}
                if "win" in change:
                    fields["win"] = 60000 - 1000 * k
                if "length" in change:
                    fields["seq"] = 1 + 100 * k
                d.inject(fields.pop("flags", "."), **fields)
            assert 0 not in segments(d)

    def test_without_anything_in_flight_there_are_none(self) -> None:
        """RFC 5681 section 2 (a): the receiver of the ACK has outstanding data."""
        with Drill() as d:
            s = d.established()
            for _ in range(5):
                ack(d, 0)
            d.write(s, MSS)
            assert segments(d) == [0]
            assert s.info()["dupacks"] == 0

    @pytest.mark.parametrize(("cc", "factor"), [("newreno", 0.5), ("cubic", CUBIC_BETA)])
    def test_the_threshold(self, cc: str, factor: float) -> None:
        """RFC 5681 section 3.1, equation 4: max(FlightSize / 2, 2 SMSS), limited transmit's segments not counted; RFC 9438
        section 4.6: 0.7 of the window."""
        with Drill(cc=cc) as d:
            s = sending(d)
            d.collect()
            for _ in range(3):
                ack(d, 0)
            assert abs(s.info()["ssthresh"] - factor * 10 * MSS) <= MSS
            d.collect()

    def test_the_threshold_is_two_segments_at_least(self) -> None:
        """RFC 5681 section 3.1, equation 4."""
        with Drill(cc="newreno", initial_window=3) as d:
            s = sending(d)
            d.collect()
            for _ in range(3):
                ack(d, 0)
            d.collect()
            assert s.info()["ssthresh"] == 2 * MSS

    def test_the_window_is_inflated_by_further_duplicates(self) -> None:
        """RFC 5681 section 3.2 steps 3 to 5: ssthresh + 3 SMSS, one more for each further duplicate: when half of the ten have
        been reported as arrived, each lets a new one go."""
        with Drill(cc="newreno") as d:
            sending(d)
            assert segments(d) == list(range(10))
            for _ in range(3):
                ack(d, 0)
            assert segments(d) == [10, 11, 0]
            sent = []
            for _ in range(8):
                ack(d, 0)
                sent.append(segments(d))
            new = [x for group in sent for x in group]
            assert new == list(range(12, 12 + len(new)))
            assert 4 <= len(new) <= 5 and all(len(group) <= 1 for group in sent)

    def test_a_partial_acknowledgment(self) -> None:
        """RFC 6582 section 3.2 step 3: the next segment that is missing is sent again at once, recovery goes on."""
        with Drill(cc="newreno") as d:
            s = sending(d)
            d.collect()
            for _ in range(3):
                ack(d, 0)
            assert 0 in segments(d)
            assert s.info()["cwnd"] == (5 + 3) * MSS
            ack(d, 3, at=0.15)
            assert segments(d)[0] == 3
            assert s.info()["cwnd"] == (5 + 3 - 3 + 1) * MSS  # less what was acknowledged, and a segment more
            assert s.info()["recovery"] == "fast"
            ack(d, 7, at=0.2)
            assert segments(d)[0] == 7
            ack(d, 12, at=0.25)
            assert s.info()["recovery"] == "open"
            d.collect()

    def test_each_hole_is_filled_once(self) -> None:
        """RFC 6582 section 3.2: what was retransmitted is not sent again by mere duplicates."""
        with Drill(cc="newreno") as d:
            sending(d)
            d.collect()
            for _ in range(9):
                ack(d, 0)
            assert segments(d).count(0) == 1

    def test_no_second_reduction_for_the_same_window(self) -> None:
        """RFC 6582 section 3.2 step 1: duplicates of an ACK that does not cover ``recover`` start nothing new."""
        with Drill(cc="newreno") as d:
            s = sending(d)
            d.collect()
            for _ in range(3):
                ack(d, 0)
            threshold = s.info()["ssthresh"]
            ack(d, 3)
            for _ in range(5):
                ack(d, 3)
            d.collect()
            assert s.info()["ssthresh"] == threshold and s.info()["recovery"] == "fast"


    def test_duplicates_of_the_last_window_start_nothing(self) -> None:
        """RFC 6582 section 3.2 step 1: after recovery, duplicates count only when the ACK covers more than ``recover``."""
        with Drill(cc="newreno") as d:
            s = sending(d)
            d.collect()
            for _ in range(3):
                ack(d, 0)
            assert segments(d) == [10, 11, 0]
            ack(d, 12, at=0.2)
            d.collect()
            for _ in range(4):
                ack(d, 12)
            assert 12 not in segments(d) and s.info()["recovery"] == "open"
            ack(d, 13, at=0.25)
            for _ in range(3):
                ack(d, 13)
            assert 13 in segments(d) and s.info()["recovery"] == "fast"

    def test_the_timer_starts_with_the_retransmission(self) -> None:
        """RFC 6675 section 6: the more conservative interpretation, an RTO from the retransmission on: data at 0.1 s, sent
        again at 0.35 s, so not before 0.65 s by the timer."""
        with Drill(cc="newreno") as d:
            sending(d)
            d.collect()
            for _ in range(3):
                ack(d, 0, at=0.35)
            assert 0 in segments(d)
            assert 0 not in segments(d, until=0.64)
            assert segments(d, until=0.66) == [0]


class TestTimeout:
    @pytest.mark.parametrize(("cc", "factor"), [("newreno", 0.5), ("cubic", CUBIC_BETA)])
    def test_the_loss_window_is_one_segment(self, cc: str, factor: float) -> None:
        """RFC 5681 section 3.1: cwnd no more than LW, 1 full-sized segment; the threshold as after fast retransmit."""
        with Drill(cc=cc) as d:
            s = sending(d)
            assert segments(d) == list(range(10))
            assert segments(d, until=0.45) == [0]
            assert s.info()["cwnd"] == MSS and s.info()["recovery"] == "loss"
            assert abs(s.info()["ssthresh"] - factor * 10 * MSS) <= MSS

    def test_slow_start_over_what_was_lost(self) -> None:
        """RFC 5681 section 3.1: after it slow start; what the peer is not known to have is sent again in order."""
        with Drill(cc="newreno") as d:
            sending(d)
            d.collect()
            assert segments(d, until=0.45) == [0]
            ack(d, 1, at=0.5)
            assert segments(d) == [1, 2]
            ack(d, 2, at=0.6)
            ack(d, 3, at=0.6)
            assert segments(d) == [3, 4, 5, 6]

    def test_an_ack_for_all_ends_it(self) -> None:
        """RFC 5681 section 3.1: what was acknowledged meanwhile is not sent again; however much that is, the window opens by
        one segment (RFC 3465 section 2.3)."""
        with Drill(cc="newreno") as d:
            s = sending(d)
            d.collect()
            assert segments(d, until=0.45) == [0]
            ack(d, 10, at=0.5)
            assert segments(d) == [10, 11]
            assert s.info()["recovery"] == "open"

    def test_a_second_timeout_does_not_halve_again(self) -> None:
        """RFC 5681 section 3.1: when a segment was already retransmitted by the timer, ssthresh is held constant."""
        with Drill(cc="newreno") as d:
            s = sending(d)
            d.collect(until=0.45)
            threshold = s.info()["ssthresh"]
            assert segments(d, until=1.05) == [0]
            assert s.info()["ssthresh"] == threshold

    def test_duplicates_after_it_start_no_fast_retransmit(self) -> None:
        """RFC 6582 section 3.2 steps 1 and 6: the ACKs that the retransmitted segments bring say nothing new."""
        with Drill(cc="newreno") as d:
            s = sending(d)
            d.collect(until=0.45)
            ack(d, 1, at=0.5)
            assert segments(d) == [1, 2]
            for _ in range(4):
                ack(d, 1)
            assert 1 not in segments(d)
            assert s.info()["recovery"] == "loss"

    def test_nor_do_duplicates_of_its_end(self) -> None:
        """RFC 6582 section 3.2 step 6: ``recover`` is the highest number sent when the timer expired."""
        with Drill(cc="newreno") as d:
            s = sending(d)
            d.collect(until=0.45)
            ack(d, 10, at=0.5)
            d.collect()
            for _ in range(4):
                ack(d, 10)
            assert 10 not in segments(d) and s.info()["recovery"] == "open"

    def test_a_lost_retransmission(self) -> None:
        """RFC 6298 rule 5.4: the timer also covers what was retransmitted fast."""
        with Drill(cc="newreno") as d:
            sending(d)
            d.collect()
            for _ in range(3):
                ack(d, 0)
            assert 0 in segments(d)
            assert segments(d, until=0.45).count(0) == 1
