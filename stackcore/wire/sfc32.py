"""Random numbers that are the same everywhere: Chris Doty-Humphrey's sfc32, the small fast counting generator.

Promise: the numbers depend on the seed and the stream alone, not on the platform, the numpy version or whether the
kernels are compiled. Sums and shifts of 32-bit words in 64-bit arithmetic, masked: nothing can wrap differently.

Every decision has a *stream* of its own, so that switching one feature on does not change what another one decides, and
two runs that differ in one setting can be compared packet by packet. The generator passes PractRand to the lengths its
author tested; its period is at least 2**32 in each stream by the counter. Not for secrets.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stackcore.kernel import kernel

WORD = 0xFFFFFFFF
CERTAIN = 1 << 32
"""The threshold of a probability of 1."""
_WARM_UP = 15
"""Rounds after which nothing of the seed's pattern is left, as in the author's own seeding."""


def new_streams(seed: int, count: int) -> np.ndarray[Any, Any]:
    """int64[count, 4]: the state of ``count`` streams. ``seed`` is taken modulo 2**64."""
    rng = np.zeros((count, 4), "i8")
    for stream in range(count):
        rng[stream] = stream, seed & WORD, (seed >> 32) & WORD, 1
        for _ in range(_WARM_UP):
            draw(rng, stream)
    return rng


def threshold(probability: float) -> int:
    """``probability`` as :func:`hit` takes it, exact to 2**-33."""
    return round(probability * CERTAIN)


@kernel
def draw(rng, stream):
    """32 random bits."""
    a, b, c, counter = int(rng[stream, 0]), int(rng[stream, 1]), int(rng[stream, 2]), int(rng[stream, 3])
    result = (a + b + counter) & WORD
    rng[stream, 0] = b ^ (b >> 9)
    rng[stream, 1] = (c + (c << 3)) & WORD
    rng[stream, 2] = ((((c << 21) | (c >> 11)) & WORD) + result) & WORD
    rng[stream, 3] = (counter + 1) & WORD
    return result


@kernel
def hit(rng, stream, bound):
    """True with probability ``bound`` / 2**32. An impossible event costs no number."""
    return bound > 0 and draw(rng, stream) < bound


@kernel
def below(rng, stream, n):
    """A number in [0, n), 1 <= n < 2**31, uniform to n / 2**32."""
    return (draw(rng, stream) * n) >> 32
