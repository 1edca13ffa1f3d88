"""Closing: RFC 9293 section 3.6 (figures 12 and 13), 3.10.4 (CLOSE), 3.10.5 (ABORT), and TIME-WAIT."""

from __future__ import annotations

import socket as std
from typing import Any

import pytest

from tests.tcp.drill import Drill

TWO_MSL = 10.0
"""Twice the default ``msl`` of the configuration."""


def state(s: Any) -> str:
    name: str = s.info()["state"]
    return name


def in_time_wait(d: Drill) -> None:
    """A connection that we closed first; its last segment has just been acknowledged."""
    d.established().close()
    d.expect("F.", seq=1, ack=1)
    d.inject(".", seq=1, ack=2)
    d.inject("F.", seq=1, ack=2)
    d.expect(".", seq=2, ack=2)


class TestOrderly:
    def test_we_close_first(self) -> None:
        """RFC 9293 section 3.6, figure 12, and 3.3.2: FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT, then nothing is left."""
        with Drill() as d:
            s = d.established()
            s.shutdown(std.SHUT_WR)
            assert state(s) == "FIN-WAIT-1"
            d.expect("F.", seq=1, ack=1)
            d.inject(".", seq=1, ack=2, at=0.2)
            assert state(s) == "FIN-WAIT-2"
            d.inject("F.", seq=1, ack=2, at=0.5)
            d.expect(".", seq=2, ack=2)
            assert s.recv(1) == b""
            s.close()
            d.expect_nothing(until=60)
            assert d.host.stats()["connections"] == d.host.stats()["slots"] == 0

    def test_the_peer_closes_first(self) -> None:
        """RFC 9293 section 3.6, figure 12, the other side: CLOSE-WAIT, LAST-ACK, CLOSED without TIME-WAIT."""
        with Drill() as d:
            s = d.established()
            d.inject("F.", seq=1, ack=1)
            d.expect(".", seq=1, ack=2, within=(0.1, 0.6))
            assert s.recv(1) == b"" and state(s) == "CLOSE-WAIT"
            s.close()
            d.expect("F.", seq=1, ack=2)
            d.inject(".", seq=2, ack=2)
            assert d.host.stats()["connections"] == 0

    def test_both_at_once(self) -> None:
        """RFC 9293 section 3.6, figure 13: the FINs cross, CLOSING, and both wait."""
        with Drill() as d:
            s = d.established()
            s.shutdown(std.SHUT_WR)
            d.expect("F.", seq=1, ack=1)
            d.inject("F.", seq=1, ack=1)
            d.expect(".", seq=2, ack=2)
            assert state(s) == "CLOSING"
            d.inject(".", seq=2, ack=2, at=0.3)
            d.expect_nothing(until=9)
            assert d.host.stats()["connections"] == 1
            d.run(11)
            assert d.host.stats()["connections"] == 0

    def test_the_peers_fin_acknowledges_ours(self) -> None:
        """RFC 9293 section 3.10.7.4, eighth: FIN-WAIT-1 with FIN and the ACK of ours goes to TIME-WAIT at once."""
        with Drill() as d:
            s = d.established()
            s.close()
            d.expect("F.", seq=1, ack=1)
            d.inject("F.", seq=1, ack=2)
            d.expect(".", seq=2, ack=2)
            d.run(0.1 + TWO_MSL - 0.1)
            assert d.host.stats()["connections"] == 1
            d.pause(0.2)
            assert d.host.stats()["connections"] == 0

    def test_a_fin_with_data(self) -> None:
        """RFC 9293 section 3.10.7.4, eighth: FIN implies PUSH, and comes after the text."""
        with Drill() as d:
            s = d.established()
            d.inject("FP.", seq=1, ack=1, length=500)
            d.expect(".", seq=1, ack=502, within=(0.1, 0.6))
            assert d.read(s, 100) == 100
            assert d.read(s) == 400
            assert s.recv(1) == b""

    def test_our_fin_goes_with_the_last_data(self) -> None:
        """RFC 9293 section 3.10.4: CLOSE waits until all preceding SENDs have been segmentized."""
        with Drill() as d:
            s = d.established()
            d.write(s, 3000)
            d.expect(".", seq=1, length=1460)
            d.expect(".", seq=1461, length=1460)
            s.close()
            d.inject(".", seq=1, ack=2921)
            d.expect("FP.", seq=2921, length=80)
            d.inject("F.", seq=1, ack=3002)
            d.expect(".", seq=3002, ack=2)

    def test_close_waits_for_the_window(self) -> None:
        """RFC 9293 section 3.10.4: what was sent before the CLOSE is delivered, however long the peer takes."""
        with Drill() as d:
            s = d.established(win=1000)
            d.write(s, 1500)
            d.collect()
            s.close()
            d.inject(".", seq=1, ack=1001)
            got = d.collect(until=2)
            assert got[0].seq == 1001 and "F" in got[-1].flags

    def test_half_close(self) -> None:
        """RFC 9293 section 3.6, case 1 and 3.10.4: after our FIN the peer's data is still received and acknowledged."""
        with Drill() as d:
            s = d.established()
            s.shutdown(std.SHUT_WR)
            d.expect("F.", seq=1, ack=1)
            d.inject(".", seq=1, ack=2)
            for k in range(3):
                d.inject("P.", seq=1 + 100 * k, ack=2, length=100)
            assert d.read(s) == 300
            d.expect(".", seq=2, ack=301, within=(0.1, 0.6))
            with pytest.raises(BrokenPipeError):
                s.send(b"x")
            assert state(s) == "FIN-WAIT-2"
            d.expect_nothing(until=100)

    def test_the_peers_half_close(self) -> None:
        """RFC 9293 section 3.6, case 2: in CLOSE-WAIT data may still be sent, and then the FIN."""
        with Drill() as d:
            s = d.established()
            d.inject("F.", seq=1, ack=1)
            d.collect(until=1)
            d.write(s, 200)
            d.expect("P.", seq=1, ack=2, length=200)
            d.inject(".", seq=2, ack=201, at=1.1)
            s.close()
            d.expect("F.", seq=201, ack=2)
            d.inject(".", seq=2, ack=202)
            assert d.host.stats()["connections"] == 0

    def test_close_before_the_syn_is_acknowledged(self) -> None:
        """RFC 9293 section 3.10.4: in SYN-RECEIVED the FIN is sent when the connection is established, or at once."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject("S", seq=0, at=0.1)
            d.expect("S.", seq=0, ack=1)
            s.close()
            d.inject(".", seq=1, ack=1, at=0.2)
            d.expect("F.", seq=1, ack=1)
            d.inject("F.", seq=1, ack=2)
            d.expect(".", seq=2, ack=2)


class TestFinSegments:
    def test_a_lost_fin_is_retransmitted(self) -> None:
        """RFC 6298 section 5: the FIN occupies sequence space, so it is timed and sent again; RTO 0.3 s after 0.1 s RTT."""
        with Drill() as d:
            d.established().close()
            for at in (0.1, 0.4, 1.0, 2.2):
                d.expect("F.", seq=1, ack=1, at=at)

    def test_the_peers_fin_comes_again(self) -> None:
        """RFC 9293 section 3.10.7.4: in CLOSE-WAIT a FIN is old; it is acknowledged, nothing else."""
        with Drill() as d:
            s = d.established()
            d.inject("F.", seq=1, ack=1)
            d.expect(".", seq=1, ack=2, within=(0.1, 0.6))
            d.inject("F.", seq=1, ack=1, at=1)
            d.expect(".", seq=1, ack=2)
            assert state(s) == "CLOSE-WAIT"

    def test_a_fin_ahead_of_missing_data_waits(self) -> None:
        """RFC 9293 section 3.10.7.4: segments are processed in order of their numbers; a FIN has one."""
        with Drill() as d:
            s = d.established()
            d.inject("F.", seq=101, ack=1)
            d.expect(".", seq=1, ack=1)
            assert state(s) == "ESTABLISHED"
            d.inject(".", seq=1, ack=1, length=100)
            d.expect(".", seq=1, ack=102)
            assert d.read(s) == 100 and s.recv(1) == b"" and state(s) == "CLOSE-WAIT"

    def test_a_fin_with_data_ahead_of_missing_data(self) -> None:
        """The same with text in the segment of the FIN (RFC 9293 section 3.10.7.4)."""
        with Drill() as d:
            s = d.established()
            d.inject("FP.", seq=101, ack=1, length=50)
            d.expect(".", seq=1, ack=1)
            d.inject(".", seq=1, ack=1, length=100)
            d.expect(".", seq=1, ack=152)
            assert d.read(s) == 150 and s.recv(1) == b""

    def test_a_fin_outside_the_window_is_none(self) -> None:
        """RFC 9293 section 3.4, table 6: unacceptable segments are answered with an ACK and dropped."""
        with Drill() as d:
            s = d.established()
            d.inject("F.", seq=1 + 70000, ack=1)
            d.expect(".", seq=1, ack=1)
            assert state(s) == "ESTABLISHED"

    def test_data_beyond_the_fin_is_not_delivered(self) -> None:
        """RFC 9293 section 3.10.7.4, seventh: after a FIN, "this should not occur", ignore the segment text."""
        with Drill() as d:
            s = d.established()
            d.inject("F.", seq=1, ack=1)
            d.collect(until=1)
            d.inject("P.", seq=2, ack=1, length=100)
            assert all(x.flags == "." and x.ack == 2 for x in d.collect(until=2))
            assert s.recv(10) == b""

    def test_last_ack_gives_up(self) -> None:
        """RFC 9293 section 3.8.3 (MUST-20): a FIN that nobody acknowledges is given up like data."""
        with Drill(retries=3) as d:
            s = d.established()
            d.inject("F.", seq=1, ack=1)
            d.expect(".", seq=1, ack=2, within=(0.1, 0.6))
            s.close()
            assert [x.flags for x in d.collect(until=60) if "R" not in x.flags] == ["F."] * 4
            assert d.host.stats()["connections"] == 0

    def test_a_fin_is_retransmitted_in_closing(self) -> None:
        """RFC 9293 section 3.6, figure 13: when the FINs cross and ours is lost, it is sent again until acknowledged."""
        with Drill() as d:
            s = d.established()
            s.shutdown(std.SHUT_WR)
            d.expect("F.", seq=1, ack=1)
            d.inject("F.", seq=1, ack=1)
            d.expect(".", seq=2, ack=2)
            d.expect("F.", seq=1, ack=2, at=0.4)
            assert state(s) == "CLOSING"
            d.inject(".", seq=2, ack=2, at=0.5)
            d.expect_nothing(until=10)

    def test_a_closed_socket_does_not_wait_for_ever_for_a_window(self) -> None:
        """RFC 9293 section 3.8.6.1 (RFC 6429 section 4): a peer that answers probes but never opens its window holds a
        connection that its owner has closed for ``close_timeout`` only."""
        with Drill(close_timeout=20.0) as d:
            s = d.established(win=0)
            d.write(s, 1000)
            s.close()
            last = []
            while d.now < 60 and d.host.stats()["connections"]:
                last = d.collect(until=d.now + 0.5)
                if any(x.length for x in last):
                    d.inject(".", seq=1, ack=1)
            assert 20 <= d.now < 25 and last[-1].flags == "R."

    def test_a_closed_socket_waits_as_long_as_there_is_progress(self) -> None:
        """RFC 9293 section 3.10.4: what was sent before the CLOSE is delivered, to a slow peer, too: here a kilobyte every
        seven seconds."""
        with Drill(close_timeout=10.0) as d:
            s = d.established(win=1024)
            d.write(s, 8 * 1024)
            s.close()
            sent = []
            for k in range(1, 9):
                sent += d.collect(until=d.now + 7)
                d.inject(".", seq=1, ack=1 + 1024 * k)
            assert (sent[-1].flags, sent[-1].seq + sent[-1].length) == ("FP.", 1 + 8 * 1024)
            d.inject("F.", seq=1, ack=8 * 1024 + 2)
            d.expect(".", seq=8 * 1024 + 2, ack=2)

    def test_fin_wait_2_does_not_last_for_ever(self) -> None:
        """RFC 9293 section 3.6 lets FIN-WAIT-2 wait; a socket that is closed altogether waits ``close_timeout`` only (RFC
        6429: resources may be reclaimed)."""
        with Drill(close_timeout=3.0) as d:
            d.established().close()
            d.expect("F.", seq=1, ack=1)
            d.inject(".", seq=1, ack=2)
            d.expect_nothing(until=2.9)
            assert d.host.stats()["connections"] == 1
            d.collect(until=3.5)
            assert d.host.stats()["connections"] == 0


class TestTimeWait:
    def test_it_lasts_two_msl(self) -> None:
        """RFC 9293 section 3.6.1 (MUST-13)."""
        with Drill() as d:
            in_time_wait(d)
            d.expect_nothing(until=0.1 + TWO_MSL - 0.01)
            assert d.host.stats()["connections"] == 1
            d.expect_nothing(until=0.1 + TWO_MSL + 0.01)
            assert d.host.stats()["connections"] == 0

    def test_the_msl_is_configured(self) -> None:
        """RFC 9293 section 3.4.2: 2 minutes by default of the RFC; here it can be."""
        with Drill(msl=120.0) as d:
            in_time_wait(d)
            d.run(240)
            assert d.host.stats()["connections"] == 1
            d.run(241)
            assert d.host.stats()["connections"] == 0

    def test_a_fin_that_comes_again_is_acknowledged_and_restarts_it(self) -> None:
        """RFC 9293 section 3.10.7.4, fifth and eighth: acknowledge it, and restart the 2 MSL timeout."""
        with Drill() as d:
            in_time_wait(d)
            d.inject("F.", seq=1, ack=2, at=5)
            d.expect(".", seq=2, ack=2)
            d.expect_nothing(until=5 + TWO_MSL - 0.01)
            assert d.host.stats()["connections"] == 1
            d.run(5 + TWO_MSL + 0.01)
            assert d.host.stats()["connections"] == 0

    def test_old_data_is_acknowledged(self) -> None:
        """RFC 9293 section 3.10.7.4, first: an unacceptable segment is answered with an ACK."""
        with Drill() as d:
            in_time_wait(d)
            d.inject(".", seq=-500, ack=2, length=100, data=b"x" * 100, at=1)
            d.expect(".", seq=2, ack=2)

    def test_a_plain_ack_is_nothing_new(self) -> None:
        """RFC 9293 section 3.10.7.4: an ACK of our FIN may come twice; it is not answered and restarts nothing."""
        with Drill() as d:
            in_time_wait(d)
            d.inject(".", seq=2, ack=2, at=5)
            d.expect_nothing(until=0.1 + TWO_MSL + 0.01)
            assert d.host.stats()["connections"] == 0

    def test_a_reset_from_outside_the_window_does_not_end_it(self) -> None:
        """RFC 9293 section 3.10.7.4, second (1): silently dropped; RFC 1337 on why it matters here."""
        with Drill() as d:
            in_time_wait(d)
            d.inject("R", seq=2 + 100_000)
            d.expect_nothing()
            assert d.host.stats()["connections"] == 1

    def test_a_new_syn_takes_over(self) -> None:
        """RFC 9293 section 3.6.1 (MAY-2): from a larger number, and ours begins beyond the old connection's."""
        with Drill() as d:
            in_time_wait(d)
            old = d.host_isn[4000]
            d.inject("S", seq=1000, at=1)
            d.expect("S.", seq=0, ack=1001)
            assert 2 < d.host_isn[4000] - old & 0xFFFFFFFF < 0x80000000
            d.inject(".", seq=1001, ack=1)
            d.accept()

    def test_an_old_syn_does_not(self) -> None:
        """RFC 9293 section 3.6.1 (MAY-2 (b)): an old duplicate returns to TIME-WAIT; RFC 5961 section 4: a challenge ACK."""
        with Drill() as d:
            in_time_wait(d)
            d.inject("S", seq=-1000, at=1)
            d.expect(".", seq=2, ack=2)
            assert d.host.stats()["connections"] == 1

    def test_a_newer_timestamp_takes_over_too(self) -> None:
        """RFC 9293 section 3.6.1 (SHLD-4), RFC 6191 section 2: timestamps tell new from old where numbers cannot."""
        with Drill() as d:
            d.established(ts=True).close()
            d.expect("F.", seq=1, ack=1)
            d.inject("F.", seq=1, ack=2)
            d.expect(".", seq=2, ack=2)
            d.ts = False
            d.inject("S", seq=-1000, ts=(3000, 0), at=1)
            d.expect("S.", seq=0, ack=-999)

    def test_an_older_timestamp_does_not(self) -> None:
        """RFC 6191 section 2, the other case."""
        with Drill() as d:
            d.established(ts=True).close()
            d.expect("F.", seq=1, ack=1)
            d.inject("F.", seq=1, ack=2)
            d.expect(".", seq=2, ack=2)
            d.inject("S", seq=100, ts=(500, 0), at=1)
            d.expect(".", seq=2, ack=2)

    def test_its_fifos_are_given_back(self) -> None:
        """TIME-WAIT (RFC 9293 section 3.3.2) costs a record, not a slot."""
        with Drill() as d:
            in_time_wait(d)
            assert d.host.stats()["slots"] == 0 and d.host.stats()["connections"] == 1


