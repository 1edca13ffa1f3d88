"""Windows: RFC 9293 sections 3.4 (acceptability), 3.8.6 (management, probes, silly windows) and 3.10.7.4; RFC 7323 section 2."""

from __future__ import annotations

import itertools

import pytest

from tests.tcp.drill import Drill


def in_flight(d: Drill) -> int:
    return sum(x.length for x in d.collect())


def full_receiver(d: Drill) -> object:
    """A connection whose receive window of 4096 bytes is full; the next byte would be number 4097."""
    s = d.established()
    for k in range(4):
        d.inject(".", seq=1 + 1024 * k, ack=1, length=1024)
    assert d.collect(until=1)[-1].win == 0
    return s


class TestReceiving:
    def test_the_window_is_the_room_that_is_left(self) -> None:
        """RFC 9293 section 3.8.6: the field tells how many octets are accepted from the acknowledgment number on."""
        with Drill() as d:
            s = d.established()
            for k in range(20):
                d.inject(".", seq=1 + 1000 * k, ack=1, length=1000)
            sent = d.collect(until=1)
            assert (sent[-1].ack, sent[-1].ack + sent[-1].win) == (20001, 1 + 65535)
            assert d.read(s) == 20000
            d.collect()

    def test_bytes_beyond_the_window_are_not_taken(self) -> None:
        """RFC 9293 section 3.4: only what lies in the window is processed; the rest comes again."""
        with Drill(fifo=4096) as d:
            s = d.established()
            for k in range(5):
                d.inject(".", seq=1 + 1000 * k, ack=1, length=1000)
            last = d.collect(until=1)[-1]
            assert 4001 <= last.ack <= 4097 and last.ack + last.win == 4097
            assert d.read(s) == last.ack - 1
            d.collect()

    def test_a_zero_window_is_reopened(self) -> None:
        """RFC 9293 section 3.8.6.2.2 (MUST-39): when the reader makes room, the peer is told."""
        with Drill(fifo=4096) as d:
            s = full_receiver(d)
            assert d.read(s) == 4096
            d.expect(".", seq=1, ack=4097, win=4096)

    def test_no_silly_windows(self) -> None:
        """RFC 9293 section 3.8.6.2.2 (MUST-39): the right edge moves by half the buffer or a full segment at least."""
        with Drill(fifo=4096) as d:
            s = full_receiver(d)
            for _ in range(7):
                assert d.read(s, 100) == 100
                d.expect_nothing()
            d.read(s, 2000)
            d.expect(".", seq=1, ack=4097)
            d.run(2)

    def test_a_probe_of_a_zero_window_is_answered(self) -> None:
        """RFC 9293 section 3.8.6.1: the next expected number and the current window (zero); the octet is not taken."""
        with Drill(fifo=4096) as d:
            s = full_receiver(d)
            for _ in range(3):
                d.inject(".", seq=4097, ack=1, length=1)
                d.expect(".", seq=1, ack=4097, win=0)
            d.read(s)
            d.expect(".", seq=1, ack=4097, win=4096)
            d.inject(".", seq=4097, ack=1, length=1)
            d.expect(".", ack=4098, within=(1, 2))

    def test_acknowledgments_are_taken_with_a_zero_window(self) -> None:
        """RFC 9293 section 3.10.7.4, first: with a receive window of zero, valid ACKs are accepted all the same."""
        with Drill(fifo=4096) as d:
            s = full_receiver(d)
            d.write(s, 500)
            d.expect("P.", seq=1, length=500)
            d.inject(".", seq=4097, ack=501)
            d.expect_nothing(until=5)
            assert d.read(s) == 4096
            d.collect()

    def test_the_ack_of_a_probe_is_taken_with_a_zero_window(self) -> None:
        """RFC 9293 section 3.10.7.4 and A.2: two sides that both have a zero window must not block each other's ACKs."""
        with Drill(fifo=4096) as d:
            s = full_receiver(d)
            d.write(s, 500)
            d.expect("P.", seq=1, length=500)
            d.inject(".", seq=4097, ack=501, length=1)
            d.expect(".", seq=501, ack=4097, win=0)
            d.expect_nothing(until=5)

    def test_a_reset_is_taken_with_a_zero_window(self) -> None:
        """RFC 9293 section 3.8.6 (MUST-66): RST is processed even when the receive window is zero."""
        with Drill(fifo=4096) as d:
            s = full_receiver(d)
            d.inject("R.", seq=4097, ack=1)
            assert d.read(s) == 4096
            with pytest.raises(ConnectionResetError):
                s.recv(1)

    def test_the_right_edge_never_goes_back(self) -> None:
        """RFC 9293 section 3.8.6 (SHLD-14): whatever arrives and is read, and however much is rounded by the scale."""
        with Drill(fifo=65536, wscale=6) as d:
            s = d.established(wscale=0)
            edge = 0
            got = 1
            for k in range(60):
                n = (37, 1460, 1, 513)[k % 4]
                d.inject("P.", seq=got, ack=1, length=n)
                got += n
                if k % 7 == 0:
                    d.read(s, 333)
                for x in d.collect(until=d.now + 0.05):
                    assert x.ack + (x.win << 6) >= edge
                    edge = x.ack + (x.win << 6)

    def test_the_window_of_a_syn_is_not_scaled(self) -> None:
        """RFC 7323 section 2.2: neither is the SYN,ACK's; afterwards it is shifted by what was offered."""
        with Drill(fifo=1 << 20) as d:
            d.listen()
            d.inject("S", seq=0, wscale=0)
            d.expect("S.", seq=0, ack=1, win=65535, wscale=5)
            d.inject(".", seq=1, ack=1)
            d.inject(".", seq=1, ack=1, length=10)
            sent = d.expect(".", ack=11, within=(0, 0.5))
            assert (1 << 20) - 64 <= sent.win << 5 <= 1 << 20

    def test_without_the_peers_option_nothing_is_scaled(self) -> None:
        """RFC 7323 section 2.2: both sides must send the option."""
        with Drill(fifo=1 << 20) as d:
            d.established()
            d.inject(".", seq=1, ack=1, length=10)
            d.expect(".", ack=11, win=65535, within=(0.1, 0.6))


