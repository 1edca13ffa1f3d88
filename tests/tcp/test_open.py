"""Opening: RFC 9293 sections 3.4.1 and 3.5, and 3.10.7.1 to 3.10.7.3 (CLOSED, LISTEN, SYN-SENT)."""

from __future__ import annotations

import errno

import pytest

from tests.tcp.drill import Drill


class TestPassive:
    def test_three_way_handshake(self) -> None:
        """RFC 9293 section 3.5, figure 6: the connection is there with the third segment, not before."""
        with Drill() as d:
            listener = d.listen()
            d.inject("S", seq=0, mss=1460)
            d.expect("S.", seq=0, ack=1, mss=1460)
            with pytest.raises(BlockingIOError):
                listener.accept()
            d.inject(".", seq=1, ack=1, at=0.1)
            s, address = listener.accept()
            assert address == ("10.0.0.2", 4000)
            assert s.info()["state"] == "ESTABLISHED"
            d.expect_nothing(until=30)

    @pytest.mark.parametrize("isn", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF])
    def test_at_any_initial_sequence_number(self, isn: int) -> None:
        """RFC 9293 section 3.4: all arithmetic is modulo 2**32."""
        with Drill(peer_isn=isn) as d:
            s = d.established()
            d.inject("P.", seq=1, ack=1, length=10)
            d.expect(".", ack=11, within=(0.1, 0.6))
            assert d.read(s) == 10

    def test_the_third_segment_may_carry_data(self) -> None:
        """RFC 9293 section 3.10.7.4: after entering ESTABLISHED, processing goes on with this segment's text."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0)
            d.expect("S.", seq=0, ack=1)
            d.inject("P.", seq=1, ack=1, length=100, at=0.1)
            assert d.read(d.accept()) == 100
            d.expect(".", ack=101, within=(0.1, 0.6))

    def test_the_third_segment_may_carry_a_fin(self) -> None:
        """RFC 9293 section 3.10.7.4, eighth: a FIN in SYN-RECEIVED leads to CLOSE-WAIT."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0)
            d.expect("S.", seq=0, ack=1)
            d.inject("F.", seq=1, ack=1, at=0.1)
            d.expect(".", seq=1, ack=2, within=(0.1, 0.6))
            s = d.accept()
            assert s.recv(10) == b"" and s.info()["state"] == "CLOSE-WAIT"

    def test_data_on_the_syn_arrives_once(self) -> None:
        """RFC 9293 section 3.10.7.2: it may be queued for later; acknowledged or sent again, it is delivered once."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0, length=20)
            taken = d.expect("S.", seq=0).ack
            assert taken in (1, 21)
            d.inject("P.", seq=1, ack=1, length=20, at=0.1)
            assert d.read(d.accept()) == 20
            assert d.collect(until=1)[-1].ack == 21

    @pytest.mark.parametrize("flags", ["S", "S."])
    def test_a_lost_syn_ack_is_sent_again(self, flags: str) -> None:
        """RFC 9293 section 3.10.7.4, first: a duplicate of the SYN is answered with an ACK of it (a SYN,ACK is one)."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0)
            d.expect("S.", seq=0, ack=1)
            d.inject("S", seq=0, at=0.5)
            again = d.collect()
            assert [x.ack for x in again] == [1]
            d.inject(".", seq=1, ack=1)
            assert d.accept().info()["state"] == "ESTABLISHED"

    def test_the_syn_ack_is_retransmitted_with_backoff_and_given_up(self) -> None:
        """RFC 6298 rules 2.1 and 5.5, RFC 9293 section 3.8.3 (MUST-20, MUST-22): 1, 2, 4 ... seconds, then no trace."""
        with Drill(syn_retries=3) as d:
            listener = d.listen()
            d.inject("S", seq=0)
            for at in (0, 1, 3, 7):
                d.expect("S.", seq=0, ack=1, at=at)
            d.expect_nothing(until=60)
            with pytest.raises(BlockingIOError):
                listener.accept()
            assert d.host.stats()["connections"] == 0 and d.host.stats()["half_open"] == 0

    def test_old_duplicate_syn(self) -> None:
        """RFC 9293 section 3.5, figure 8: the reset of an old SYN returns to LISTEN, and the new SYN is served."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=-1000)
            old = d.expect("S.", ack=-999)
            d.inject("R", seq=-999, at=0.05)
            d.inject("S", seq=0, at=0.1)
            d.expect("S.", seq=0, ack=1)
            d.inject(".", seq=1, ack=1, at=0.2)
            d.accept()
            assert old.flags == "S."

    def test_a_reset_in_syn_received_returns_to_listen(self) -> None:
        """RFC 9293 section 3.10.7.4, second (MUST-11): after a passive OPEN nobody is told, and the next one comes."""
        with Drill() as d:
            listener = d.listen()
            d.inject("S", seq=0)
            d.expect("S.", seq=0, ack=1)
            d.inject("R", seq=1, at=0.1)
            d.expect_nothing(until=70)
            with pytest.raises(BlockingIOError):
                listener.accept()
            assert d.host.stats()["connections"] == 0
            d.established()

    @pytest.mark.parametrize("ack", [0, -1, 2, 1000, -(2**31)])
    def test_a_wrong_ack_in_syn_received_is_reset(self, ack: int) -> None:
        """RFC 9293 section 3.10.7.4, fifth: <SEQ=SEG.ACK><CTL=RST>, and the connection stays half open."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0)
            d.expect("S.", seq=0, ack=1)
            d.inject(".", seq=1, ack=ack, at=0.1)
            d.expect("R", seq=ack)
            d.inject(".", seq=1, ack=1)
            d.accept()

    @pytest.mark.parametrize("offset", [-70000, 500, 70000])
    def test_another_syn_in_syn_received(self, offset: int) -> None:
        """RFC 9293 section 3.10.7.4, fourth, and RFC 5961 section 4: the peer began anew with another number. Either the new
        SYN is answered, or an ACK has the peer reset the old attempt; its SYN is served when it comes again."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0)
            d.expect("S.", seq=0, ack=1)
            d.inject("S", seq=offset, at=0.1)
            answer = d.collect()
            if not any(x.flags == "S." and x.ack == offset + 1 for x in answer):
                assert [(x.flags.strip("S"), x.ack) for x in answer] == [(".", 1)]
                d.inject("R", seq=1)
                d.inject("S", seq=offset, at=1)
                d.expect("S.", seq=0, ack=offset + 1)
            d.inject(".", seq=offset + 1, ack=1)
            d.accept()

    def test_no_ack_flag_in_syn_received(self) -> None:
        """RFC 9293 section 3.10.7.4, fifth: the ACK bit is off, drop the segment."""
        with Drill() as d:
            listener = d.listen()
            d.inject("S", seq=0)
            d.expect("S.", seq=0, ack=1)
            d.inject("P", seq=1, length=10, at=0.1)
            d.expect_nothing()
            with pytest.raises(BlockingIOError):
                listener.accept()
            d.expect("S.", seq=0, ack=1, at=1)

    def test_many_at_once(self) -> None:
        """RFC 9293 section 3.9.1.1 (MUST-41): a passive OPEN never interferes with connections that exist."""
        with Drill() as d:
            listener = d.listen()
            for port in (5001, 5002, 5003):
                d.inject("S", seq=0, port=port)
                d.expect("S.", seq=0, ack=1, port=port)
            for port in (5002, 5003, 5001):
                d.inject(".", seq=1, ack=1, port=port)
            assert [listener.accept()[1][1] for _ in range(3)] == [5002, 5003, 5001]

    def test_two_listeners(self) -> None:
        """RFC 9293 section 3.9.1.1: each passive OPEN has a local port of its own here; a second for it is refused."""
        with Drill() as d:
            d.listen(80)
            other = d.host.socket()
            other.listen(81)
            d.inject("S", seq=0, to=81)
            d.expect("S.", seq=0, ack=1, local_port=81)
            d.inject(".", seq=1, ack=1)
            assert other.accept()[1] == ("10.0.0.2", 4000)
            with pytest.raises(OSError) as caught:
                d.host.socket().listen(80)
            assert caught.value.errno == errno.EADDRINUSE

    def test_listening_on_a_port_that_connects(self) -> None:
        """RFC 9293 section 3.9.1.1 (MUST-42): a passive OPEN on the local port of a connection in SYN-SENT or SYN-RECEIVED."""
        with Drill() as d:
            s = d.host.socket()
            assert s.connect_ex(("10.0.0.2", 4000), local_port=80) == errno.EINPROGRESS
            d.expect("S", seq=0, port=4000)
            listener = d.listen(80)
            d.inject("S", seq=0, port=5000)
            d.expect("S.", seq=0, ack=1, port=5000)
            d.inject(".", seq=1, ack=1, port=5000)
            assert listener.accept()[1] == ("10.0.0.2", 5000)
            d.inject("S.", seq=0, ack=1, port=4000)
            d.expect(".", seq=1, ack=1, port=4000)

    def test_a_host_with_many_addresses(self) -> None:
        """RFC 9293 section 3.9.1.1 (MUST-44, MUST-45): the address that the SYN was for is the source of all that follows."""
        with Drill(addr="0.0.0.0") as d:
            d.address = 0x0A00004D
            d.listen()
            d.inject("S", seq=0, dst=d.address)
            d.expect("S.", seq=0, ack=1)
            d.inject(".", seq=1, ack=1, dst=d.address)
            s = d.accept()
            assert s.getsockname() == ("10.0.0.77", 80)
            d.inject("P.", seq=1, ack=1, length=10, dst=d.address)
            d.expect(".", ack=11, within=(0, 0.5))
            d.inject(".", seq=11, ack=1, port=9, dst=d.address)
            d.expect("R", port=9)

    @pytest.mark.parametrize(
        ("flags", "ack", "answer"),
        [("R", None, None), ("R.", 5, None), (".", 5, "R"), ("F.", 5, "R"), ("S.", 5, "R"), ("F", None, None), ("P", None, None)],
    )
    def test_what_is_no_syn_in_listen(self, flags: str, ack: int | None, answer: str | None) -> None:
        """RFC 9293 section 3.10.7.2: an RST is ignored, an ACK is reset with its own number, the rest is dropped."""
        with Drill() as d:
            d.listen()
            d.inject(flags, seq=7, ack=ack)
            if answer:
                d.expect(answer, seq=5)
            d.expect_nothing(until=5)
            assert d.host.stats()["connections"] == 0

    def test_a_full_backlog_drops_syns_until_there_is_room(self) -> None:
        """RFC 4987 section 3.2 and listen(): connections that nobody took are bounded; service goes on when some are."""
        with Drill() as d:
            listener = d.listen(backlog=2)
            for port in (5001, 5002):
                d.inject("S", seq=0, port=port)
                d.expect("S.", seq=0, ack=1, port=port)
                d.inject(".", seq=1, ack=1, port=port)
            d.inject("S", seq=0, port=5003)
            d.expect_nothing(until=0.5)
            assert d.host.stats()["dropped"]["backlog-full"] == 1
            listener.accept()
            d.inject("S", seq=0, port=5003, at=1)
            d.expect("S.", seq=0, ack=1, port=5003)
            d.inject(".", seq=1, ack=1, port=5003)
            listener.accept()
            listener.accept()

    def test_a_flood_of_syns_is_bounded(self) -> None:
        """RFC 4987 section 3.2: at most ``half_open_limit`` half-open connections; they go away, and service goes on."""
        with Drill(half_open_limit=8, syn_retries=1) as d:
            d.listen()
            for port in range(6000, 6100):
                d.inject("S", seq=0, port=port)
            assert len(d.collect()) == 8
            stats = d.host.stats()
            assert stats["half_open"] == 8 and stats["dropped"]["half-open-full"] == 92
            assert len(d.collect(until=60)) == 8  # one retransmission each
            assert d.host.stats()["half_open"] == 0
            d.established()

    def test_closing_the_listener(self) -> None:
        """RFC 9293 section 3.10.4: CLOSE in LISTEN deletes it; the port then answers as one without."""
        with Drill() as d:
            d.listen().close()
            d.inject("S", seq=0)
            d.expect("R.", seq=0, ack=1)


class TestActive:
    def test_three_way_handshake(self) -> None:
        """RFC 9293 section 3.5, figure 6, the other side."""
        with Drill() as d:
            s = d.connect()
            assert s.info()["state"] == "SYN-SENT"
            d.expect("S", seq=0, mss=1460)
            d.inject("S.", seq=0, ack=1, mss=1460, at=0.1)
            d.expect(".", seq=1, ack=1)
            assert s.info()["state"] == "ESTABLISHED"
            d.expect_nothing(until=30)

    @pytest.mark.parametrize("flags", ["S.", "SP.", "SF."])
    def test_what_is_on_the_syn_ack_arrives_once(self, flags: str) -> None:
        """RFC 9293 section 3.10.7.3, fourth: data and FIN on it are taken, or come again; in the end they are there once."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject(flags, seq=0, ack=1, length=20, at=0.1)
            taken = d.collect()[-1].ack
            fin = "F" in flags
            assert taken in (1, 21, 21 + fin)
            d.inject("FP." if fin else "P.", seq=1, ack=1, length=20, at=0.2)
            assert d.collect(until=1)[-1].ack == 21 + fin
            assert d.read(s) == 20
            if fin:
                assert s.recv(1) == b""

    def test_simultaneous_open(self) -> None:
        """RFC 9293 section 3.5, figure 7 (MUST-10): both send SYNs, both answer SYN,ACK, one connection results."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject("S", seq=0, mss=1460, at=0.1)
            d.expect("S.", seq=0, ack=1)
            d.inject("S.", seq=0, ack=1, mss=1460, at=0.2)
            assert all(x.flags == "." and x.ack == 1 for x in d.collect())
            assert s.info()["state"] == "ESTABLISHED"
            d.write(s, 10)
            d.expect("P.", seq=1, ack=1, length=10)

    def test_simultaneous_open_ended_by_a_plain_ack(self) -> None:
        """RFC 9293 section 3.10.7.4, fifth: an acceptable ACK in SYN-RECEIVED establishes, with or without SYN."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject("S", seq=0, at=0.1)
            d.expect("S.", seq=0, ack=1)
            d.inject(".", seq=1, ack=1, at=0.2)
            assert s.info()["state"] == "ESTABLISHED"

    def test_simultaneous_open_does_not_scale_the_syns_window(self) -> None:
        """RFC 7323 section 2.2: the window of a segment with SYN is never scaled, the SYN,ACK that ends a simultaneous open
        included."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject("S", seq=0, mss=1460, wscale=7, win=3000, at=0.1)
            d.expect("S.", seq=0, ack=1)
            d.inject("S.", seq=0, ack=1, mss=1460, wscale=7, win=3000, at=0.2)
            d.collect()
            d.write(s, 20000)
            assert 0 < sum(x.length for x in d.collect()) <= 3000

    def test_a_reset_in_simultaneous_open_refuses(self) -> None:
        """RFC 9293 section 3.10.7.4, second (MUST-11): SYN-RECEIVED that came from SYN-SENT, "connection refused"."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject("S", seq=0, at=0.1)
            d.expect("S.", seq=0, ack=1)
            d.inject("R.", seq=1, ack=1, at=0.2)
            with pytest.raises(ConnectionRefusedError):
                s.recv(1)
            d.expect_nothing(until=10)

    def test_refused(self) -> None:
        """RFC 9293 section 3.10.7.3, second: RST with an acceptable ACK, "connection reset" (ECONNREFUSED)."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject("R.", seq=0, ack=1, at=0.1)
            with pytest.raises(ConnectionRefusedError):
                s.send(b"x")
            d.expect_nothing(until=70)
            assert d.host.stats()["connections"] == 0

    @pytest.mark.parametrize(("flags", "ack"), [("R", None), ("R.", 0), ("R.", 2), ("R.", -5)])
    def test_a_reset_that_is_not_for_our_syn(self, flags: str, ack: int | None) -> None:
        """RFC 9293 section 3.10.7.3, second: without ACK, or with one that is not acceptable, it is dropped."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject(flags, seq=0, ack=ack, at=0.1)
            d.expect_nothing()
            assert s.info()["state"] == "SYN-SENT"
            d.expect("S", seq=0, at=1)

    @pytest.mark.parametrize("flags", [".", "S.", "F."])
    @pytest.mark.parametrize("ack", [0, 2, -7, 100000])
    def test_an_unacceptable_ack_is_reset(self, flags: str, ack: int) -> None:
        """RFC 9293 section 3.10.7.3, first: <SEQ=SEG.ACK><CTL=RST>, and SYN-SENT goes on."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject(flags, seq=0, ack=ack, at=0.1)
            d.expect("R", seq=ack)
            assert s.info()["state"] == "SYN-SENT"
            d.inject("S.", seq=0, ack=1, at=0.2)
            d.expect(".", seq=1, ack=1)

    @pytest.mark.parametrize(("flags", "ack"), [(".", 1), ("P.", 1), ("F.", 1), ("F", None), ("P", None)])
    def test_neither_syn_nor_rst(self, flags: str, ack: int | None) -> None:
        """RFC 9293 section 3.10.7.3, fifth: drop the segment and return."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            d.inject(flags, seq=1, ack=ack, at=0.1)
            d.expect_nothing(until=0.9)
            assert s.info()["state"] == "SYN-SENT"

    def test_syn_retransmission_and_giving_up(self) -> None:
        """RFC 6298 rules 2.1, 5.5 and RFC 9293 section 3.8.3 (MUST-20, MUST-22): 1 s, doubled; then ETIMEDOUT."""
        with Drill(syn_retries=4) as d:
            s = d.connect()
            for at in (0, 1, 3, 7, 15):
                d.expect("S", seq=0, at=at)
            d.expect_nothing(until=30.9)
            assert s.info()["state"] == "SYN-SENT"
            d.run(31.1)
            with pytest.raises(TimeoutError):
                s.recv(1)
            assert d.host.stats()["connections"] == 0

    @pytest.mark.parametrize("retries", [7])
    def test_three_minutes_for_a_syn_can_be_had(self, retries: int) -> None:
        """RFC 9293 section 3.8.3 (MUST-21, MUST-23): R2 for a SYN can be set to 3 minutes; the default is shorter."""
        with Drill(syn_retries=retries) as d:
            s = d.connect()
            assert len(d.collect(until=180)) == 1 + retries
            assert s.info()["state"] == "SYN-SENT"

    def test_close_in_syn_sent(self) -> None:
        """RFC 9293 section 3.10.4: delete the TCB; a late SYN,ACK then meets nobody and is reset."""
        with Drill() as d:
            s = d.connect()
            d.expect("S", seq=0)
            s.close()
            d.expect_nothing(until=10)
            d.inject("S.", seq=0, ack=1)
            d.expect("R", seq=1)

    def test_half_open_connection_discovered_by_the_crashed_side(self) -> None:
        """RFC 9293 section 3.5.1, figure 9: the ACK that answers our SYN is from a forgotten connection: reset it, and go
        on with the SYN."""
        with Drill() as d:
            d.connect()
            d.expect("S", seq=0)
            d.inject(".", seq=300, ack=-100, at=0.1)
            d.expect("R", seq=-100)
            d.expect("S", seq=0, at=1)
            d.inject("S.", seq=0, ack=1, at=1.1)
            d.expect(".", seq=1, ack=1)

    def test_data_may_follow_the_handshake_at_once(self) -> None:
        """RFC 9293 section 3.10.7.3, fourth: data queued for transmission may go with the ACK of the SYN."""
        with Drill() as d:
            s = d.established(active=True)
            d.write(s, 100)
            d.expect("P.", seq=1, ack=1, length=100)
            d.inject(".", seq=1, ack=101, at=0.2)

    @pytest.mark.parametrize("address", ["255.255.255.255", "224.0.0.1", "10.0.0.255", "0.0.0.0"])
    def test_open_to_an_impossible_address(self, address: str) -> None:
        """RFC 9293 section 3.9.2.3 (MUST-46): an OPEN to a broadcast or multicast address is rejected."""
        with Drill() as d:
            assert d.host.socket().connect_ex((address, 80)) not in (0, errno.EINPROGRESS)
            d.expect_nothing(until=1)

    @pytest.mark.parametrize("src", [0x0A0000FF, 0xE0000001, 0xFFFFFFFF, 0, 0x0A000001])
    def test_a_syn_from_an_impossible_address(self, src: int) -> None:
        """RFC 9293 section 3.9.2.3 (MUST-63): ignored; the last one is our own (RFC 1122 section 3.2.1.3)."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0, src=src)
            d.expect_nothing(until=5)
            assert d.host.stats()["dropped"]["source"] == 1

    @pytest.mark.parametrize("dst", [0x0A0000FF, 0xE0000001, 0xFFFFFFFF])
    def test_a_syn_to_many(self, dst: int) -> None:
        """RFC 9293 section 3.9.2.3 (MUST-57): silently discarded."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0, dst=dst)
            d.expect_nothing(until=5)


class TestInitialSequenceNumber:
    def test_it_is_driven_by_a_clock(self) -> None:
        """RFC 9293 section 3.4.1 (MUST-8), RFC 6528 section 3: one more every 4 microseconds for the same addresses and
        ports."""
        with Drill() as d:
            d.listen()
            numbers = []
            for at in (0.0, 1.0, 3.0):
                d.inject("S", seq=0, at=at)
                d.expect("S.", ack=1)
                numbers.append(d.host_isn[4000])
                d.inject("R", seq=1)
            assert [n - numbers[0] & 0xFFFFFFFF for n in numbers] == [0, 250_000, 750_000]

    def test_it_differs_by_addresses_ports_and_secret(self) -> None:
        """RFC 9293 section 3.4.1 (SHLD-1, MUST-9), RFC 6528 section 3: F of both addresses, both ports, and a secret."""
        numbers = set()
        for seed in (1, 2):
            with Drill(seed=seed) as d:
                d.listen()
                for src in (0x0A000002, 0x0A000003):
                    for port in (4000, 4001):
                        d.inject("S", seq=0, src=src, port=port)
                        d.expect("S.", ack=1)
                        numbers.add(d.host_isn[port] >> 12)
        assert len(numbers) == 8
