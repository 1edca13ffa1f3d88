"""Resets and blind attacks: RFC 9293 sections 3.5.2, 3.5.3 and 3.10.7.4; RFC 5961 sections 3 (RST), 4 (SYN), 5 (ACK) and 7."""

from __future__ import annotations

import socket as std
from collections.abc import Callable
from typing import Any

import pytest

from tests.tcp.drill import Drill


def established(d: Drill) -> Any:
    return d.established()


def fin_wait_1(d: Drill) -> Any:
    s = d.established()
    s.shutdown(std.SHUT_WR)
    d.expect("F.", seq=1, ack=1)
    return s


def fin_wait_2(d: Drill) -> Any:
    s = fin_wait_1(d)
    d.inject(".", seq=1, ack=2)
    return s


def close_wait(d: Drill) -> Any:
    s = d.established()
    d.inject("F.", seq=1, ack=1)
    d.expect(".", ack=2, within=(0.1, 0.6))
    return s


def closing(d: Drill) -> Any:
    s = fin_wait_1(d)
    d.inject("F.", seq=1, ack=1)
    d.expect(".", seq=2, ack=2)
    return s


def last_ack(d: Drill) -> Any:
    s = close_wait(d)
    s.shutdown(std.SHUT_WR)
    d.expect("F.", seq=1, ack=2)
    return s


# The state, how to get there, and then SND.NXT and RCV.NXT.
STATES: list[tuple[str, Callable[[Drill], Any], int, int]] = [
    ("ESTABLISHED", established, 1, 1),
    ("FIN-WAIT-1", fin_wait_1, 2, 1),
    ("FIN-WAIT-2", fin_wait_2, 2, 1),
    ("CLOSE-WAIT", close_wait, 1, 2),
    ("CLOSING", closing, 2, 2),
    ("LAST-ACK", last_ack, 2, 2),
]
SYNCHRONIZED = pytest.mark.parametrize(("name", "get", "snd", "rcv"), STATES, ids=[state[0] for state in STATES])


def quiet(d: Drill) -> list[str]:
    """Flags of what was sent, but for retransmitted FINs."""
    return [x.flags for x in d.collect() if "F" not in x.flags]


@SYNCHRONIZED
class TestStates:
    """RFC 9293 section 3.10.7.4, second and fourth checks, with RFC 5961's stricter rules, in each synchronized state."""

    def test_an_exact_reset_is_believed(self, name: str, get: Callable[[Drill], Any], snd: int, rcv: int) -> None:
        """RFC 5961 section 3.2: SEG.SEQ = RCV.NXT resets."""
        with Drill() as d:
            s = get(d)
            assert s.info()["state"] == name
            d.inject("R", seq=rcv)
            assert quiet(d) == []
            assert d.host.stats()["connections"] == 0
            d.expect_nothing(until=d.now + 100)

    def test_one_inside_the_window_is_challenged(self, name: str, get: Callable[[Drill], Any], snd: int, rcv: int) -> None:
        """RFC 5961 section 3.2: in the window but not exact: <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>."""
        with Drill() as d:
            s = get(d)
            d.inject("R", seq=rcv + 1000)
            d.expect(".", seq=snd, ack=rcv)
            assert s.info()["state"] == name

    def test_one_outside_the_window_is_dropped(self, name: str, get: Callable[[Drill], Any], snd: int, rcv: int) -> None:
        """RFC 5961 section 3.2: silently."""
        with Drill() as d:
            s = get(d)
            for seq in (rcv - 1, rcv + 70000, rcv - 2**31, rcv + 2**30):
                d.inject("R", seq=seq)
            d.expect_nothing()
            assert s.info()["state"] == name

    @pytest.mark.parametrize("offset", [-100000, -1, 0, 1000, 100000])
    @pytest.mark.parametrize("flags", ["S", "S."])
    def test_a_syn_is_challenged(
        self, name: str, get: Callable[[Drill], Any], snd: int, rcv: int, offset: int, flags: str
    ) -> None:
        """RFC 5961 section 4.2: whatever its number is: a challenge ACK, and nothing changes."""
        with Drill() as d:
            s = get(d)
            d.inject(flags, seq=rcv + offset, ack=snd if "." in flags else None)
            d.expect(".", seq=snd, ack=rcv)
            assert s.info()["state"] == name

    def test_no_ack_flag(self, name: str, get: Callable[[Drill], Any], snd: int, rcv: int) -> None:
        """RFC 9293 section 3.10.7.4, fifth: dropped, FIN and data with it."""
        with Drill() as d:
            s = get(d)
            d.inject("FP", seq=rcv, data=b"?")
            assert quiet(d) == []
            assert s.info()["state"] == name

    def test_an_ack_of_the_future(self, name: str, get: Callable[[Drill], Any], snd: int, rcv: int) -> None:
        """RFC 9293 section 3.10.7.4, fifth; RFC 5961 section 5.2: answered with an ACK, dropped."""
        with Drill() as d:
            s = get(d)
            d.inject(".", seq=rcv, ack=snd + 1)
            d.expect(".", seq=snd, ack=rcv)
            assert s.info()["state"] == name