class TestAcceptability:
    """RFC 9293 section 3.4, table 6: the four cases; what is not acceptable is answered with an ACK and has no effect. Not to the
    letter at the window's right edge, 65536: a sender that has filled the window acknowledges with that number."""

    @pytest.mark.parametrize(
        ("seq", "length", "acceptable"),
        [
            (1, 0, True), (2, 0, True), (65535, 0, True), (65537, 0, False), (0, 0, False), (-1000, 0, False),
            (1, 1, True), (0, 2, True), (0, 1, False), (-99, 100, False), (-98, 100, True), (65535, 100, True),
            (65536, 0, True), (65536, 100, False), (2**31, 100, False), (2**30, 1, False),
        ],
    )  # fmt: skip
    def test_with_a_window(self, seq: int, length: int, acceptable: bool) -> None:
        """Told apart by an RST: acceptable ones are answered by a challenge ACK or believed (RFC 5961 section 3)."""
        with Drill() as d:
            s = d.established()
            d.write(s, 100)
            d.expect("P.", seq=1, length=100)
            d.inject(".", seq=seq, ack=101, data=b"?" * length)
            sent = d.collect()
            if not acceptable:
                assert [(x.flags, x.seq, x.ack) for x in sent] == [(".", 101, 1)]
            retransmitted = [x for x in d.collect(until=0.9) if x.length]
            assert bool(retransmitted) == (not acceptable)  # the ACK that was in it counted, or did not

    @pytest.mark.parametrize(
        ("seq", "length", "counts"), [(4097, 0, True), (4096, 0, False), (4098, 0, False), (4098, 1, False), (4000, 1, False)]
    )
    def test_with_a_zero_window(self, seq: int, length: int, counts: bool) -> None:
        """Only an empty segment at the very edge (or a probe there, see above)."""
        with Drill(fifo=4096) as d:
            s = full_receiver(d)
            d.write(s, 100)
            d.expect("P.", seq=1, length=100)
            d.inject(".", seq=seq, ack=101, data=b"?" * length)
            assert bool(d.collect()) == (not counts)
            assert bool([x for x in d.collect(until=2) if x.length]) == (not counts)


