"""Congestion control: what every choice of ``--cc`` promises, and NewReno's and CUBIC's numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackcore.tcp import Host, HostConfig
from stackcore.tcp.congestion import CC, CONTROLS, cc_ack, cc_idle, cc_init, cc_loss, cc_recovered, cubic
from stackcore.tcp.congestion.reno import SSTHRESH_MAX
from stackcore.tcp.state import CONNECTION, FAST, LOSS, MS, OPEN, S

BASE = (1 << 32) + 12345
MSS = 1460
NAMES = list(CONTROLS)
C, BETA, ALPHA = 0.4, 0.7, 3 * (1 - 0.7) / (1 + 0.7)
"""RFC 9438 sections 4.1, 4.6 and 4.3."""


class Sender:
    """A sender that always has data: whatever the window allows is in flight when an acknowledgment comes."""

    def __init__(self, name: str, mss: int = MSS, cwnd: int = 0) -> None:
        self.con: Any = np.zeros(1, CONNECTION)[0]
        self.policy = CC[name].value
        self.now = 10 * S
        self.con["mss"] = mss
        self.con["cwnd"] = cwnd
        self.con["snd_una"] = self.con["snd_nxt"] = BASE
        cc_init(self.policy, self.con, self.now)

    @property
    def cwnd(self) -> int:
        return int(self.con["cwnd"])

    @property
    def ssthresh(self) -> int:
        return int(self.con["ssthresh"])

    @property
    def flight(self) -> int:
        return int(self.con["snd_nxt"] - self.con["snd_una"])

    def fill(self, part: float = 1.0) -> None:
        """Send until ``part`` of the window is in flight."""
        self.con["snd_nxt"] = max(int(self.con["snd_nxt"]), int(self.con["snd_una"]) + int(self.cwnd * part))

    def ack(self, n: int) -> None:
        n = min(n, self.flight)
        self.con["snd_una"] += n
        cc_ack(self.policy, self.con, n, int(self.con["srtt"]), self.now)

    def round_trip(self, rtt: int, per_ack: int = 2 * MSS, part: float = 1.0) -> None:
        """A window's worth of acknowledgments spread over ``rtt`` ns."""
        self.con["srtt"] = rtt
        self.fill(part)
        start, window, done = self.now, max(self.flight, 1), 0
        while done < window:
            step = min(per_ack, window - done)
            done += step
            self.now = start + rtt * done // window
            self.ack(step)
            self.fill(part)

    def lose(self) -> None:
        """Fast recovery, from its beginning to its end."""
        self.fill()
        cc_loss(self.policy, self.con, FAST, self.now)
        self.con["recovery"] = FAST
        self.con["snd_una"] = self.con["snd_nxt"]
        self.fill()
        cc_recovered(self.policy, self.con, self.now)
        self.con["recovery"] = OPEN

    def time_out(self, backoff: int = 0) -> None:
        self.con["backoff"] = backoff
        cc_loss(self.policy, self.con, LOSS, self.now)
        self.con["recovery"] = LOSS


@pytest.fixture(params=NAMES)
def sender(request: pytest.FixtureRequest) -> Sender:
    return Sender(request.param)


