"""Options: MSS (RFC 9293 section 3.7.1), window scale, timestamps and PAWS (RFC 7323), unknown and illegal ones."""

from __future__ import annotations

import pytest

from tests.tcp.drill import Drill


class TestMss:
    @pytest.mark.parametrize(("mtu", "mss"), [(1500, 1460), (576, 536), (9000, 8960), (296, 256)])
    def test_it_is_announced(self, mtu: int, mss: int) -> None:
        """RFC 9293 section 3.7.1 (MUST-14, SHLD-5, MAY-3, MUST-67), RFC 6691: MTU less 40, options not subtracted."""
        with Drill(mtu=mtu) as d:
            d.connect()
            d.expect("S", seq=0, mss=mss)
            d.listen()
            d.local_port = 80
            d.inject("S", seq=0, port=5000)
            d.expect("S.", ack=1, mss=mss, port=5000)

    def test_536_without_the_option(self) -> None:
        """RFC 9293 section 3.7.1 (MUST-15)."""
        with Drill() as d:
            s = d.established(mss=None)
            d.write(s, 1000)
            d.expect(".", length=536)
            d.inject(".", seq=1, ack=537)
            d.expect("P.", length=464)

    @pytest.mark.parametrize("mss", [100, 536, 1000, 1460])
    def test_the_peers_is_kept_to(self, mss: int) -> None:
        """RFC 9293 section 3.7.1 (MUST-16)."""
        with Drill() as d:
            s = d.established(mss=mss)
            d.write(s, 2 * mss)
            assert [x.length for x in d.collect()] == [mss, mss]

    def test_never_more_than_the_own_mtu(self) -> None:
        """RFC 9293 section 3.7.1 (MUST-16): min(SendMSS + 20, MMS_S) - 20 - IPoptionsize; the MTU is checked by the drill."""
        with Drill(mtu=1000) as d:
            s = d.established(mss=65535)
            d.write(s, 2000)
            assert [x.length for x in d.collect()] == [960, 960]

    @pytest.mark.parametrize("sack", [False, True])
    def test_timestamps_take_their_room(self, sack: bool) -> None:
        """RFC 9293 section 3.7.1 (MUST-16), RFC 6691 section 2: options are subtracted from what a segment may carry."""
        with Drill() as d:
            s = d.established(ts=True, sack=sack)
            d.write(s, 3000)
            assert [x.length for x in d.collect()] == [1448, 1448]

    @pytest.mark.parametrize("blocks", [1, 2, 3])
    def test_sack_blocks_take_their_room(self, blocks: int) -> None:
        """RFC 6691 section 2: also options that not every segment has; no segment is larger than the path's MTU."""
        with Drill() as d:
            s = d.established(ts=True, sack=True)
            for k in range(blocks):
                d.inject(".", seq=10001 + 1000 * k, ack=1, length=10)
            d.collect()
            d.write(s, 1448)
            sent = d.collect()
            assert sum(x.length for x in sent) <= 1448 and sent[0].length >= 1400  # the MTU is checked by the drill

    @pytest.mark.parametrize("mss", [0, 1, 8])
    def test_one_that_leaves_no_room(self, mss: int) -> None:
        """An MSS of zero (RFC 9293 section 3.7.1 gives no minimum) must not stop the sender, nor make one-byte segments."""
        with Drill() as d:
            s = d.established(mss=mss)
            d.write(s, 500)
            assert d.collect()[0].length >= 48

    def test_it_is_on_syns_only(self) -> None:
        """RFC 9293 section 3.7.1 (MUST-65): never on another segment; received there, it is ignored."""
        with Drill() as d:
            s = d.established(mss=1460)
            d.inject("P.", seq=1, ack=1, length=10, mss=100)
            d.write(s, 1460)
            sent = d.expect("P.", length=1460, mss=None)
            assert (sent.wscale, sent.sack_ok) == (None, False)


