"""The scoreboard against a plain set of octets: every function as RFC 6675 words it, octet by octet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stackcore.tcp.config import HostConfig
from stackcore.tcp.memory import new_tcp
from stackcore.tcp.sack import (
    DUP_THRESH,
    sack_ack,
    sack_add,
    sack_clear,
    sack_highest,
    sack_lost,
    sack_next,
    sack_pipe,
)
from stackcore.tcp.state import FAST, LOSS, OPEN, RANGES, Tcp

BASE = (2 << 32) - 5000
"""Numbers in these tests cross a multiple of 2**32."""
MSS = 1000


def stack(connections: int = 2) -> Tcp:
    return new_tcp(HostConfig(connections=connections, slots=1, seed=1))[0]


def flight(t: Tcp, c: int, size: int, mss: int = MSS, recovery: int = OPEN) -> Any:
    """Connection ``c`` has ``size`` octets in flight from BASE on, and has just entered ``recovery``."""
    con = t.con[c]
    con["snd_una"] = con["high_rxt"] = BASE
    con["snd_nxt"] = con["recover"] = BASE + size
    con["mss"], con["rescue"], con["recovery"] = mss, 0, recovery
    return con


def runs(octets: set[int]) -> list[tuple[int, int]]:
    """The maximal ranges [left, right) of a set of numbers, ascending."""
    found: list[tuple[int, int]] = []
    for x in sorted(octets):
        if found and found[-1][1] == x:
            found[-1] = (found[-1][0], x + 1)
        else:
            found.append((x, x + 1))
    return found


def ranges(t: Tcp, c: int) -> list[tuple[int, int]]:
    """What the board holds, relative to BASE."""
    b = int(t.con[c]["board"])
    if b < 0:
        return []
    board = t.boards[b]
    return [(int(board[1 + 2 * i]) - BASE, int(board[2 + 2 * i]) - BASE) for i in range(int(board[0]))]


@pytest.fixture
def t() -> Tcp:
    return stack()


def add(t: Tcp, left: int, right: int) -> int:
    return int(sack_add(t, 0, BASE + left, BASE + right))


def following(t: Tcp) -> tuple[int, int, int]:
    seq, length, rule_number = sack_next(t, 0)
    return (int(seq) - BASE if length else 0, int(length), int(rule_number))


class TestBoard:
    def test_news_are_counted_once(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000)
        assert add(t, 2000, 4000) == 2000
        assert add(t, 2000, 4000) == 0
        assert add(t, 3000, 5000) == 1000
        assert add(t, 1000, 6000) == 2000
        assert con["sacked"] == 5000
        assert ranges(t, 0) == [(1000, 6000)]

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
    def test_order_does_not_matter(self, t: Tcp, order: tuple[int, ...]) -> None:
        flight(t, 0, 20_000)
        blocks = [(1000, 2000), (4000, 5000), (9000, 12_000)]
        for i in order:
            add(t, *blocks[i])
        assert ranges(t, 0) == blocks

    def test_adjacent_ranges_become_one(self, t: Tcp) -> None:
        flight(t, 0, 20_000)
        add(t, 1000, 2000)
        add(t, 3000, 4000)
        add(t, 2000, 3000)
        assert ranges(t, 0) == [(1000, 4000)]

    @pytest.mark.parametrize(
        ("left", "right"),
        [(-3000, -1000), (-1000, 0), (20_000, 21_000), (30_000, 31_000), (5000, 5000), (6000, 5000), (-(1 << 31), -1)],
    )
    def test_what_is_not_in_flight_is_ignored(self, t: Tcp, left: int, right: int) -> None:
        """Old blocks, D-SACK (RFC 2883), data never sent, empty and reversed ranges."""
        con = flight(t, 0, 20_000)
        assert add(t, left, right) == 0
        assert (con["sacked"], con["board"]) == (0, -1)

    def test_a_block_is_cut_to_what_is_in_flight(self, t: Tcp) -> None:
        flight(t, 0, 20_000)
        assert add(t, -5000, 50_000) == 20_000

    def test_a_full_board_ignores_new_ranges_and_extends_old_ones(self, t: Tcp) -> None:
        con = flight(t, 0, 200_000)
        for i in range(RANGES):
            assert add(t, 2000 * i + 1000, 2000 * i + 2000) == 1000
        assert add(t, 2000 * RANGES + 1000, 2000 * RANGES + 2000) == 0
        assert t.stat[0]["sack_ignored"] == 1
        assert add(t, 2000, 2500) == 500
        assert add(t, 2500, 3000) == 500  # closes a gap: there is room for one more
        assert add(t, 2000 * RANGES + 1000, 2000 * RANGES + 2000) == 1000
        assert con["sacked"] == 1000 * (RANGES + 2)

    def test_acknowledged_data_is_forgotten(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000)
        for left, right in [(1000, 2000), (4000, 6000), (8000, 9000)]:
            add(t, left, right)
        con["snd_una"] = BASE + 5000
        sack_ack(t, 0)
        assert ranges(t, 0) == [(5000, 6000), (8000, 9000)]
        assert con["sacked"] == 2000

    def test_an_empty_board_goes_back(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000)
        free = int(t.cfg[0]["board_free"])
        add(t, 1000, 2000)
        assert t.cfg[0]["board_free"] == free - 1
        con["snd_una"] = BASE + 2000
        sack_ack(t, 0)
        assert (con["board"], con["sacked"], t.cfg[0]["board_free"]) == (-1, 0, free)

    def test_clear_gives_the_board_back_once(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000)
        free = int(t.cfg[0]["board_free"])
        add(t, 1000, 2000)
        sack_clear(t, 0)
        sack_clear(t, 0)
        assert (con["board"], con["sacked"], t.cfg[0]["board_free"]) == (-1, 0, free)

    def test_no_board_left_is_counted(self, t: Tcp) -> None:
        t.cfg[0]["board_free"] = 1
        flight(t, 0, 20_000)
        flight(t, 1, 20_000)
        assert add(t, 1000, 2000) == 1000
        assert sack_add(t, 1, BASE + 1000, BASE + 2000) == 0
        assert t.con[1]["board"] == -1
        assert t.stat[0]["sack_ignored"] == 1

    def test_boards_are_apart(self, t: Tcp) -> None:
        flight(t, 0, 20_000)
        flight(t, 1, 20_000)
        add(t, 1000, 2000)
        sack_add(t, 1, BASE + 5000, BASE + 6000)
        assert (ranges(t, 0), ranges(t, 1)) == ([(1000, 2000)], [(5000, 6000)])

    def test_highest(self, t: Tcp) -> None:
        flight(t, 0, 20_000)
        assert sack_highest(t, 0) == BASE
        add(t, 8000, 9000)
        add(t, 1000, 2000)
        assert sack_highest(t, 0) == BASE + 9000


class TestIsLost:
    """RFC 6675 section 4, IsLost(SeqNum)."""

    def test_three_ranges_above(self, t: Tcp) -> None:
        flight(t, 0, 20_000)
        for left in (1000, 3000, 5000):
            assert not sack_lost(t, 0, BASE)
            add(t, left, left + 100)
        assert sack_lost(t, 0, BASE)
        assert not sack_lost(t, 0, BASE + 2000)

    def test_more_than_two_segments_above(self, t: Tcp) -> None:
        flight(t, 0, 20_000)
        add(t, 1000, 3000)
        assert not sack_lost(t, 0, BASE)
        add(t, 3000, 3001)
        assert sack_lost(t, 0, BASE)

    def test_without_a_board(self, t: Tcp) -> None:
        flight(t, 0, 20_000)
        assert not sack_lost(t, 0, BASE)


class TestNextSeg:
    """RFC 6675 section 4, NextSeg(), and the departures that the module's head names."""

    def test_rule_1_sends_what_is_lost_in_order(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000, recovery=FAST)
        add(t, 1000, 2000)
        add(t, 4500, 8000)
        assert following(t) == (0, 1000, 1)
        con["high_rxt"] = BASE + 1000
        assert following(t) == (2000, 1000, 1)
        con["high_rxt"] = BASE + 4000
        assert following(t) == (4000, 500, 1)  # up to the next range

    def test_rule_3_when_nothing_is_lost(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000, recovery=FAST)
        add(t, 1000, 4000)
        add(t, 5000, 6000)
        con["high_rxt"] = BASE + 1000
        assert following(t) == (4000, 1000, 3)

    def test_rule_4_once(self, t: Tcp) -> None:
        """The rescue retransmission: the last segment of what is in flight (it elicits an ACK that tells what arrived)."""
        con = flight(t, 0, 10_500, recovery=FAST)
        add(t, 1000, 6000)
        con["high_rxt"] = BASE + 1000
        assert following(t) == (9500, 1000, 4)
        con["rescue"] = con["recover"]
        assert following(t) == (0, 0, 0)

    def test_no_rule_4_below_a_range_that_ends_the_flight(self, t: Tcp) -> None:
        con = flight(t, 0, 10_000, recovery=FAST)
        add(t, 5000, 10_000)
        con["high_rxt"] = BASE + 4500
        assert following(t) == (4500, 500, 1)
        con["high_rxt"] = BASE + 5000
        assert following(t) == (0, 0, 0), "all of the gap was just sent again: once more would say nothing new"

    def test_without_sack_the_first_segment_once_per_partial_ack(self, t: Tcp) -> None:
        """RFC 6582 section 3.2 step 3."""
        con = flight(t, 0, 20_000, recovery=FAST)
        assert following(t) == (0, 1000, 1)
        con["high_rxt"] = BASE + 1000
        assert following(t) == (0, 0, 0)
        con["snd_una"] = BASE + 3000
        assert following(t) == (3000, 1000, 1)

    def test_without_sack_the_last_segment_may_be_short(self, t: Tcp) -> None:
        flight(t, 0, 300, recovery=FAST)
        assert following(t) == (0, 300, 1)

    def test_after_a_timeout_everything_in_order_but_what_arrived(self, t: Tcp) -> None:
        """RFC 5681 section 3.1, RFC 6675 section 5.1; new data sent meanwhile is not repeated."""
        con = flight(t, 0, 4500, recovery=LOSS)
        con["snd_nxt"] += 3000
        add(t, 1500, 2500)
        sent = []
        while (segment := following(t))[1]:
            sent.append(segment)
            con["high_rxt"] = BASE + segment[0] + segment[1]
        assert sent == [(0, 1000, 1), (1000, 500, 1), (2500, 1000, 1), (3500, 1000, 1)]

    def test_outside_recovery_without_sack_nothing(self, t: Tcp) -> None:
        flight(t, 0, 20_000)
        assert following(t) == (0, 0, 0)


