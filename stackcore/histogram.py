"""A log-linear latency histogram, as HdrHistogram counts: 32 linear steps per power of two.

Promise: every duration from 0 to 2^62 ns has a bucket, and a bucket's width is at most 1/32 (3.2 %) of its values.
Buckets 0..63 are exact to a nanosecond.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import stackcore.native  # noqa: F401  (kernels need the native library first)
from stackcore.kernel import kernel

STEPS_LOG2 = 5
BUCKETS = 1920


@kernel
def bucket_of(ns):
    """Index of the bucket that counts ``ns``."""
    if ns < 0:
        return 0
    shift = 0
    rest = ns >> (STEPS_LOG2 + 1)
    if rest >> 32:
        shift += 32
        rest >>= 32
    if rest >> 16:
        shift += 16
        rest >>= 16
    if rest >> 8:
        shift += 8
        rest >>= 8
    while rest:
        shift += 1
        rest >>= 1
    return (shift << STEPS_LOG2) + (ns >> shift)


def lower_bound(bucket: int) -> int:
    """The smallest duration in ``bucket``, ns."""
    if bucket < 2 << STEPS_LOG2:
        return bucket
    shift = (bucket >> STEPS_LOG2) - 1
    return (bucket - (shift << STEPS_LOG2)) << shift


def percentile(counts: np.ndarray[Any, Any], fraction: float) -> int:
    """Duration below or at which ``fraction`` (0..1) of the samples lie, ns, as the middle of its bucket; 0 if none."""
    total = int(counts.sum())
    if total == 0:
        return 0
    rank = max(1, int(np.ceil(fraction * total)))
    bucket = int(np.searchsorted(np.cumsum(counts), rank))
    low, high = lower_bound(bucket), lower_bound(bucket + 1)
    return (low + high - 1) // 2
