"""Data in both directions: segmentation, acknowledgments, reassembly (RFC 9293 sections 3.7, 3.8 and 3.10.7.4; RFC 5681 section
4.2)."""

from __future__ import annotations

import itertools
import socket as std
from typing import Any

import pytest

from tests.tcp.drill import Drill

DELACK = 0.04
"""The default of the configuration; RFC 9293 allows 0.5 s."""


class TestAcknowledgments:
    def test_a_single_segment_is_acknowledged_in_time(self) -> None:
        """RFC 9293 section 3.8.6.3 (SHLD-18, MUST-40): delayed, but by less than 0.5 s."""
        with Drill() as d:
            d.established()
            d.inject(".", seq=1, ack=1, length=1460, at=0.2)
            d.expect_nothing()
            d.expect(".", seq=1, ack=1461, at=0.2 + DELACK)

    def test_the_delay_is_configured(self) -> None:
        """RFC 9293 section 3.8.6.3: none at all is allowed, too."""
        with Drill(delack=0.0) as d:
            d.established()
            d.inject(".", seq=1, ack=1, length=10)
            d.expect(".", ack=11)

    def test_every_second_full_sized_segment(self) -> None:
        """RFC 9293 section 3.8.6.3 (SHLD-19), RFC 5681 section 4.2: an ACK for at least every second one."""
        with Drill() as d:
            d.established()
            for k in range(6):
                d.inject(".", seq=1 + 1460 * k, ack=1, length=1460)
                if k % 2:
                    d.expect(".", seq=1, ack=1 + 1460 * (k + 1))
                else:
                    d.expect_nothing()

    @pytest.mark.parametrize(("size", "count"), [(1000, 3), (500, 6), (100, 30), (1459, 3)])
    def test_twice_the_segment_size_in_small_ones(self, size: int, count: int) -> None:
        """RFC 9293 section 3.8.6.3 (SHLD-19): or for every 2 RMSS octets of new data."""
        with Drill() as d:
            d.established()
            for k in range(count - 1):
                d.inject(".", seq=1 + size * k, ack=1, length=size)
            d.expect_nothing()
            d.inject(".", seq=1 + size * (count - 1), ack=1, length=size)
            d.expect(".", ack=1 + size * count)

    def test_full_sized_is_what_the_peer_sends_as_such(self) -> None:
        """RFC 9293 section 3.8.6.3 (SHLD-19), RFC 5681 section 4.2: RMSS, the largest that the peer sends: with a small MSS
        both ways a segment of 536 is full-sized."""
        with Drill(mtu=576) as d:
            d.established(mss=536)
            d.inject(".", seq=1, ack=1, length=536)
            d.inject(".", seq=537, ack=1, length=536)
            d.expect(".", seq=1, ack=1073)

    def test_an_acknowledgment_rides_on_data(self) -> None:
        """RFC 9293 section 3.10.7.4, seventh: it should be piggybacked; nothing follows it when the timer comes."""
        with Drill() as d:
            s = d.established()
            d.inject("P.", seq=1, ack=1, length=100, at=0.2)
            d.write(s, 50)
            d.expect("P.", seq=1, ack=101, length=50)
            d.inject(".", seq=101, ack=51, at=0.21)
            d.expect_nothing(until=1)

    def test_out_of_order_is_acknowledged_at_once(self) -> None:
        """RFC 5681 section 4.2: an immediate duplicate ACK for each, so that the sender sees the loss (MAY-13)."""
        with Drill() as d:
            d.established()
            for k in (1, 2, 3):
                d.inject(".", seq=1 + 1460 * k, ack=1, length=1460)
                d.expect(".", seq=1, ack=1, win=65535)

    def test_filling_a_gap_is_acknowledged_at_once(self) -> None:
        """RFC 5681 section 4.2: an immediate ACK for a segment that fills all or part of a gap."""
        with Drill() as d:
            s = d.established()
            for seq in (1001, 3001):
                d.inject(".", seq=seq, ack=1, length=1000)
                d.expect(".", ack=1)
            d.inject(".", seq=1, ack=1, length=1000)
            d.expect(".", ack=2001)
            d.inject(".", seq=2001, ack=1, length=1000)
            d.expect(".", ack=4001)
            assert d.read(s) == 4000
            d.collect()

    def test_old_data_is_acknowledged_at_once(self) -> None:
        """RFC 9293 section 3.10.7.4, first: not acceptable, so an ACK is sent in reply."""
        with Drill() as d:
            s = d.established()
            d.inject(".", seq=1, ack=1, length=100)
            d.expect(".", ack=101, within=(0.1, 0.6))
            d.inject(".", seq=1, ack=1, length=100)
            d.expect(".", seq=1, ack=101)
            assert d.read(s) == 100

    def test_acks_are_not_acknowledged(self) -> None:
        """RFC 9293 section 3.4: a segment that occupies no sequence space is not acknowledged."""
        with Drill() as d:
            d.established()
            for _ in range(5):
                d.inject(".", seq=1, ack=1)
            d.expect_nothing(until=5)

    def test_one_ack_for_all_that_came_at_once(self) -> None:
        """RFC 9293 section 3.10.7.4 (MUST-58, MUST-59): queued segments are all processed before any ACK is sent."""
        with Drill() as d:
            s = d.established()
            now = d.clock / 1e9
            for k in range(8):
                d.host.receive(d.build(".", seq=1 + 1000 * k, ack=1, length=1000).pack(), now)
            d.expect(".", ack=8001)
            d.expect_nothing(until=1)
            assert d.read(s) == 8000
            d.collect()


