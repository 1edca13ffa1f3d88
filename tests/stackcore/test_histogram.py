"""The latency histogram, against plain arithmetic and against numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackcore.abi import abi
from stackcore.histogram import BUCKETS, bucket_of, lower_bound, percentile

pytestmark = pytest.mark.usefixtures("kernels")
durations = st.integers(0, 2**62) | st.integers(0, 200) | st.integers(0, 62).map(lambda n: 2**n)


@given(durations, durations)
def test_buckets_are_in_the_order_of_durations(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert 0 <= bucket_of(low) <= bucket_of(high) < BUCKETS


@given(durations)
def test_a_bucket_is_at_most_a_32nd_wide(ns: int) -> None:
    bucket = int(bucket_of(ns))
    low, high = lower_bound(bucket), lower_bound(bucket + 1)
    assert low <= ns < high
    assert high - low == 1 if ns < 64 else (high - low) * 32 <= low


@given(st.integers(0, BUCKETS - 1))
def test_lower_bound_is_the_first_of_its_bucket(bucket: int) -> None:
    low = lower_bound(bucket)
    if low >= 2**62:
        return
    assert bucket_of(low) == bucket
    assert bucket == 0 or bucket_of(low - 1) == bucket - 1


def test_time_that_runs_backwards_is_zero() -> None:
    assert bucket_of(-1) == bucket_of(-(2**62)) == 0


def test_the_shared_record_has_a_count_for_every_bucket() -> None:
    assert abi.TELEMETRY.fields is not None
    assert abi.TELEMETRY.fields["latency"][0].shape == (BUCKETS,)
    assert bucket_of(2**62) < BUCKETS


@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=300), st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_percentiles_are_numpys_to_within_a_bucket(samples: list[int], fraction: float) -> None:
    counts = np.zeros(BUCKETS, "i8")
    for ns in samples:
        counts[bucket_of(ns)] += 1
    exact = int(np.percentile(samples, 100 * fraction, method="inverted_cdf"))
    assert bucket_of(percentile(counts, fraction)) == bucket_of(exact)


def test_no_samples_no_duration() -> None:
    assert percentile(np.zeros(BUCKETS, "i8"), 0.5) == 0