class TestLostData:
    """RFC 9293 section 3.6.1, SHLD-3: a reset tells the peer that its data was lost."""

    def test_close_with_unread_data(self) -> None:
        with Drill() as d:
            s = d.established()
            d.inject("P.", seq=1, ack=1, length=100)
            s.close()
            assert d.collect(until=5)[-1].flags == "R."
            assert d.host.stats()["connections"] == 0

    def test_data_after_close(self) -> None:
        with Drill() as d:
            d.established().close()
            d.expect("F.", seq=1, ack=1)
            d.inject("P.", seq=1, ack=1, length=100, at=0.2)
            assert d.expect("R.").seq in (1, 2)
            assert d.host.stats()["connections"] == 0

    def test_data_after_close_in_fin_wait_2(self) -> None:
        with Drill() as d:
            d.established().close()
            d.expect("F.", seq=1, ack=1)
            d.inject(".", seq=1, ack=2)
            d.inject("P.", seq=1, ack=2, length=100, at=0.2)
            d.expect("R.", seq=2)

    def test_after_shutdown_data_is_no_loss(self) -> None:
        """A half-close (section 3.6, case 1) still reads."""
        with Drill() as d:
            s = d.established()
            s.shutdown(std.SHUT_WR)
            d.expect("F.", seq=1, ack=1)
            d.inject("P.", seq=1, ack=1, length=100, at=0.15)
            assert d.read(s) == 100
            d.inject(".", seq=101, ack=2, at=0.16)
            d.expect(".", seq=2, ack=101, within=(0.15, 0.66))