class TestNegotiation:
    @pytest.mark.parametrize("wscale", [None, 0, 7, 14])
    @pytest.mark.parametrize("sack", [False, True])
    @pytest.mark.parametrize("ts", [None, (77, 0)])
    def test_a_syn_ack_has_what_the_syn_had(self, wscale: int | None, sack: bool, ts: tuple[int, int] | None) -> None:
        """RFC 7323 sections 2.2 and 3.2, RFC 2018 section 2: never an option that the SYN did not offer."""
        with Drill(wscale=3) as d:
            d.listen()
            d.inject("S", seq=0, wscale=wscale, sack_ok=sack, ts=ts)
            sent = d.expect("S.", ack=1)
            assert sent.wscale == (None if wscale is None else 3)
            assert sent.sack_ok == sack
            assert (sent.ts is not None) == (ts is not None)
            assert sent.ts is None or sent.ts[1] == 77

    def test_a_syn_offers_all(self) -> None:
        """RFC 7323 sections 2.2 and 3.2: TSecr is zero when the ACK bit is off."""
        with Drill(fifo=1 << 18) as d:
            d.connect()
            sent = d.expect("S", seq=0, mss=1460, wscale=3, sack_ok=True)
            assert sent.ts is not None and sent.ts[1] == 0

    def test_a_syn_offers_what_it_may(self) -> None:
        """RFC 7323 section 2.2, RFC 2018 section 2: they are options; each can be turned off."""
        with Drill(wscale=None, sack=False, timestamps=False) as d:
            d.connect()
            d.expect("S", seq=0, mss=1460, wscale=None, sack_ok=False, ts=None)

    def test_what_is_turned_off_is_not_answered(self) -> None:
        """RFC 7323 sections 2.2 and 3.2, RFC 2018 section 2: an option is on when both sides sent it; else no window is
        scaled, no timestamp sent, nothing SACKed."""
        with Drill(wscale=None, sack=False, timestamps=False) as d:
            d.listen()
            d.inject("S", seq=0, mss=1460, wscale=7, sack_ok=True, ts=(77, 0))
            d.expect("S.", ack=1, mss=1460, wscale=None, sack_ok=False, ts=None)
            d.inject(".", seq=1, ack=1, win=3000)
            s = d.accept()
            d.inject(".", seq=1001, ack=1, length=10, win=3000)
            d.expect(".", ack=1, sack=(), ts=None, win=65535)
            d.write(s, 20000)
            assert 0 < sum(x.length for x in d.collect()) <= 3000

    @pytest.mark.parametrize(("option", "shift"), [(14, 14), (15, 14), (255, 14)])
    def test_the_largest_shift(self, option: int, shift: int) -> None:
        """RFC 7323 section 2.3: more than 14 is taken for 14."""
        with Drill() as d:
            s = d.established(wscale=option, win=1)
            assert s.info()["snd_scale"] == shift
            assert s.info()["snd_wnd"] == 1 << shift

    def test_scale_on_another_segment_is_ignored(self) -> None:
        """RFC 7323 section 2.2: in a segment without SYN the option is ignored."""
        with Drill() as d:
            s = d.established(win=2000)
            d.inject(".", seq=1, ack=1, wscale=5)
            d.write(s, 10_000)
            assert sum(x.length for x in d.collect()) <= 2000