class TestSending:
    @pytest.mark.parametrize("win", [1460, 2920, 5840, 10000])
    def test_no_more_than_the_window(self, win: int) -> None:
        """RFC 9293 section 3.8.6: SND.UNA + SND.WND is the limit."""
        with Drill() as d:
            s = d.established(win=win)
            d.write(s, 30000)
            assert in_flight(d) == win - win % 1460 or win - in_flight(d) < 1460

    @pytest.mark.parametrize("field", [32768, 65535])
    def test_the_field_is_unsigned(self, field: int) -> None:
        """RFC 9293 section 3.1 (MUST-1): windows above 32767 are large, not negative."""
        with Drill(initial_window=60) as d:
            s = d.established(win=field)
            d.write(s, 65536)
            assert field - 1460 < in_flight(d) <= field

    @pytest.mark.parametrize(("field", "shift"), [(100, 7), (5000, 3), (1, 14), (65535, 14), (60000, 0)])
    def test_the_window_is_scaled(self, field: int, shift: int) -> None:
        """RFC 7323 section 2.3: SND.WND = SEG.WND << Snd.Wind.Shift."""
        with Drill(initial_window=100, fifo=1 << 18) as d:
            s = d.established(wscale=shift, win=field)
            d.write(s, 1 << 18)
            room = min(field << shift, 146000)
            assert room - 1460 < in_flight(d) <= room

    def test_the_syns_window_is_not(self) -> None:
        """RFC 7323 section 2.2: the window of a segment with SYN is never scaled."""
        with Drill() as d:
            s = d.connect()
            d.expect("S")
            d.inject("S.", seq=0, ack=1, win=3000, wscale=7, mss=1460, at=0.1)
            d.expect(".", seq=1, ack=1)
            d.write(s, 20000)
            assert in_flight(d) <= 3000

    def test_an_older_segment_does_not_change_it(self) -> None:
        """RFC 9293 section 3.10.7.4, fifth: SND.WL1 and SND.WL2 keep old segments from updating the window."""
        with Drill() as d:
            s = d.established()
            d.inject(".", seq=101, ack=1, length=100, win=1460)
            d.inject(".", seq=1, ack=1, length=100, win=65535)  # sent before, arrives later
            d.collect(until=1)
            d.write(s, 20000)
            assert in_flight(d) == 1460

    def test_an_older_ack_does_not_either(self) -> None:
        """RFC 9293 section 3.10.7.4, fifth: of two segments with the same number, that with the higher ACK is newer."""
        with Drill() as d:
            s = d.established()
            d.write(s, 1000)
            d.expect("P.", length=1000)
            d.inject(".", seq=1, ack=1001, win=1460)
            d.inject(".", seq=1, ack=1, win=65535)
            d.write(s, 20000)
            assert in_flight(d) == 1460

    def test_a_shrunken_window_stops_new_data(self) -> None:
        """RFC 9293 section 3.8.6 (SHLD-15, SHLD-16, SHLD-17, MUST-34): nothing new; what is outstanding is retransmitted
        within the window, and the connection lives."""
        with Drill(retries=4) as d:
            s = d.established()
            d.write(s, 10 * 1460)
            assert in_flight(d) == 10 * 1460
            d.write(s, 1460)
            d.inject(".", seq=1, ack=1461, win=2000, at=0.2)
            for x in d.collect(until=0.9):
                assert x.seq + x.length <= 1461 + 2000
            d.inject(".", seq=1, ack=1 + 10 * 1460, win=65535)
            assert [x.seq for x in d.collect()] == [1 + 10 * 1460]

    def test_a_window_that_shrinks_to_nothing_does_not_kill(self) -> None:
        """RFC 9293 section 3.8.6 (SHLD-17, MUST-34): data beyond the right edge does not time the connection out as long as
        the peer answers."""
        with Drill(retries=3) as d:
            s = d.established()
            d.write(s, 4380)
            d.collect()
            for k in range(40):
                d.inject(".", seq=1, ack=1, win=0, at=0.2 + k)
            d.collect()
            assert s.info()["state"] == "ESTABLISHED"
            d.inject(".", seq=1, ack=4381, win=65535, at=41)
            d.collect()
            d.write(s, 10)
            d.expect("P.", seq=4381, length=10)

    def test_no_silly_segments(self) -> None:
        """RFC 9293 section 3.8.6.2.1 (MUST-38): less than a full segment goes only when it is all there is, or half the
        largest window, or when the override timer says so."""
        with Drill() as d:
            s = d.established(win=4 * 1460)
            d.write(s, 20000)
            assert in_flight(d) == 4 * 1460
            d.inject(".", seq=1, ack=1 + 4 * 1460, win=500, at=0.11)
            d.expect_nothing(until=0.25)
            d.inject(".", seq=1, ack=1 + 4 * 1460, win=1460, at=0.26)
            d.expect(".", seq=1 + 4 * 1460, length=1460)

    def test_half_the_largest_window_is_not_silly(self) -> None:
        """RFC 9293 section 3.8.6.2.1 (3): Fs = 1/2 of the largest window the peer ever offered."""
        with Drill() as d:
            s = d.established(win=1000)
            d.write(s, 5000)
            assert d.expect(".", seq=1, length=1000).time == 0.1
            d.inject(".", seq=1, ack=1001, win=600)
            d.expect(".", seq=1001, length=600)

    def test_a_window_update_releases_data(self) -> None:
        """RFC 9293 section 3.10.7.4, fifth: the same ACK number with a new window is news."""
        with Drill() as d:
            s = d.established(win=0)
            d.write(s, 1000)
            d.expect_nothing(until=0.2)
            d.inject(".", seq=1, ack=1, win=65535)
            d.expect("P.", seq=1, length=1000)


