"""The retransmission timeout against RFC 6298's formulas in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackcore.tcp.rtt import GRANULARITY, rto_backoff, rtt_sample
from stackcore.tcp.state import CONFIG, CONNECTION, MS, S

RTO_MIN, RTO_MAX = 200 * MS, 60 * S


@pytest.fixture
def cfg() -> Any:
    return configuration()


@pytest.fixture
def con() -> Any:
    return connection()


def configuration() -> Any:
    cfg = np.zeros(1, CONFIG)[0]
    cfg["rto_min"], cfg["rto_max"] = RTO_MIN, RTO_MAX
    return cfg


def connection() -> Any:
    con = np.zeros(1, CONNECTION)[0]
    con["rto"] = S
    return con


class TestSample:
    def test_the_first(self, cfg: Any, con: Any) -> None:
        """Section 2.2: SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 RTTVAR."""
        rtt_sample(cfg, con, 100 * MS)
        assert (con["srtt"], con["rttvar"], con["rto"]) == (100 * MS, 50 * MS, 300 * MS)

    def test_the_second(self, cfg: Any, con: Any) -> None:
        """Section 2.3; the variance is computed with the old SRTT."""
        rtt_sample(cfg, con, 100 * MS)
        rtt_sample(cfg, con, 180 * MS)
        assert con["rttvar"] == (3 * 50 * MS + 80 * MS) // 4
        assert con["srtt"] == (7 * 100 * MS + 180 * MS) // 8
        assert con["rto"] == con["srtt"] + 4 * con["rttvar"]

    def test_minimum(self, cfg: Any, con: Any) -> None:
        rtt_sample(cfg, con, MS)
        assert con["rto"] == RTO_MIN

    def test_maximum(self, cfg: Any, con: Any) -> None:
        rtt_sample(cfg, con, 100 * S)
        assert con["rto"] == RTO_MAX

    def test_constant_round_trips_leave_the_granularity(self, cfg: Any, con: Any) -> None:
        """Section 2.3: max(G, K RTTVAR), so that the timer never expires at the very time the ACK is due."""
        for _ in range(200):
            rtt_sample(cfg, con, S)
        assert con["srtt"] == S
        assert 4 * con["rttvar"] < GRANULARITY
        assert con["rto"] == S + GRANULARITY

    def test_no_time_at_all_counts_as_measured(self, cfg: Any, con: Any) -> None:
        """Under a virtual clock an answer may take no time; SRTT 0 would say that there is no measurement."""
        rtt_sample(cfg, con, 0)
        assert con["srtt"] > 0
        rtt_sample(cfg, con, 80 * MS)
        assert con["srtt"] < 80 * MS

    @settings(deadline=None)
    @given(st.lists(st.integers(1, 10 * S), min_size=1, max_size=60))
    def test_against_fractions(self, samples: list[int]) -> None:
        cfg, con = configuration(), connection()
        srtt, rttvar = Fraction(samples[0]), Fraction(samples[0], 2)
        rtt_sample(cfg, con, samples[0])
        for r in samples[1:]:
            rtt_sample(cfg, con, r)
            rttvar = (3 * rttvar + abs(srtt - r)) / 4
            srtt = (7 * srtt + r) / 8
        # Rounding down loses below 1 ns a step, of which 7/8 and 3/4 stay.
        assert 0 <= srtt - con["srtt"] <= 8
        assert abs(rttvar - con["rttvar"]) <= 16
        rto = min(max(srtt + max(GRANULARITY, 4 * rttvar), RTO_MIN), RTO_MAX)
        assert abs(rto - con["rto"]) <= 80


class TestBackoff:
    def test_doubles_up_to_the_maximum(self, cfg: Any, con: Any) -> None:
        """Section 5.5."""
        seen = []
        for _ in range(8):
            rto_backoff(cfg, con)
            seen.append(int(con["rto"]) // S)
        assert seen == [2, 4, 8, 16, 32, 60, 60, 60]
        assert con["backoff"] == 8

    def test_a_measurement_ends_it(self, cfg: Any, con: Any) -> None:
        rtt_sample(cfg, con, 100 * MS)
        for _ in range(3):
            rto_backoff(cfg, con)
        assert con["rto"] == 2400 * MS
        rtt_sample(cfg, con, 100 * MS)
        assert con["backoff"] == 0
        assert con["rto"] < 300 * MS