class TestReassembly:
    @pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=lambda o: "".join(map(str, o)))
    def test_any_order(self, order: tuple[int, ...]) -> None:
        """RFC 9293 section 3.10.7.4 (SHLD-31): segments ahead are held; all arrives once and in order."""
        with Drill(peer_isn=0xFFFFFFFF - 700) as d:
            s = d.established()
            for k in order:
                d.inject(".", seq=1 + 300 * k, ack=1, length=300)
            assert d.collect(until=1)[-1].ack == 1201
            assert d.read(s) == 1200

    @pytest.mark.parametrize(
        "pieces",
        [
            [(1, 100), (51, 100)],
            [(1, 100), (1, 200)],
            [(101, 100), (1, 150)],
            [(101, 100), (1, 300)],
            [(101, 100), (51, 200), (1, 60)],
            [(101, 50), (201, 50), (1, 300)],
            [(101, 50), (201, 50), (120, 100), (1, 150)],
            [(101, 100), (151, 100), (1, 101)],
            [(1, 100), (50, 10), (20, 200)],
        ],
    )
    def test_overlaps(self, pieces: list[tuple[int, int]]) -> None:
        """RFC 9293 section 3.10.7.4: of a segment that straddles old and new only the new part is processed."""
        with Drill() as d:
            s = d.established()
            for seq, length in pieces:
                d.inject(".", seq=seq, ack=1, length=length)
            end = max(seq + length for seq, length in pieces)
            assert d.collect(until=1)[-1].ack == end
            assert d.read(s) == end - 1

    def test_a_byte_at_a_time_backwards(self) -> None:
        """The same with many pieces: what cannot be held is dropped and comes again (RFC 9293 section 3.4)."""
        with Drill() as d:
            s = d.established()
            for seq in range(100, 0, -1):
                d.inject(".", seq=seq, ack=1, length=1)
            d.collect()
            for seq in range(1, 101):
                d.inject(".", seq=seq, ack=1, length=1)
            assert d.collect(until=1)[-1].ack == 101
            assert d.read(s) == 100

    @pytest.mark.parametrize("isn", [0xFFFFFFFF - 10, 0xFFFFFFFF - 5000, 0x7FFFFFFF - 5000, 0])
    def test_across_the_end_of_the_numbers(self, isn: int) -> None:
        """RFC 9293 section 3.4: "0 to 2**32 - 1" wraps around; here in the middle of a transfer with a gap."""
        with Drill(peer_isn=isn) as d:
            s = d.established()
            for k in (0, 2, 3, 1, 4, 5, 6, 7):
                d.inject(".", seq=1 + 1460 * k, ack=1, length=1460)
            assert d.collect(until=1)[-1].ack == 1 + 8 * 1460
            assert d.read(s) == 8 * 1460
            d.collect()