class TestReset:
    def test_the_application_is_told(self) -> None:
        """RFC 9293 section 3.9.2.2 (MUST-12, MUST-47): "connection reset" on whatever is called next, once; then the end."""
        with Drill() as d:
            s = d.established()
            d.inject("R", seq=1)
            with pytest.raises(ConnectionResetError):
                s.recv(1)
            assert s.recv(1) == b""
            with pytest.raises(BrokenPipeError):
                s.send(b"x")

    def test_a_send_is_told_too(self) -> None:
        """RFC 9293 section 3.10.7.4, second: outstanding SENDs receive "reset" responses."""
        with Drill() as d:
            s = d.established()
            d.inject("R", seq=1)
            with pytest.raises(ConnectionResetError):
                s.send(b"x")

    def test_so_error(self) -> None:
        """RFC 9293 section 3.9.1.6: STATUS; the error can be fetched instead."""
        with Drill() as d:
            s = d.established()
            d.inject("R.", seq=1, ack=1)
            assert s.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == 104
            assert s.getsockopt(std.SOL_SOCKET, std.SO_ERROR) == 0

    def test_with_data_in_flight(self) -> None:
        """RFC 9293 section 3.10.7.4, second: all segment queues are flushed, nothing is retransmitted."""
        with Drill() as d:
            s = d.established()
            d.write(s, 5000)
            d.collect()
            d.inject("R", seq=1)
            d.expect_nothing(until=100)
            assert d.host.stats()["connections"] == 0

    def test_it_may_carry_text(self) -> None:
        """RFC 9293 section 3.5.3 (SHLD-2): an RST with data is an RST."""
        with Drill() as d:
            s = d.established()
            d.inject("R.", seq=1, ack=1, data=b"because")
            with pytest.raises(ConnectionResetError):
                s.recv(1)

    @pytest.mark.parametrize("ack", [0, 1, 2, 100000, -100000])
    def test_its_acknowledgment_does_not_matter(self, ack: int) -> None:
        """RFC 9293 section 3.5.3: in all states but SYN-SENT resets are validated by their sequence number."""
        with Drill() as d:
            d.established()
            d.inject("R.", seq=1, ack=ack)
            assert d.host.stats()["connections"] == 0

    @pytest.mark.parametrize("flags", ["FR.", "SR", "SR.", "PR.", "FSRPU."])
    def test_it_goes_before_other_flags(self, flags: str) -> None:
        """RFC 9293 section 3.10.7.4: RST is checked second, the other flags later."""
        with Drill() as d:
            d.established()
            d.inject(flags, seq=1, ack=1 if "." in flags else None)
            d.expect_nothing()
            assert d.host.stats()["connections"] == 0

    def test_half_open_discovered_by_the_old_side(self) -> None:
        """RFC 9293 section 3.5.1, figure 9, and RFC 5961 section 4.2: a restarted peer's SYN is challenged; its reset, which
        has the number that the challenge acknowledged, ends the old connection; its next SYN begins a new one."""
        with Drill() as d:
            s = d.established()
            d.inject("S", seq=5000, at=1)
            d.expect(".", seq=1, ack=1)
            d.inject("R", seq=1, at=1.1)
            with pytest.raises(ConnectionResetError):
                s.recv(1)
            d.inject("S", seq=5000, at=2)
            d.expect("S.", seq=0, ack=5001)

    def test_half_open_discovered_by_sending(self) -> None:
        """RFC 9293 section 3.5.1, figure 10: data to a peer that has forgotten is answered by a reset."""
        with Drill() as d:
            s = d.established()
            d.write(s, 100)
            d.expect("P.", seq=1, ack=1, length=100)
            d.inject("R", seq=1, at=0.2)
            with pytest.raises(ConnectionResetError):
                s.recv(1)

    def test_across_the_end_of_the_numbers(self) -> None:
        """RFC 9293 section 3.4: the exact number, one before it, and one after, around 2**32."""
        for offset in (-1, 1, 0):
            with Drill(peer_isn=0xFFFFFFFF) as d:  # the next expected number is 0
                d.established()
                d.inject("R", seq=1 + offset)
                assert d.host.stats()["connections"] == (offset != 0)
                assert len(d.collect()) == (offset == 1)