class TestProbing:
    """RFC 9293 section 3.8.6.1."""

    def test_first_after_the_rto_then_backed_off(self) -> None:
        """MUST-35, MUST-36, SHLD-29, SHLD-30: 0.3 s after 0.1 s of RTT, then doubled. At most one octet each (the next
        one), or none: an old number, which is unacceptable and so is answered, too."""
        with Drill() as d:
            s = d.established(win=0)
            d.write(s, 1000)
            at = 0.1
            for wait in (0.3, 0.6, 1.2, 2.4):
                at += wait
                probe = d.expect(".", length=1, seq=1, at=at)
                d.inject(".", seq=1, ack=1, win=0, at=at + 0.05)
                assert probe.ack == 1

    def test_for_ever(self) -> None:
        """MUST-37: as long as the peer answers, its window may stay closed; intervals end at the largest RTO."""
        with Drill(retries=3) as d:
            s = d.established(win=0)
            d.write(s, 1000)
            times = []
            while d.now < 3600:
                probe = d.expect(".", length=1, seq=1, within=(d.now, d.now + 61))
                times.append(probe.time)
                d.inject(".", seq=1, ack=1, win=0)
            gaps = [b - a for a, b in itertools.pairwise(times)]
            assert all(59.9 < gap < 60.1 for gap in gaps[-30:])
            assert s.info()["state"] == "ESTABLISHED"

    def test_the_answer_may_open_the_window(self) -> None:
        """The octet was refused: all of the data follows. """
        with Drill() as d:
            s = d.established(win=0)
            d.write(s, 1000)
            d.expect(".", seq=1, length=1, at=0.4)
            d.inject(".", seq=1, ack=1, win=65535, at=0.5)
            d.expect("P.", seq=1, length=1000)

    def test_the_answer_may_acknowledge_the_probe(self) -> None:
        """The octet was taken: the rest follows."""
        with Drill() as d:
            s = d.established(win=0)
            d.write(s, 1000)
            d.expect(".", seq=1, length=1, at=0.4)
            d.inject(".", seq=1, ack=2, win=65535, at=0.5)
            d.expect("P.", seq=2, length=999)

    @pytest.mark.parametrize("taken", [0, 1], ids=["refused", "taken"])
    def test_its_backoff_is_not_that_of_losses(self, taken: int) -> None:
        """RFC 9293 section 3.8.6.1 and RFC 6298 section 5: intervals between probes grow because the window is closed; when it
        opens, a lost segment is sent again after the RTO that was measured, not after the next probe's time."""
        with Drill() as d:
            s = d.established(win=0)
            d.write(s, 1000)
            for at in (0.4, 1.0, 2.2, 4.6, 9.4):
                d.expect(".", seq=1, length=1, at=at)
                d.inject(".", seq=1, ack=1, win=0)
            d.inject(".", seq=1, ack=1 + taken, win=65535, at=9.5)
            d.expect("P.", seq=1 + taken, length=1000 - taken)
            d.expect("P.", seq=1 + taken, length=1000 - taken, at=9.8)

    def test_a_dead_peer_is_given_up(self) -> None:
        """RFC 6429 section 4, RFC 9293 section 3.8.3: without any answer the connection ends as for lost data."""
        with Drill(retries=3) as d:
            s = d.established(win=0)
            d.write(s, 1000)
            probes = [x for x in d.collect(until=60) if x.length == 1]
            assert len(probes) == 3
            with pytest.raises(TimeoutError):
                s.recv(1)

    def test_a_fin_waits_behind_a_closed_window(self) -> None:
        """RFC 9293 section 3.10.4 with 3.8.6: the FIN follows the data, and the data the window."""
        with Drill() as d:
            s = d.established(win=0)
            d.write(s, 10)
            s.close()
            d.expect(".", seq=1, length=1, at=0.4)
            d.inject(".", seq=1, ack=1, win=65535, at=0.5)
            d.expect("FP.", seq=1, length=10)
            d.inject("F.", seq=1, ack=12)
            d.expect(".", ack=2)
