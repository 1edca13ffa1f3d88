"""Statistics against values worked out by hand, and against what a bootstrap must do in clear cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import MIN_PROCESSES, Ratio, drift_marks, paired_ratio, ratio_of_medians, relative_spread

positive = st.floats(min_value=1e-9, max_value=1e9, allow_nan=False)


def test_ratio_is_that_of_the_medians_of_the_processes_medians():
    # Process medians: 2, 30, 4 -> median 4; and 1, 2 -> median 1.5.
    ratio = ratio_of_medians([[1, 2, 90], [30], [4, 4]], [[1], [2]])
    assert ratio.value == pytest.approx(4 / 1.5)
    assert ratio.processes == (3, 2)


def test_below_six_processes_there_is_no_interval_and_no_win():
    few = ratio_of_medians([[2.0]] * (MIN_PROCESSES - 1), [[1.0]] * 20)
    assert (few.low, few.high, few.verdict) == (None, None, "no interval")
    enough = ratio_of_medians([[2.0]] * MIN_PROCESSES, [[1.0]] * MIN_PROCESSES)
    assert enough.verdict == "higher"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.01, 1.2, "higher"), (0.8, 0.99, "lower"), (0.99, 1.01, "no difference shown"), (1.0, 1.2, "no difference shown")],
)
def test_only_an_interval_that_excludes_one_decides(low, high, verdict):
    assert Ratio(1.1, low, high, (6, 6)).verdict == verdict


def test_values_within_a_process_do_not_narrow_the_interval():
    random = np.random.default_rng(1)
    levels = random.normal(100, 10, size=8)
    single = ratio_of_medians([[level] for level in levels], [[100.0 + i] for i in range(8)])
    repeated = ratio_of_medians([[level] * 1000 for level in levels], [[100.0 + i] * 1000 for i in range(8)])
    assert (repeated.low, repeated.high) == (single.low, single.high)


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    # Percentile bootstraps of medians of ten are a little too narrow; far below nine in ten would be a bug.
    random = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        a, b = random.normal(120, 6, size=(10, 1)), random.normal(100, 5, size=(10, 1))
        ratio = ratio_of_medians(a.tolist(), b.tolist(), seed=trial, resamples=1000)
        covered += ratio.low <= 1.2 <= ratio.high
    assert 0.88 <= covered / 200 <= 1.0


def test_the_same_seed_gives_the_same_interval():
    a, b = [[float(i)] for i in range(1, 9)], [[float(i)] for i in range(2, 10)]
    assert ratio_of_medians(a, b, seed=3) == ratio_of_medians(a, b, seed=3)
    assert ratio_of_medians(a, b, seed=3) != ratio_of_medians(a, b, seed=4)


def test_rounds_that_move_together_do_not_widen_the_paired_interval():
    speeds = [1.0, 4.0, 1.0, 4.0, 4.0, 1.0, 1.0, 4.0]
    fast = {i: 1.2 * s * (1 + 0.01 * (i % 3)) for i, s in enumerate(speeds)}
    slow = dict(enumerate(speeds))
    paired = paired_ratio(fast, slow)
    assert 1.2 <= paired.low <= paired.value <= paired.high <= 1.23
    unpaired = ratio_of_medians([[x] for x in fast.values()], [[x] for x in slow.values()])
    assert unpaired.low < 1 < 2 < unpaired.high


def test_only_complete_rounds_are_paired():
    assert paired_ratio({0: 3.0, 1: 4.0}, {1: 2.0, 2: 1.0}) == Ratio(2.0, None, None, (1, 1))
    assert paired_ratio({0: 3.0}, {1: 1.0}) is None


@given(st.lists(positive, min_size=6, max_size=12), st.lists(positive, min_size=6, max_size=12))
def test_the_interval_is_ordered_and_within_the_possible_ratios(a, b):
    ratio = ratio_of_medians([[x] for x in a], [[x] for x in b], resamples=200)
    assert min(a) / max(b) * (1 - 1e-9) <= ratio.low <= ratio.high <= max(a) / min(b) * (1 + 1e-9)


@pytest.mark.parametrize(("a", "b"), [([], [[1.0]]), ([[1.0]], []), ([[0.0]], [[1.0]]), ([[1.0]], [[-1.0]])])
def test_a_ratio_needs_positive_values_on_both_sides(a, b):
    with pytest.raises(ValueError, match="ratio needs"):
        ratio_of_medians(a, b)


def test_drift_marks_rounds_beyond_the_factor_in_any_figure():
    references = [[100, 10], [100, 10], [100, 16], [60, 10], [110, 9]]
    assert drift_marks(references, 1.5) == [False, False, True, True, False]


def test_drift_of_no_rounds_is_no_marks_and_bad_input_is_named():
    assert drift_marks([]) == []
    with pytest.raises(ValueError, match="greater than 1"):
        drift_marks([[1.0]], 1.0)
    with pytest.raises(ValueError, match="same reference figures"):
        drift_marks([[1.0], [1.0, 2.0]])


def test_spread_is_the_range_over_the_median():
    assert relative_spread([90.0, 100.0, 120.0]) == pytest.approx(0.3)
    assert relative_spread([5.0]) == 0.0
