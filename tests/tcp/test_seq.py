"""Sequence numbers: the wire's 32 bits to 64 and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackcore.tcp.seq import unwrap, wrap

TURN = 1 << 32
HALF = 1 << 31
numbers = st.integers(TURN, 1 << 61)
wire = st.integers(0, TURN - 1)


@pytest.mark.parametrize(
    ("number", "near", "expected"),
    [
        (5, TURN + 5, TURN + 5),
        (0, 2 * TURN - 1, 2 * TURN),  # just across the end
        (TURN - 1, 2 * TURN, 2 * TURN - 1),  # just behind it
        (HALF - 1, 2 * TURN, 2 * TURN + HALF - 1),  # the furthest ahead
        (HALF, 2 * TURN, 2 * TURN - HALF),  # the furthest behind
        (TURN - 1, TURN, TURN - 1),  # an octet before the lowest initial number is not negative
    ],
)
def test_nearest(number: int, near: int, expected: int) -> None:
    assert unwrap(number, near) == expected


@settings(deadline=None)
@given(wire, numbers)
def test_unwrapped_is_congruent_and_near(number: int, near: int) -> None:
    x = unwrap(number, near)
    assert wrap(x) == number
    assert near - HALF <= x < near + HALF


@settings(deadline=None)
@given(numbers, st.integers(-HALF + 1, HALF))
def test_round_trip(x: int, ahead: int) -> None:
    """Whatever stands within 2**31 of what is expected is found again (RFC 9293 section 3.4)."""
    assert unwrap(wrap(x), x + ahead) == x
