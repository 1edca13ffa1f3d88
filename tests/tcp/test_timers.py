"""The retransmission timer (RFC 6298), giving up (RFC 9293 section 3.8.3), and keep-alive (section 3.8.4)."""

from __future__ import annotations

import socket as std
from typing import Any

import pytest

from tests.tcp.drill import Drill


def lost(d: Drill, s: Any, n: int = 100, count: int = 1) -> list[float]:
    """When ``n`` bytes that nobody acknowledges are sent again: seconds after the first time."""
    d.write(s, n)
    first = d.collect()
    assert sum(x.length for x in first) == n
    until = 0.0
    times: list[float] = []
    while len(times) < count:
        until += 0.5
        times += [x.time - first[0].time for x in d.collect(until=first[0].time + until)]
    return times[:count]


class TestRto:
    @pytest.mark.parametrize(
        ("rtt", "rto"),
        [(0.001, 0.2), (0.05, 0.2), (0.1, 0.3), (0.2, 0.6), (0.5, 1.5), (0.9, 2.7)],
    )
    @pytest.mark.parametrize("active", [False, True])
    def test_first_measurement(self, rtt: float, rto: float, active: bool) -> None:
        """RFC 6298 rules 2.2, 2.3, 2.4: SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 RTTVAR = 3 R, not below the minimum (0.2 s
        here; the RFC's SHOULD is 1 s, which ``rto_min`` gives)."""
        with Drill() as d:
            s = d.established(rtt=rtt, active=active)
            assert lost(d, s) == pytest.approx([rto], abs=0.001)

    def test_the_rfcs_minimum_can_be_had(self) -> None:
        """RFC 6298 rule 2.4: at least 1 second."""
        with Drill(rto_min=1.0) as d:
            s = d.established(rtt=0.05)
            assert lost(d, s) == pytest.approx([1.0], abs=0.001)

    def test_further_measurements(self) -> None:
        """RFC 6298 rule 2.3: RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R'|, SRTT = 7/8 SRTT + 1/8 R', in this order."""
        with Drill() as d:
            s = d.established(rtt=0.4)
            srtt, rttvar, at, seq = 0.4, 0.2, 0.4, 1
            for r in (0.5, 0.3, 0.45):
                d.write(s, 10)
                d.expect("P.", seq=seq, length=10)
                at, seq = at + r, seq + 10
                d.inject(".", seq=1, ack=seq, at=at)
                rttvar = 0.75 * rttvar + 0.25 * abs(srtt - r)
                srtt = 0.875 * srtt + 0.125 * r
            assert lost(d, s) == pytest.approx([srtt + 4 * rttvar], abs=0.002)

    def test_backoff(self) -> None:
        """RFC 6298 rule 5.5, RFC 9293 section 3.8.1 (MUST-19): doubled each time, up to the maximum."""
        with Drill(rto_max=2.0) as d:
            s = d.established(rtt=0.1)
            assert lost(d, s, count=6) == pytest.approx([0.3, 0.9, 2.1, 4.1, 6.1, 8.1], abs=0.002)

    def test_sixty_seconds_at_most_by_default(self) -> None:
        """RFC 6298 rule 2.5: a maximum of at least 60 seconds."""
        with Drill(retries=20) as d:
            s = d.established(rtt=0.9)
            times = lost(d, s, count=8)
            assert times[-1] - times[-2] == pytest.approx(60, abs=0.01)

    def test_karn(self) -> None:
        """RFC 9293 section 3.8.1 (MUST-18), RFC 6298 section 3: no sample from a segment that was sent twice; the backed-off
        timeout stays until there is one."""
        with Drill() as d:
            s = d.established(rtt=0.1)
            assert lost(d, s, count=2) == pytest.approx([0.3, 0.9], abs=0.002)
            d.inject(".", seq=1, ack=101, at=1.2)
            assert s.info()["srtt"] == pytest.approx(0.1, abs=0.001)
            assert lost(d, s) == pytest.approx([1.2], abs=0.002)

    def test_a_new_sample_ends_the_backoff(self) -> None:
        """RFC 6298 section 5: once a new measurement is taken, the timeout is computed from it again."""
        with Drill() as d:
            s = d.established(rtt=0.1)
            lost(d, s, count=2)
            d.inject(".", seq=1, ack=101, at=1.2)
            d.write(s, 100)
            d.expect("P.", seq=101, length=100)
            d.inject(".", seq=1, ack=201, at=1.3)
            assert lost(d, s)[0] < 0.3

    def test_timestamps_lift_karns_rule(self) -> None:
        """RFC 6298 section 3, RFC 7323 section 4.1: the echoed timestamp tells which of the two was acknowledged."""
        with Drill() as d:
            s = d.established(rtt=0.1, ts=True)
            d.write(s, 100)
            d.expect("P.", length=100)
            d.expect("P.", length=100, at=0.4)
            d.inject(".", seq=1, ack=101, at=0.5)  # echoes the second: another 0.1 s
            assert s.info()["rto"] < 0.31 and s.info()["srtt"] == pytest.approx(0.1, abs=0.002)

    def test_a_syn_that_was_lost(self) -> None:
        """RFC 6298 rule 5.7: if the SYN's timer expired, data begins with 3 seconds."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", at=0)
            d.expect("S", at=1)
            d.inject("S.", seq=0, ack=1, mss=1460, at=1.1)
            d.expect(".", seq=1, ack=1)
            assert lost(d, s) == pytest.approx([3.0], abs=0.001)

    def test_a_syn_ack_that_was_lost(self) -> None:
        """The same for the passive side (RFC 6298 rule 5.7)."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0, mss=1460)
            d.expect("S.", at=0)
            d.expect("S.", at=1)
            d.inject(".", seq=1, ack=1, at=1.1)
            assert lost(d, d.accept()) == pytest.approx([3.0], abs=0.001)