class TestUnusual:
    @pytest.mark.parametrize(
        "raw", [b"\xfd\x06abcd", b"\1\1\1\xfe\x04??", b"\x22\x02", b"\x1e\x0c" + b"m" * 10], ids=lambda raw: raw.hex()
    )
    def test_unknown_options_are_ignored(self, raw: bytes) -> None:
        """RFC 9293 section 3.1 (MUST-5, MUST-6): in any segment, whatever they are."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0, mss=700, raw=raw)
            d.expect("S.", ack=1)
            d.inject(".", seq=1, ack=1, raw=raw)
            s = d.accept()
            d.inject("P.", seq=1, ack=1, length=10, raw=raw)
            assert d.read(s) == 10
            d.write(s, 700)
            d.expect("P.", length=700, ack=11)

    @pytest.mark.parametrize("raw", [b"\xfd\0", b"\xfd\1", b"\x02\x08\0\0", b"\x08\x0c??"], ids=lambda raw: raw.hex())
    def test_illegal_lengths_do_no_harm(self, raw: bytes) -> None:
        """RFC 9293 section 3.1 (MUST-7): zero, one, or beyond the header: the segment is dropped and counted."""
        with Drill() as d:
            s = d.established()
            d.inject("P.", seq=1, ack=1, length=10, raw=raw)
            d.expect_nothing(until=1)
            assert d.host.stats()["dropped"]["options"] == 1
            d.inject("P.", seq=1, ack=1, length=10)
            assert d.read(s) == 10
            d.collect(until=2)

    @pytest.mark.parametrize("padding", [0, 1, 2, 3])
    def test_any_alignment(self, padding: int) -> None:
        """RFC 9293 section 3.1 (MUST-64): options are processed whether or not they begin on a word."""
        with Drill() as d:
            d.listen()
            mss = b"\2\4\3\xe8"
            stamp = b"\x08\x0a\0\0\0\x4d\0\0\0\0"
            d.inject("S", seq=0, raw=b"\1" * padding + mss + stamp + b"\4\2")
            sent = d.expect("S.", ack=1, sack_ok=True)
            assert sent.ts is not None and sent.ts[1] == 0x4D
            d.inject(".", seq=1, ack=1, ts=(0x4E, sent.ts[0]))
            assert d.accept().info()["mss"] == 1000 - 12

    def test_padding_is_zero(self) -> None:
        """RFC 9293 section 3.1 (MUST-69, MUST-68): ours end on a word without padding, and all have their lengths; the drill
        reads each segment's options."""
        with Drill() as d:
            d.connect()
            d.expect("S", seq=0)


class TestTimestamps:
    def test_on_every_segment(self) -> None:
        """RFC 7323 section 3.2: once negotiated, TSopt MUST be sent in every non-RST segment."""
        with Drill() as d:
            s = d.established(ts=True)
            d.write(s, 10)
            d.inject("P.", seq=1, ack=11, length=10)
            s.close()
            for x in d.collect(until=1):
                assert x.ts is not None or "R" in x.flags

    def test_the_echo(self) -> None:
        """RFC 7323 section 4.2: TSecr is TS.Recent, the TSval of the last segment in order."""
        with Drill() as d:
            d.established(ts=True)
            d.inject("P.", seq=1, ack=1, length=10, ts=(5000, 0))
            sent = d.expect(".", ack=11, within=(0.1, 0.6))
            assert sent.ts is not None and sent.ts[1] == 5000

    def test_the_echo_of_delayed_acks(self) -> None:
        """RFC 7323 section 4.3 (A): of two segments that one ACK covers, the earlier one's is echoed, so that the RTT includes
        the delay."""
        with Drill() as d:
            d.established(ts=True)
            d.inject(".", seq=1, ack=1, length=1448, ts=(5000, 0))
            d.inject(".", seq=1449, ack=1, length=1448, ts=(5007, 0))
            sent = d.expect(".", ack=2897)
            assert sent.ts is not None and sent.ts[1] == 5000

    def test_the_echo_with_a_hole(self) -> None:
        """RFC 7323 section 4.3 (B): a segment behind a hole does not change TS.Recent."""
        with Drill() as d:
            d.established(ts=True)
            d.inject(".", seq=1449, ack=1, length=1448, ts=(6000, 0))
            sent = d.expect(".", ack=1)
            assert sent.ts is not None and sent.ts[1] < 6000

    def test_the_echo_of_a_filled_hole(self) -> None:
        """RFC 7323 section 4.3 (C): the segment that fills the hole is the one that is echoed."""
        with Drill() as d:
            d.established(ts=True)
            d.inject(".", seq=1449, ack=1, length=1448, ts=(6000, 0))
            d.expect(".", ack=1)
            d.inject(".", seq=1, ack=1, length=1448, ts=(6500, 0))
            sent = d.expect(".", ack=2897)
            assert sent.ts is not None and sent.ts[1] == 6500

    def test_the_clock(self) -> None:
        """RFC 7323 section 5.4: between 1 ms and 1 s per tick; a millisecond here."""
        with Drill(nagle=False) as d:
            s = d.established(ts=True)
            values = []
            for k in range(4):
                d.write(s, 10)
                values.append(d.expect("P.", length=10, seq=1 + 10 * k).ts)
                d.inject(".", seq=1, ack=11 + 10 * k, at=d.now + 0.05)
            stamps = [v[0] for v in values if v is not None]
            assert [b - stamps[0] & 0xFFFFFFFF for b in stamps] == [0, 50, 100, 150]

    def test_missing(self) -> None:
        """RFC 7323 section 3.2: a segment without it SHOULD be silently dropped, a reset excepted."""
        with Drill() as d:
            s = d.established(ts=True)
            d.inject("P.", seq=1, ack=1, length=10, ts=False)
            with pytest.raises(BlockingIOError):
                s.recv(1)
            d.collect(until=1)
            d.inject("R.", seq=1, ack=1, ts=False)
            with pytest.raises(ConnectionResetError):
                s.recv(1)

    def test_unwanted(self) -> None:
        """RFC 7323 section 3.2: without negotiation, a TSopt on a later segment is ignored."""
        with Drill() as d:
            s = d.established(ts=False)
            d.inject("P.", seq=1, ack=1, length=10, ts=(1, 0))
            assert d.read(s) == 10
            d.expect(".", ack=11, ts=None, within=(0.1, 0.6))