class TestEveryChoice:
    @pytest.mark.parametrize(("mss", "window"), [(536, 5360), (1460, 14600), (2000, 14600), (9000, 18000), (65495, 130990)])
    @pytest.mark.parametrize("name", NAMES)
    def test_initial_window(self, name: str, mss: int, window: int) -> None:
        """RFC 6928 section 2, and RFC 5681 section 3.1: the threshold is arbitrarily high."""
        sender = Sender(name, mss)
        assert (sender.cwnd, sender.ssthresh) == (window, SSTHRESH_MAX)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_window_that_was_chosen_stays(self, name: str) -> None:
        """One segment after a lost SYN, for example (RFC 5681 section 3.1)."""
        assert Sender(name, cwnd=MSS).cwnd == MSS

    @pytest.mark.parametrize("name", NAMES)
    def test_nothing_of_the_last_connection_is_left(self, name: str) -> None:
        used, fresh = Sender(name), Sender(name)
        for _ in range(5):
            used.round_trip(50 * MS)
            used.lose()
        used.con["cwnd"] = used.con["ssthresh"] = 0
        cc_init(used.policy, used.con, used.now)
        for field in ("cwnd", "ssthresh", "cc0", "cc1", "cc2", "cc3", "cc4", "cc5"):
            assert used.con[field] == fresh.con[field]

    def test_slow_start_doubles(self, sender: Sender) -> None:
        """RFC 5681 section 3.1, bytes counted (RFC 3465): delayed acknowledgments do not slow it down."""
        for _ in range(4):
            before = sender.cwnd
            sender.round_trip(50 * MS)
            assert sender.cwnd == 2 * before

    def test_one_acknowledgment_for_all_counts_as_much_as_many(self, sender: Sender) -> None:
        """A receiver that takes a window's segments in one vector answers once."""
        for _ in range(4):
            before = sender.cwnd
            sender.round_trip(50 * MS, per_ack=before)
            assert sender.cwnd == 2 * before

    def test_slow_start_ends_at_the_threshold(self, sender: Sender) -> None:
        sender.con["ssthresh"] = 15 * MSS
        sender.round_trip(50 * MS)
        assert 15 * MSS <= sender.cwnd <= 16 * MSS

    def test_a_vector_of_acknowledgments_counts_as_much_as_one_by_one(self, sender: Sender) -> None:
        """Nothing is sent between them, so the flight shrinks below the window; it had been full nevertheless."""
        sender.fill()
        for _ in range(5):
            sender.ack(2 * MSS)
        assert sender.cwnd == 20 * MSS

    def test_does_not_grow_when_the_application_does_not_fill_it(self, sender: Sender) -> None:
        """RFC 7661, RFC 9438 section 5.8; in slow start and after."""
        before = sender.cwnd
        for _ in range(20):
            sender.round_trip(50 * MS, part=0.5)
        assert sender.cwnd == before
        sender.lose()
        sender.con["snd_una"] = sender.con["snd_nxt"]
        before = sender.cwnd
        for _ in range(20):
            sender.round_trip(50 * MS, part=0.5)
        assert sender.cwnd == before

    def test_fast_recovery_shrinks_to_the_threshold(self, sender: Sender) -> None:
        sender.con["cwnd"] = 100 * MSS
        sender.fill()
        cc_loss(sender.policy, sender.con, FAST, sender.now)
        assert sender.cwnd == sender.ssthresh
        assert 50 * MSS <= sender.cwnd < 100 * MSS

    def test_limited_transmit_does_not_count(self, sender: Sender) -> None:
        """RFC 5681 section 3.2 step 2: what duplicate acknowledgments let out beyond the window."""
        sender.con["cwnd"] = 100 * MSS
        sender.fill()
        cc_loss(sender.policy, sender.con, FAST, sender.now)
        expected = sender.ssthresh
        other = Sender(NAMES[sender.policy], cwnd=100 * MSS)
        other.fill()
        other.con["snd_nxt"] += 2 * MSS
        cc_loss(other.policy, other.con, FAST, other.now)
        assert other.ssthresh == expected

    def test_what_was_in_flight_counts_not_the_window(self, sender: Sender) -> None:
        """RFC 5681 equation 4."""
        sender.con["cwnd"] = 100 * MSS
        sender.fill(0.1)
        cc_loss(sender.policy, sender.con, FAST, sender.now)
        assert sender.ssthresh < 10 * MSS

    def test_the_threshold_is_two_segments_at_least(self, sender: Sender) -> None:
        sender.fill(0.05)
        cc_loss(sender.policy, sender.con, FAST, sender.now)
        assert (sender.cwnd, sender.ssthresh) == (2 * MSS, 2 * MSS)

    def test_a_timeout_leaves_one_segment(self, sender: Sender) -> None:
        """RFC 5681 section 3.1, the loss window; the threshold is set at the first timeout of a segment only."""
        sender.con["cwnd"] = 100 * MSS
        sender.fill()
        sender.time_out()
        assert sender.cwnd == MSS
        threshold = sender.ssthresh
        assert 50 * MSS <= threshold < 100 * MSS
        sender.time_out(backoff=1)
        assert (sender.cwnd, sender.ssthresh) == (MSS, threshold)

    def test_slow_start_after_a_timeout(self, sender: Sender) -> None:
        """It begins in recovery, and the recovery's end does not disturb it."""
        sender.con["cwnd"] = 100 * MSS
        sender.fill()
        sender.time_out()
        sender.ack(MSS)
        assert sender.cwnd == 2 * MSS
        sender.ack(2 * MSS)
        assert sender.cwnd == 4 * MSS
        sender.con["snd_una"] = sender.con["snd_nxt"]
        cc_recovered(sender.policy, sender.con, sender.now)
        assert sender.cwnd == 4 * MSS

    def test_the_end_of_fast_recovery_permits_no_burst(self, sender: Sender) -> None:
        """RFC 6582 section 3.2 step 3 option 1."""
        sender.con["cwnd"] = 100 * MSS
        sender.fill()
        cc_loss(sender.policy, sender.con, FAST, sender.now)
        sender.con["recovery"] = FAST
        sender.con["snd_una"] = sender.con["snd_nxt"] - 3 * MSS
        cc_recovered(sender.policy, sender.con, sender.now)
        assert sender.cwnd == 4 * MSS

    def test_inflation_ends_with_fast_recovery(self, sender: Sender) -> None:
        """Without SACK the window stands for the flight and is inflated by duplicates (RFC 6582)."""
        sender.con["cwnd"] = 100 * MSS
        sender.fill()
        cc_loss(sender.policy, sender.con, FAST, sender.now)
        sender.con["recovery"] = FAST
        threshold = sender.ssthresh
        sender.con["cwnd"] += 40 * MSS
        cc_recovered(sender.policy, sender.con, sender.now)
        assert sender.cwnd == threshold

    def test_the_restart_window(self, sender: Sender) -> None:
        """RFC 5681 section 4.1: the initial window at most."""
        sender.con["cwnd"] = 100 * MSS
        cc_idle(sender.policy, sender.con, sender.now)
        assert sender.cwnd == 10 * MSS
        sender.con["cwnd"] = 4 * MSS
        cc_idle(sender.policy, sender.con, sender.now)
        assert sender.cwnd == 4 * MSS

    @settings(deadline=None, max_examples=100)
    @given(
        name=st.sampled_from(NAMES),
        mss=st.sampled_from([64, 536, 1460, 9000, 65495]),
        steps=st.lists(
            st.one_of(
                st.tuples(st.just("ack"), st.floats(0, 1), st.integers(0, 100 * S)),
                st.tuples(st.just("fill"), st.floats(0, 1), st.just(0)),
                st.tuples(st.sampled_from(["lose", "idle"]), st.just(0.0), st.integers(0, 100 * S)),
                st.tuples(st.just("timeout"), st.just(0.0), st.integers(0, 3)),
            ),
            max_size=60,
        ),
    )
    def test_bounds_hold_whatever_happens(self, name: str, mss: int, steps: list[tuple[str, float, int]]) -> None:
        sender = Sender(name, mss)
        sender.con["srtt"] = 50 * MS
        for what, part, extra in steps:
            before = sender.cwnd
            if what == "fill":
                sender.fill(part)
            elif what == "ack":
                sender.now += extra
                n = max(1, int(sender.flight * part))
                sender.ack(n)
                assert before <= sender.cwnd <= before + n + mss
            elif what == "lose":
                sender.now += extra
                sender.lose()
                assert sender.cwnd <= max(before, 2 * mss)
                assert sender.ssthresh >= 2 * mss
            elif what == "timeout":
                sender.time_out(extra)
            else:
                sender.now += extra
                cc_idle(sender.policy, sender.con, sender.now)
                assert sender.cwnd <= before
            assert mss <= sender.cwnd