class TestChecks:
    def test_no_ack_flag(self) -> None:
        """RFC 9293 section 3.10.7.4, fifth: the ACK bit is off, drop the segment."""
        with Drill() as d:
            s = d.established()
            d.inject("P", seq=1, length=100)
            d.expect_nothing(until=1)
            with pytest.raises(BlockingIOError):
                s.recv(100)

    @pytest.mark.parametrize("ack", [2, 1000, 2**30])
    def test_an_ack_for_what_was_never_sent(self, ack: int) -> None:
        """RFC 9293 section 3.10.7.4, fifth: send an ACK, drop the segment, and its data with it."""
        with Drill() as d:
            s = d.established()
            d.inject("P.", seq=1, ack=ack, length=100)
            d.expect(".", seq=1, ack=1)
            with pytest.raises(BlockingIOError):
                s.recv(100)

    def test_an_old_ack_with_data(self) -> None:
        """RFC 9293 section 3.10.7.4, fifth: a duplicate ACK can be ignored; the segment's text is not."""
        with Drill() as d:
            s = d.established()
            d.write(s, 1000)
            d.expect("P.", length=1000)
            d.inject(".", seq=1, ack=1001)
            d.inject("P.", seq=1, ack=1, length=100)
            assert d.read(s) == 100
            d.expect(".", ack=101, within=(0.1, 0.6))

    def test_an_ack_from_long_ago(self) -> None:
        """RFC 5961 section 5.2 (MAY-12): below SND.UNA - MAX.SND.WND it is discarded with its data, and an ACK sent back."""
        with Drill() as d:
            s = d.established()
            d.inject("P.", seq=1, ack=1 - 65536, length=100)
            d.expect(".", seq=1, ack=1)
            with pytest.raises(BlockingIOError):
                s.recv(100)
            d.inject("P.", seq=1, ack=1 - 65535, length=100)
            assert d.read(s) == 100
            d.collect(until=1)

    def test_urgent_data_is_data(self) -> None:
        """RFC 9293 section 3.8.5, RFC 6093 section 3: delivered in line; the pointer is not acted on here."""
        with Drill() as d:
            s = d.established()
            d.inject("PU.", seq=1, ack=1, length=100, urgent=50)
            assert d.read(s) == 100
            d.expect(".", ack=101, within=(0.1, 0.6))

    def test_a_wrong_checksum(self) -> None:
        """RFC 9293 section 3.1 (MUST-3): the segment is not processed, nor answered."""
        with Drill() as d:
            s = d.established()
            packet = bytearray(d.build("P.", seq=1, ack=1, length=100).pack())
            packet[-1] ^= 1
            d.packet(bytes(packet))
            d.expect_nothing(until=1)
            with pytest.raises(BlockingIOError):
                s.recv(100)
            assert d.host.stats()["dropped"]["tcp-checksum"] == 1