class TestManaging:
    """RFC 6298 section 5."""

    def test_it_runs_from_the_first_unacknowledged_segment(self) -> None:
        """Rule 5.1: a further segment does not start it anew."""
        with Drill(nagle=False) as d:
            s = d.established(rtt=0.1)
            d.write(s, 100)
            d.expect("P.", seq=1, length=100)
            d.run(0.3)
            d.write(s, 100)
            d.expect("P.", seq=101, length=100)
            assert [x.seq for x in d.collect(until=0.41)] == [1]

    def test_it_stops_when_all_is_acknowledged(self) -> None:
        """Rule 5.2."""
        with Drill() as d:
            s = d.established(rtt=0.1)
            d.write(s, 100)
            d.expect("P.", length=100)
            d.inject(".", seq=1, ack=101, at=0.2)
            d.expect_nothing(until=100)

    def test_it_starts_anew_with_each_new_acknowledgment(self) -> None:
        """Rule 5.3: from the time the ACK of new data arrives."""
        with Drill(nagle=False) as d:
            s = d.established(rtt=0.1)
            d.write(s, 100)
            d.expect("P.", seq=1, length=100)
            d.run(0.15)
            d.write(s, 100)
            d.expect("P.", seq=101, length=100)
            d.inject(".", seq=1, ack=101, at=0.2)
            rto = s.info()["rto"]
            d.expect("P.", seq=101, length=100, at=0.2 + rto)

    def test_only_the_first_segment_is_sent_again(self) -> None:
        """Rule 5.4: the earliest one that is not acknowledged; the rest when that is (slow start)."""
        with Drill() as d:
            s = d.established(rtt=0.1)
            d.write(s, 5 * 1460)
            assert len(d.collect()) == 5
            again = d.collect(until=0.45)
            assert [(x.seq, x.length) for x in again] == [(1, 1460)]

    def test_from_the_middle_of_a_segment(self) -> None:
        """RFC 9293 section 3.4: numbers count octets: an ACK for half a segment leaves its other half to be sent again."""
        with Drill() as d:
            s = d.established(rtt=0.1)
            d.write(s, 1000)
            d.expect("P.", seq=1, length=1000)
            d.inject(".", seq=1, ack=501, at=0.2)
            rto = s.info()["rto"]
            d.expect("P.", seq=501, length=500, at=0.2 + rto)

    def test_the_same_data_is_sent_again(self) -> None:
        """RFC 9293 section 3.8.1: whatever its segments look like, the bytes are those of before (checked with each)."""
        with Drill(nagle=False) as d:
            s = d.established(rtt=0.1)
            for _ in range(10):
                d.write(s, 100)
            assert len(d.collect()) == 10
            again = d.collect(until=0.45)
            assert again[0].seq == 1 and 100 <= again[0].length <= 1000


class TestGivingUp:
    @pytest.mark.parametrize("retries", [1, 3, 5])
    def test_after_so_many(self, retries: int) -> None:
        """RFC 9293 section 3.8.3 (MUST-20, MUST-21): R2 as a number of retransmissions, set by the owner; the application is
        told (MUST-12), and the connection is gone."""
        with Drill(retries=retries) as d:
            s = d.established(rtt=0.1)
            d.write(s, 100)
            d.expect("P.", length=100)
            sent = d.collect(until=100)
            assert [x.length for x in sent if x.length] == [100] * retries
            with pytest.raises(TimeoutError):
                s.recv(1)
            assert d.host.stats()["connections"] == 0

    def test_at_least_a_hundred_seconds_by_default(self) -> None:
        """RFC 9293 section 3.8.3 (SHLD-11): R2 should correspond to at least 100 seconds; 8 retransmissions do at 0.3 s."""
        with Drill() as d:
            s = d.established(rtt=0.1)
            d.write(s, 100)
            d.collect(until=100)
            assert s.info()["state"] == "ESTABLISHED"
            d.collect(until=400)
            assert s.info()["state"] == "CLOSED"

    def test_progress_starts_the_count_anew(self) -> None:
        """RFC 9293 section 3.8.3: the thresholds are for one segment."""
        with Drill(retries=3) as d:
            s = d.established(rtt=0.1)
            d.write(s, 10 * 100)
            d.collect()
            for k in range(1, 10):
                d.collect(until=d.now + 3)
                d.inject(".", seq=1, ack=1 + 100 * k)
            d.collect()
            assert s.info()["state"] == "ESTABLISHED"