class TestPipe:
    """RFC 6675 section 4, SetPipe()."""

    def test_all_in_flight_without_sack(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000)
        assert sack_pipe(t, 0) == 20_000
        con["recovery"], con["high_rxt"] = FAST, BASE + 1000
        assert sack_pipe(t, 0) == 20_000

    def test_neither_sacked_nor_lost(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000, recovery=FAST)
        add(t, 1000, 4000)
        add(t, 6000, 7000)
        assert sack_pipe(t, 0) == 2000 + 13_000
        con["high_rxt"] = BASE + 1000
        assert sack_pipe(t, 0) == 1000 + 2000 + 13_000

    def test_after_a_timeout_only_what_was_sent_since(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000, recovery=LOSS)
        assert sack_pipe(t, 0) == 0
        con["high_rxt"] = BASE + 3000
        assert sack_pipe(t, 0) == 3000
        con["snd_nxt"] += 2000
        assert sack_pipe(t, 0) == 5000

    def test_after_a_timeout_with_sack(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000, recovery=LOSS)
        add(t, 1000, 2000)
        con["high_rxt"] = BASE + 3000
        assert sack_pipe(t, 0) == 2000

    def test_what_an_earlier_recovery_retransmitted_does_not_count_twice(self, t: Tcp) -> None:
        con = flight(t, 0, 20_000, recovery=OPEN)
        con["high_rxt"] = BASE + 5000
        add(t, 19_000, 20_000)
        assert sack_pipe(t, 0) == 19_000


