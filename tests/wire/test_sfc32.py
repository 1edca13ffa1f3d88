"""sfc32 against its definition in 32-bit arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from stackcore import native  # noqa: F401  (before any module with kernels)
from stackcore.wire.sfc32 import CERTAIN, below, draw, hit, new_streams, threshold


def reference(a: int, b: int, c: int, n: int) -> list[int]:
    """Doty-Humphrey's definition, 15 rounds thrown away, then ``n`` results."""
    words = np.array([a, b, c, 1], "u4")
    found = []
    for _ in range(15 + n):
        a_, b_, c_, counter = (words[i : i + 1] for i in range(4))  # arrays wrap without a warning, scalars do not
        result = a_ + b_ + counter
        words = np.concatenate([b_ ^ (b_ >> 9), c_ + (c_ << 3), ((c_ << 21) | (c_ >> 11)) + result, counter + 1]).astype("u4")
        found.append(int(result[0]))
    return found[15:]


@pytest.mark.parametrize("seed", [0, 1, 0xFFFFFFFF, 0x0123456789ABCDEF, 2**64 - 1])
def test_is_the_generator_it_says(seed: int) -> None:
    rng = new_streams(seed, 3)
    for stream in range(3):
        expected = reference(stream, seed & 0xFFFFFFFF, seed >> 32, 50)
        assert [int(draw(rng, stream)) for _ in range(50)] == expected


def test_streams_do_not_share_their_state() -> None:
    one, two = new_streams(3, 2), new_streams(3, 2)
    for _ in range(10):
        draw(one, 0)
    assert draw(one, 1) == draw(two, 1)


def test_the_impossible_and_the_certain() -> None:
    rng = new_streams(1, 1)
    before = rng.copy()
    assert not any(hit(rng, 0, threshold(0.0)) for _ in range(100))
    assert (rng == before).all()  # the impossible costs no number
    assert threshold(1.0) == CERTAIN and all(hit(rng, 0, CERTAIN) for _ in range(100))


def test_below_stays_below() -> None:
    rng = new_streams(1, 1)
    assert {int(below(rng, 0, 5)) for _ in range(200)} == set(range(5))
    assert {int(below(rng, 0, 1)) for _ in range(50)} == {0}
    assert max(int(below(rng, 0, 2**31 - 1)) for _ in range(200)) < 2**31 - 1