class TestChallengeLimit:
    def test_so_many_a_second(self) -> None:
        """RFC 5961 section 7: the number of challenge ACKs is limited, in any one second, for the stack as a whole."""
        with Drill(challenge_limit=5) as d:
            d.established()
            for k in range(20):
                d.inject("R", seq=100 + k)
            assert len(d.collect()) == 5
            d.pause(1.01)
            for k in range(20):
                d.inject("S", seq=100 + k)
            assert len(d.collect()) == 5
            assert d.host.stats()["challenges"] == 10

    def test_it_does_not_limit_the_rest(self) -> None:
        """RFC 5961 section 7 is about challenges: data is acknowledged all the same."""
        with Drill(challenge_limit=0) as d:
            s = d.established()
            d.inject("R", seq=100)
            d.expect_nothing()
            d.inject(".", seq=1, ack=1, length=1460)
            d.inject(".", seq=1461, ack=1, length=1460)
            d.expect(".", ack=2921)
            assert d.read(s) == 2920
            d.collect()


class TestStray:
    """Segments of no connection (RFC 9293 section 3.10.7.1) while others exist."""

    @pytest.mark.parametrize(
        "where", [{"port": 4001}, {"to": 81}, {"src": 0x0A000003}], ids=["another port", "another service", "another host"]
    )
    def test_they_are_reset_and_nobody_else_is(self, where: dict[str, int]) -> None:
        with Drill() as d:
            s = d.established()
            d.inject(".", seq=1, ack=1, **where)
            assert [x.flags for x in d.collect()] == ["R"]
            assert s.info()["state"] == "ESTABLISHED"

    def test_many_of_them_are_bounded(self) -> None:
        """A flood of strays is answered as far as the queue of resets goes; what is dropped is counted."""
        with Drill() as d:
            for port in range(1000, 2000):
                d.host.receive(d.build(".", seq=1, ack=1, port=port).pack(), d.clock / 1e9)
            answered = len(d.collect())
            assert 0 < answered <= 1000
            assert d.host.stats()["dropped"]["stray-full"] == 1000 - answered


class TestClosedPort:
    """RFC 9293 section 3.10.7.1."""

    @pytest.mark.parametrize(
        ("flags", "length", "acknowledged"), [("S", 0, 8), ("S", 10, 18), ("F", 0, 8), ("P", 10, 17), ("SF", 0, 9)]
    )
    def test_without_ack(self, flags: str, length: int, acknowledged: int) -> None:
        """<SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>: the length counts SYN and FIN."""
        with Drill() as d:
            d.inject(flags, seq=7, length=length)
            d.expect("R.", seq=0, ack=acknowledged)

    @pytest.mark.parametrize("flags", [".", "S.", "F.", "P."])
    def test_with_ack(self, flags: str) -> None:
        """<SEQ=SEG.ACK><CTL=RST>."""
        with Drill() as d:
            d.inject(flags, seq=7, ack=99)
            d.expect("R", seq=99, ack=0)

    @pytest.mark.parametrize(("flags", "ack"), [("R", None), ("R.", 99), ("SR", None)])
    def test_a_reset_is_never_answered(self, flags: str, ack: int | None) -> None:
        with Drill() as d:
            d.inject(flags, seq=7, ack=ack)
            d.expect_nothing(until=1)