class SackModel(RuleBasedStateMachine):
    """A sender whose peer reports anything; ``sacked`` is the plain set that the board stands for."""

    @initialize(size=st.integers(0, 150), mss=st.integers(1, 12))
    def begin(self, size: int, mss: int) -> None:
        self.t = stack()
        self.free = int(self.t.cfg[0]["board_free"])
        self.con = flight(self.t, 0, size, mss)
        self.sacked: set[int] = set()

    def edge(self, name: str) -> int:
        return int(self.con[name])

    @rule(left=st.integers(-20, 200), length=st.integers(-2, 40))
    def report(self, left: int, length: int) -> None:
        left += self.edge("snd_una")
        block = set(range(max(left, self.edge("snd_una")), min(left + length, self.edge("snd_nxt"))))
        joined = runs(self.sacked | block)
        ignored = len(joined) > RANGES
        news = 0 if ignored else len(block - self.sacked)
        before = int(self.t.stat[0]["sack_ignored"])
        assert sack_add(self.t, 0, left, left + length) == news
        assert self.t.stat[0]["sack_ignored"] - before == ignored
        if not ignored:
            self.sacked |= block

    @rule(first=st.integers(0, 3), step=st.integers(2, 4))
    def report_many(self, first: int, step: int) -> None:
        """Alternate octets: enough ranges to fill the board."""
        for left in range(first, self.edge("snd_nxt") - self.edge("snd_una"), step):
            self.report(left, 1)

    @rule(by=st.integers(1, 60))
    def send(self, by: int) -> None:
        self.con["snd_nxt"] += by

    @rule(part=st.floats(0, 1))
    def acknowledge(self, part: float) -> None:
        una, nxt = self.edge("snd_una"), self.edge("snd_nxt")
        una += round((nxt - una) * part)
        self.con["snd_una"] = una
        self.sacked = {x for x in self.sacked if x >= una}
        sack_ack(self.t, 0)
        if una >= self.con["recover"]:
            self.con["recovery"] = OPEN

    @rule(kind=st.sampled_from([FAST, LOSS]))
    def enter(self, kind: int) -> None:
        self.con["recovery"] = kind
        self.con["high_rxt"] = self.con["snd_una"]
        self.con["recover"] = self.con["snd_nxt"]
        self.con["rescue"] = 0

    @rule()
    def renege(self) -> None:
        sack_clear(self.t, 0)
        self.sacked = set()

    @precondition(lambda self: self.con["recovery"] != OPEN)
    @rule()
    def retransmit(self) -> None:
        seq, length, number = sack_next(self.t, 0)
        if number == 4:
            self.con["rescue"] = self.con["recover"]
        elif length > 0:
            self.con["high_rxt"] = seq + length

    def is_lost(self, seq: int) -> bool:
        above = {x for x in self.sacked if x > seq}
        return len(runs(above)) >= DUP_THRESH or len(above) > (DUP_THRESH - 1) * self.edge("mss")

    def outstanding(self) -> range:
        return range(self.edge("snd_una"), self.edge("snd_nxt"))

    def next_seg(self) -> tuple[int, int]:
        """(first octet, rule) by the RFC's words; (-1, 0): none."""
        recovery, una, high_rxt = self.edge("recovery"), self.edge("snd_una"), self.edge("high_rxt")
        missing = [x for x in self.outstanding() if x not in self.sacked]
        again = [x for x in missing if x >= high_rxt]
        if recovery == LOSS:
            return next(((x, 1) for x in again if x < self.edge("recover")), (-1, 0))
        if not self.sacked:
            return (una, 1) if recovery == FAST and high_rxt <= una and missing else (-1, 0)
        below = [x for x in again if x < max(self.sacked)]
        for x in below:
            if self.is_lost(x):
                return x, 1
        if below:
            return below[0], 3
        if again and una > self.edge("rescue"):
            return again[-1], 4
        return -1, 0

    @invariant()
    def board_is_the_set(self) -> None:
        assert ranges(self.t, 0) == [(left - BASE, right - BASE) for left, right in runs(self.sacked)]
        assert self.con["sacked"] == len(self.sacked)
        assert self.t.cfg[0]["board_free"] == self.free - bool(self.sacked)
        assert sack_highest(self.t, 0) == max(self.sacked, default=self.edge("snd_una") - 1) + 1

    @invariant()
    def lost_is_what_the_rfc_says(self) -> None:
        for x in self.outstanding():
            assert sack_lost(self.t, 0, x) == self.is_lost(x)

    @invariant()
    def pipe_is_what_the_rfc_says(self) -> None:
        recovery, recover, high_rxt = self.edge("recovery"), self.edge("recover"), self.edge("high_rxt")
        pipe = 0
        for x in self.outstanding():
            if x in self.sacked:
                continue
            retransmitted = recovery != OPEN and x < high_rxt
            if recovery == LOSS:
                gone = x < max(recover, high_rxt) or self.is_lost(x)
            else:
                gone = self.is_lost(x) or (retransmitted and not self.sacked)
            pipe += (not gone) + retransmitted
        assert sack_pipe(self.t, 0) == pipe

    @invariant()
    def next_is_what_the_rfc_says(self) -> None:
        seq, length, number = sack_next(self.t, 0)
        first, expected = self.next_seg()
        assert number == expected
        if expected == 0:
            assert length == 0
            return
        assert 0 < length <= self.con["mss"]
        segment = set(range(seq, seq + length))
        assert not segment & self.sacked
        assert segment <= set(self.outstanding())
        assert first == (seq + length - 1 if expected == 4 else seq)


TestSackModel = SackModel.TestCase
TestSackModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