def periodic_loss(sender: Sender, packets: int, rtt: int, losses: int) -> float:
    """Average window in segments over the last half of ``losses`` epochs, with one loss in every ``packets`` packets."""
    windows: list[float] = []
    for k in range(losses):
        sent = 0
        while sent < packets:
            window = sender.cwnd
            sender.round_trip(rtt, per_ack=max(2 * MSS, window // 16))
            sent += window // MSS
            if k >= losses // 2:
                windows.append(window / MSS)
        sender.con["cc0"] = 0  # the formulas are without fast convergence
        sender.lose()
    return float(np.mean(windows))


class TestNewReno:
    @pytest.fixture
    def sender(self) -> Sender:
        sender = Sender("newreno", cwnd=20 * MSS)
        sender.con["ssthresh"] = 20 * MSS
        return sender

    def test_a_segment_per_round_trip(self, sender: Sender) -> None:
        """RFC 5681 section 3.1, congestion avoidance."""
        for k in range(1, 11):
            sender.round_trip(50 * MS)
            assert abs(sender.cwnd - (20 + k) * MSS) <= MSS

    def test_halves(self, sender: Sender) -> None:
        sender.fill()
        cc_loss(sender.policy, sender.con, FAST, sender.now)
        assert sender.ssthresh == 10 * MSS

    def test_response_function(self, sender: Sender) -> None:
        """AVG_AIMD(1, 0.5) of RFC 9438 section 4.3: sqrt(3 / 2p) segments for a loss rate p."""
        assert periodic_loss(sender, 10_000, 50 * MS, 12) == pytest.approx(122.5, rel=0.05)


class TestCubic:
    def w_cubic(self, t: float, w_max: float, k: float) -> float:
        return C * (t - k) ** 3 + w_max

    def after_loss(self, w_max: int) -> Sender:
        """CUBIC in congestion avoidance, having lost at ``w_max`` segments for the first time."""
        sender = Sender("cubic", cwnd=w_max * MSS)
        sender.lose()
        assert sender.cwnd == w_max * MSS * 7 // 10
        return sender

    @settings(deadline=None)
    @given(st.floats(0, 1e15))
    def test_cube_root(self, x: float) -> None:
        root = cubic.cube_root(x)
        assert root == pytest.approx(x ** (1 / 3), rel=1e-12)

    def test_k(self) -> None:
        """Equation 2: cbrt(W_max (1 - beta) / C) seconds until the window is back."""
        sender = self.after_loss(1000)
        sender.round_trip(1 * MS)
        assert sender.con["cc2"] / S == pytest.approx((1000 * 0.3 / C) ** (1 / 3), rel=1e-6)

    @pytest.mark.parametrize("rtt", [100 * MS, 200 * MS])
    def test_follows_the_cubic_function(self, rtt: int) -> None:
        """Section 4.2: concave up to W_max, then convex; the target is a round trip ahead."""
        sender = self.after_loss(1000)
        k = (1000 * 0.3 / C) ** (1 / 3)
        sender.con["srtt"] = rtt
        sender.fill()
        sender.ack(1)  # the epoch begins
        start, seen = sender.now, []
        while (t := (sender.now - start) / S) < 2 * k:
            if t > 1:
                seen.append((t, sender.cwnd / MSS))
            sender.round_trip(rtt, per_ack=4 * MSS)
        assert len(seen) > 50
        for t, window in seen:
            slope = 3 * C * (t - k) ** 2  # segments per second; aiming a round trip ahead makes up for what the window lags
            assert window == pytest.approx(self.w_cubic(t, 1000, k), abs=0.4 * slope * rtt / S + 2)
        near = [window for t, window in seen if abs(t - k) < 1]
        assert all(995 <= window <= 1005 for window in near), "the plateau"

    def test_is_as_fast_as_reno_where_reno_is_faster(self) -> None:
        """Section 4.3: in short round trips the window grows by alpha = 0.53 segments a round trip, and by one from W_max on."""
        sender = self.after_loss(40)
        windows = []
        for _ in range(60):
            sender.round_trip(5 * MS)
            windows.append(sender.cwnd / MSS)
        below = [b - a for a, b in pairwise(windows) if b < 39]
        above = [b - a for a, b in pairwise(windows) if a > 41]
        assert np.mean(below) == pytest.approx(ALPHA, rel=0.05)
        assert np.mean(above) == pytest.approx(1, rel=0.05)

    def test_shrinks_by_beta(self) -> None:
        """Section 4.6."""
        sender = Sender("cubic", cwnd=1000 * MSS)
        sender.fill()
        cc_loss(sender.policy, sender.con, FAST, sender.now)
        assert sender.ssthresh == 700 * MSS

    def test_fast_convergence(self) -> None:
        """Section 4.7: a loss below the last W_max makes room for others, W_max = cwnd (1 + beta) / 2."""
        sender = self.after_loss(1000)
        assert sender.con["cc0"] == 1000 * MSS
        sender.lose()
        assert sender.con["cc0"] == 700 * MSS * 17 // 20
        sender.con["cwnd"] = 800 * MSS
        sender.lose()
        assert sender.con["cc0"] == 800 * MSS

    def test_after_a_timeout(self) -> None:
        """Section 4.8: beta for the threshold; the next epoch has K = 0 and W_max = the window at its beginning."""
        sender = self.after_loss(1000)
        sender.fill()
        sender.time_out()
        assert sender.ssthresh == 490 * MSS
        while sender.cwnd < sender.ssthresh:
            sender.round_trip(50 * MS)
        sender.round_trip(50 * MS)
        assert sender.con["cc2"] == 0
        assert sender.con["cc0"] == pytest.approx(490 * MSS, rel=0.02)

    def test_never_more_than_half_again_in_a_round_trip(self) -> None:
        """Section 4.2, the bound on the target."""
        sender = self.after_loss(1000)
        sender.round_trip(100 * MS)
        sender.now += 1000 * S
        before = sender.cwnd
        sender.round_trip(100 * MS, per_ack=before)
        assert sender.cwnd <= 1.5 * before

    def test_time_without_enough_data_does_not_count(self) -> None:
        """Section 5.8: the window after a pause is what it would be without it."""

        def windows(pause: bool) -> list[int]:
            sender = self.after_loss(1000)
            seen = []
            for k in range(40):
                if pause and k == 20:
                    sender.con["snd_una"] = sender.con["snd_nxt"]
                    for _ in range(100):
                        sender.round_trip(100 * MS, part=0.3)
                sender.round_trip(100 * MS, per_ack=4 * MSS)
                seen.append(sender.cwnd)
            return seen

        assert windows(True) == pytest.approx(windows(False), rel=0.005)

    @pytest.mark.parametrize(
        ("rtt", "packets", "average"),
        [
            (100 * MS, 1000, 38),
            (100 * MS, 10_000, 187),
            (100 * MS, 100_000, 1054),
            (10 * MS, 10_000, 120),
            (10 * MS, 100_000, 379),
        ],
    )
    def test_response_function(self, rtt: int, packets: int, average: int) -> None:
        """Average windows for a loss in so many packets: tables 1 and 2 of section 5.1, the columns for C = 0.4.

        It starts where the formula says that it ends, because the plateau makes the way there long.
        """
        sender = Sender("cubic", cwnd=round(average / 0.925) * MSS)
        sender.lose()
        assert periodic_loss(sender, packets, rtt, 20) == pytest.approx(average, rel=0.08)


@pytest.mark.parametrize("name", NAMES)
def test_slow_start_when_acknowledgments_come_in_one_vector(name: str) -> None:
    """Between two hosts: the sender sees all of a round trip's acknowledgments before it sends again, and doubles."""
    sending, receiving = (Host(HostConfig(addr=f"10.0.0.{i}", seed=i, cc=name)) for i in (1, 2))
    listener, client = receiving.socket(), sending.socket()
    listener.listen(80)
    client.connect_ex(("10.0.0.2", 80))
    for now in (0.0, 0.01, 0.02):
        for source, other in ((sending, receiving), (receiving, sending)):
            for packet in source.transmit(now):
                other.receive(packet, now)
    client.send(bytes(65536))
    acknowledgments = []
    for k, packet in enumerate(sending.transmit(0.03)):
        receiving.receive(packet, 0.03)
        if k % 2:
            acknowledgments += receiving.transmit(0.03)
    assert len(acknowledgments) == 5
    for packet in acknowledgments:
        sending.receive(packet, 0.04)
    con = sending.tcp.con[sending.tcp.con["cwnd"].argmax()]
    assert con["cwnd"] == 20 * con["mss"]