class TestAbort:
    """RFC 9293 section 3.10.5: <SEQ=SND.NXT><CTL=RST>, and the connection is gone."""

    def check(self, d: Drill, s: Any, seq: int) -> None:
        s.abort()
        sent = d.collect()
        assert [x.flags.rstrip(".") for x in sent] == ["R"] and sent[0].seq == seq
        assert d.host.stats()["connections"] == 0
        d.expect_nothing(until=d.now + 100)

    def test_in_established(self) -> None:
        with Drill() as d:
            self.check(d, d.established(), 1)

    def test_in_established_with_data_in_flight(self) -> None:
        with Drill() as d:
            s = d.established()
            d.write(s, 100)
            d.expect("P.", length=100)
            self.check(d, s, 101)

    def test_in_fin_wait_1(self) -> None:
        with Drill() as d:
            s = d.established()
            s.shutdown(std.SHUT_WR)
            d.expect("F.")
            self.check(d, s, 2)

    def test_in_fin_wait_2(self) -> None:
        with Drill() as d:
            s = d.established()
            s.shutdown(std.SHUT_WR)
            d.expect("F.")
            d.inject(".", seq=1, ack=2)
            self.check(d, s, 2)

    def test_in_close_wait(self) -> None:
        with Drill() as d:
            s = d.established()
            d.inject("F.", seq=1, ack=1)
            d.collect(until=1)
            self.check(d, s, 1)

    def test_in_syn_received(self) -> None:
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject("S", seq=0, at=0.1)
            d.expect("S.")
            self.check(d, s, 1)

    def test_in_syn_sent_nothing_is_sent(self) -> None:
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            s.abort()
            d.expect_nothing(until=100)
            assert d.host.stats()["connections"] == 0