class TestSending:
    def test_segments_are_full(self) -> None:
        """RFC 9293 section 3.7.1 and 3.9.1.2 (SHLD-28, SHLD-27, MUST-61): as large as possible; PSH with the last data."""
        with Drill() as d:
            s = d.established()
            d.write(s, 4000)
            d.expect(".", seq=1, length=1460)
            d.expect(".", seq=1461, length=1460)
            d.inject(".", seq=1, ack=2921)
            d.expect("P.", seq=2921, length=1080)

    def test_nothing_is_held_back_without_reason(self) -> None:
        """RFC 9293 section 3.9.1.2 (MUST-60): without a PUSH call, data is not buffered indefinitely."""
        with Drill() as d:
            s = d.established()
            d.write(s, 1)
            d.expect("P.", seq=1, length=1)

    def test_nagle(self) -> None:
        """RFC 9293 section 3.7.4 (SHLD-7): with data in flight, less than a full segment waits for its ACK."""
        with Drill() as d:
            s = d.established()
            d.write(s, 10)
            d.expect("P.", seq=1, length=10)
            for _ in range(5):
                d.write(s, 10)
                d.expect_nothing()
            d.inject(".", seq=1, ack=11, at=0.2)
            d.expect("P.", seq=11, length=50)

    def test_nagle_lets_full_segments_go(self) -> None:
        """RFC 9293 section 3.7.4: what fills a segment is sent, the remainder waits."""
        with Drill() as d:
            s = d.established()
            d.write(s, 10)
            d.expect("P.", seq=1, length=10)
            d.write(s, 1500)
            d.expect(".", seq=11, length=1460)
            d.inject(".", seq=1, ack=1471)
            d.expect("P.", seq=1471, length=40)

    def test_nodelay(self) -> None:
        """RFC 9293 section 3.7.4 (MUST-17): an application can turn Nagle's rule off."""
        with Drill() as d:
            s = d.established()
            s.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1)
            for k in range(4):
                d.write(s, 10)
                d.expect("P.", seq=1 + 10 * k, length=10)

    def test_a_fin_does_not_wait_for_nagle(self) -> None:
        """RFC 9293 section 3.7.4 with 3.10.4: a last short segment goes with the FIN; nothing could be added to it."""
        with Drill() as d:
            s = d.established()
            d.write(s, 10)
            d.expect("P.", length=10)
            d.write(s, 10)
            s.shutdown(std.SHUT_WR)
            d.expect("FP.", seq=11, length=10)

    def test_both_directions_at_once(self) -> None:
        """RFC 9293 section 3.4: each direction has its own numbers; each segment acknowledges the other."""
        with Drill() as d:
            s = d.established()
            s.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1)
            for k in range(10):
                d.inject("P.", seq=1 + 100 * k, ack=1 + 50 * k, length=100)
                d.write(s, 50)
                d.expect("P.", seq=1 + 50 * k, ack=101 + 100 * k, length=50)
            assert d.read(s) == 1000

    @pytest.mark.parametrize(("config", "ttl"), [({}, 64), ({"ttl": 1}, 1), ({"ttl": 255}, 255)])
    def test_the_time_to_live(self, config: dict[str, Any], ttl: int) -> None:
        """RFC 9293 section 3.9.2 (MUST-49): configured, 64 by default; on every segment, SYN and reset included."""
        with Drill(**config) as d:
            d.listen()
            d.inject("S", seq=0)
            d.inject(".", seq=1, ack=1)
            d.write(d.accept(), 10)
            d.inject("S", seq=0, to=81)
            assert [(x.flags, x.ttl) for x in d.collect()] == [("S.", ttl), ("P.", ttl), ("R.", ttl)]

    @pytest.mark.parametrize("active", [False, True])
    def test_the_diffserv_field(self, active: bool) -> None:
        """RFC 9293 section 3.9.2 (MUST-48, SHLD-21, SHLD-22): given by the owner, for the SYN, too; changed on the way; ECN's
        bits stay clear (RFC 3168)."""
        with Drill() as d:
            if active:
                s = d.host.socket()
                s.setsockopt(std.IPPROTO_IP, std.IP_TOS, 0xB8)
                s.connect_ex(("10.0.0.2", 4000))
                d.expect("S", seq=0, tos=0xB8)
                d.inject("S.", seq=0, ack=1)
                d.expect(".", ack=1, tos=0xB8)
            else:
                d.listen().setsockopt(std.IPPROTO_IP, std.IP_TOS, 0xB8)
                s = d.established()
            d.write(s, 10)
            d.expect("P.", length=10, tos=0xB8)
            s.setsockopt(std.IPPROTO_IP, std.IP_TOS, 0x23)
            assert s.getsockopt(std.IPPROTO_IP, std.IP_TOS) == 0x20
            d.inject(".", seq=1, ack=11)
            d.write(s, 10)
            d.expect("P.", length=10, tos=0x20)

    def test_send_and_receive_buffers_are_bounded(self) -> None:
        """RFC 9293 section 3.9.1.2: SEND takes what there is room for, and says how much that was."""
        with Drill(fifo=4096) as d:
            s = d.established(win=1000)
            assert d.write(s, 10_000) == 4096
            with pytest.raises(BlockingIOError):
                s.send(b"x")
            sent = d.collect()
            assert sum(x.length for x in sent) <= 1000
            d.inject(".", seq=1, ack=1 + sum(x.length for x in sent))
            assert d.write(s, 10_000) == sum(x.length for x in sent)
            d.collect()