class TestPaws:
    """RFC 7323 section 5.3."""

    def test_an_old_segment_is_acknowledged_and_dropped(self) -> None:
        """R1: SEG.TSval < TS.Recent: "send an acknowledgment in reply" and drop, even inside the window."""
        with Drill() as d:
            s = d.established(ts=True)
            d.inject("P.", seq=1, ack=1, length=10, ts=(5000, 0))
            d.collect(until=0.5)
            assert d.read(s) == 10
            d.inject("P.", seq=11, ack=1, length=10, ts=(4999, 0))
            d.expect(".", ack=11)
            with pytest.raises(BlockingIOError):
                s.recv(1)

    def test_the_same_time_is_not_old(self) -> None:
        """R1: only less than TS.Recent."""
        with Drill() as d:
            s = d.established(ts=True)
            for seq in (1, 11):
                d.inject("P.", seq=seq, ack=1, length=10, ts=(5000, 0))
            assert d.read(s) == 20
            d.collect(until=1)

    def test_the_clock_wraps(self) -> None:
        """Section 5.2: "less than" is modulo 2**32."""
        with Drill() as d:
            d.listen()
            d.inject("S", seq=0, mss=1460, ts=(0xFFFFFFF0, 0))
            d.ts = True
            d.expect("S.")
            d.inject(".", seq=1, ack=1, ts=(0xFFFFFFFF, d.last_tsval))
            s = d.accept()
            d.inject("P.", seq=1, ack=1, length=10, ts=(5, d.last_tsval))
            assert d.read(s) == 10
            d.inject("P.", seq=11, ack=1, length=10, ts=(0xFFFFFFFF, d.last_tsval))
            with pytest.raises(BlockingIOError):
                s.recv(1)
            d.collect(until=1)

    def test_a_reset_is_exempt(self) -> None:
        """Section 5.2: PAWS does not apply to RST segments."""
        with Drill() as d:
            s = d.established(ts=True)
            d.inject("R.", seq=1, ack=1, ts=(1, 0))
            with pytest.raises(ConnectionResetError):
                s.recv(1)

    def test_after_24_days_the_timestamp_says_nothing(self) -> None:
        """Section 5.5: TS.Recent is invalid after 24 days of idleness."""
        with Drill() as d:
            s = d.established(ts=True)
            d.inject("P.", seq=1, ack=1, length=10, ts=(5000, 0), at=25 * 86400.0)
            assert d.read(s) == 10
            d.collect(until=25 * 86400.0 + 1)
            d.inject("P.", seq=11, ack=1, length=10, ts=(4000, 0), at=50 * 86400.0)
            assert d.read(s) == 10
            d.collect(until=50 * 86400.0 + 1)