IDLE, INTERVAL, PROBES = 10.0, 2.0, 3


class TestKeepAlive:
    """RFC 9293 section 3.8.4."""

    def quiet(self, **config: Any) -> tuple[Drill, Any]:
        d = Drill(**{"keep_idle": IDLE, "keep_interval": INTERVAL, "keep_probes": PROBES} | config)
        s = d.established()
        s.setsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE, 1)
        d.collect()
        return d, s

    def test_off_by_default(self) -> None:
        """MUST-25 (MAY-5)."""
        with Drill(keep_idle=IDLE) as d:
            s = d.established()
            assert s.getsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE) == 0
            d.expect_nothing(until=10_000)

    def test_two_hours_by_default(self) -> None:
        """MUST-28: no less than two hours of idleness."""
        with Drill() as d:
            s = d.established()
            s.setsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE, 1)
            d.expect_nothing(until=7200)
            d.expect(".", seq=0, ack=1, within=(7200.1, 7201))

    def test_a_probe_carries_no_data(self) -> None:
        """MUST-24, MUST-27, SHLD-12: <SEQ=SND.NXT-1>, which is unacceptable to the peer and so is answered."""
        d, s = self.quiet()
        with d:
            d.expect(".", seq=0, ack=1, length=0, at=0.1 + IDLE)
            d.inject(".", seq=1, ack=1, at=0.2 + IDLE)
            d.expect(".", seq=0, ack=1, length=0, at=0.2 + 2 * IDLE)
            d.inject(".", seq=1, ack=1)
            assert s.info()["state"] == "ESTABLISHED"

    def test_anything_that_arrives_puts_it_off(self) -> None:
        """MUST-26: only sent when nothing was received for the interval."""
        d, s = self.quiet()
        with d:
            d.inject("P.", seq=1, ack=1, length=10, at=5)
            d.expect(".", ack=11, within=(5, 5.5))
            d.expect(".", seq=0, ack=11, at=5 + IDLE)

    def test_a_lost_answer_is_no_death(self) -> None:
        """MUST-29: failure to respond to one probe does not mean a dead connection."""
        d, s = self.quiet()
        with d:
            at = 0.1 + IDLE
            for k in range(PROBES - 1):
                d.expect(".", seq=0, ack=1, at=at + k * INTERVAL)
            d.inject(".", seq=1, ack=1, at=at + 1.5 * INTERVAL)
            at += 1.5 * INTERVAL + IDLE
            for k in range(PROBES):  # all of them again
                d.expect(".", seq=0, ack=1, at=at + k * INTERVAL)
            d.inject(".", seq=1, ack=1)
            assert s.info()["state"] == "ESTABLISHED"

    def test_a_dead_peer_is_noticed(self) -> None:
        """RFC 9293 section 3.8.4 with 3.8.3 (MUST-20): after ``keep_probes`` without an answer, ETIMEDOUT."""
        d, s = self.quiet()
        with d:
            for k in range(PROBES):
                d.expect(".", seq=0, ack=1, at=0.1 + IDLE + k * INTERVAL)
            d.collect(until=0.2 + IDLE + PROBES * INTERVAL)
            with pytest.raises(TimeoutError):
                s.recv(1)

    def test_a_crashed_peer_resets(self) -> None:
        """RFC 9293 section 3.5.1: the probe reaches a host that has forgotten the connection."""
        d, s = self.quiet()
        with d:
            d.expect(".", seq=0, ack=1, at=0.1 + IDLE)
            d.inject("R", seq=1)
            with pytest.raises(ConnectionResetError):
                s.recv(1)

    def test_a_keep_alive_of_the_peer_is_answered(self) -> None:
        """RFC 9293 section 3.8.4: with and without the garbage octet (MAY-6) it is unacceptable, so an ACK follows."""
        with Drill() as d:
            d.established()
            for data in (b"", b"?"):
                d.inject(".", seq=0, ack=1, data=data, at=d.now + 1)
                d.expect(".", seq=1, ack=1)

    def test_not_while_data_is_in_flight(self) -> None:
        """MUST-26: the retransmission timer asks already."""
        d, s = self.quiet(rto_min=30.0, rto_init=30.0)
        with d:
            d.write(s, 100)
            d.expect("P.", seq=1, length=100)
            d.expect_nothing(until=29)
            d.inject(".", seq=1, ack=101)
