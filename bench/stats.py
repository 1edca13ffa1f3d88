"""What may be concluded from a handful of noisy processes: medians, ratios, bootstrap intervals, drift marks.

The unit is the process (a *visit*), never the single value: values of one process share its memory layout, its CPU
placement and the seconds it ran in, so a bootstrap over single values would promise far too narrow an interval
(Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013; Georges, Buytaert and Eeckhout,
"Statistically rigorous Java performance evaluation", OOPSLA 2007).

Doubts, for the reader of a result: a percentile bootstrap of a median over six to ten processes is known to be somewhat
too narrow; and no statistics repairs a machine that favoured one mode, which is why visits are interleaved
(`bench.interleave`) and why rounds in which the native reference moved are marked here.

All functions are pure and deterministic; random numbers are seeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_PROCESSES = 6
"""Fewer processes than this per mode: no interval is given and no win is called."""
RESAMPLES = 10_000
CONFIDENCE = 0.95
DRIFT_FACTOR = 1.5
"""A round whose native reference is further than this factor from the median of all rounds is marked."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians; `low` and `high` bound its bootstrap interval or are None when there are too few processes."""

    value: float
    low: float | None
    high: float | None
    processes: tuple[int, int]

    @property
    def verdict(self) -> str:
        """`"higher"`, `"lower"`, `"no difference shown"` or `"no interval"`; only an interval that excludes 1 decides."""
        if self.low is None or self.high is None:
            return "no interval"
        if self.low > 1.0:
            return "higher"
        if self.high < 1.0:
            return "lower"
        return "no difference shown"

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def process_medians(processes: Sequence[Sequence[float]]) -> np.ndarray:
    """Reduce each process's values to their median; shape (number of processes,)."""
    return np.array([np.median(values) for values in processes], dtype=float)


def ratio_of_medians(
    numerator: Sequence[Sequence[float]],
    denominator: Sequence[Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Ratio:
    """Return median(numerator) / median(denominator) with a percentile-bootstrap interval.

    Each argument is a sequence of processes, each a sequence of values (any positive quantity, the same unit in both).
    Whole processes are resampled, independently in the two groups.

    Raises ValueError when a group is empty or a value is not positive.
    """
    top, bottom = process_medians(numerator), process_medians(denominator)
    if not len(top) or not len(bottom):
        raise ValueError("a ratio needs at least one process in each group")
    if (top <= 0).any() or (bottom <= 0).any():
        raise ValueError("a ratio needs positive values")
    value = float(np.median(top) / np.median(bottom))
    if min(len(top), len(bottom)) < MIN_PROCESSES:
        return Ratio(value, None, None, (len(top), len(bottom)))
    random = np.random.default_rng(seed)
    drawn = _resampled_medians(top, resamples, random) / _resampled_medians(bottom, resamples, random)
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Ratio(value, float(low), float(high), (len(top), len(bottom)))


def paired_ratio(
    numerator: Mapping[int, float],
    denominator: Mapping[int, float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Ratio | None:
    """Return the median over rounds of numerator / denominator, with a bootstrap interval that resamples whole rounds.

    The arguments map a round's index to a process's figure. Visits of one round lie seconds apart, so a machine that changes
    its speed between rounds cancels out here, while in `ratio_of_medians` it widens the interval; one that changes it within
    a round spoils that round in both. Only rounds with both figures count; None when there is none.
    """
    both = [numerator[index] / denominator[index] for index in numerator if index in denominator]
    if not both:
        return None
    value, rounds = float(np.median(both)), len(both)
    if rounds < MIN_PROCESSES:
        return Ratio(value, None, None, (rounds, rounds))
    drawn = _resampled_medians(np.array(both), resamples, np.random.default_rng(seed))
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Ratio(value, float(low), float(high), (rounds, rounds))


def _resampled_medians(values: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    picks = random.integers(0, len(values), size=(resamples, len(values)))
    return np.median(values[picks], axis=1)


def relative_spread(values: Sequence[float]) -> float:
    """Return (largest - smallest) / median of the values, 0.0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    array = np.asarray(values, dtype=float)
    return float((array.max() - array.min()) / np.median(array))


def drift_marks(references: Sequence[Sequence[float]], factor: float = DRIFT_FACTOR) -> list[bool]:
    """Mark the rounds in which the machine was not its usual self.

    `references` holds one sequence per round: the native reference's figures (rates or times, the same ones in each
    round). A round is marked when one of its figures lies further than `factor` from that figure's median over all rounds.

    Raises ValueError for a factor of 1 or less and for rounds of different length.
    """
    if factor <= 1.0:
        raise ValueError("the drift factor must be greater than 1")
    if len({len(figures) for figures in references}) > 1:
        raise ValueError("each round needs the same reference figures")
    if not references:
        return []
    table = np.asarray(references, dtype=float)
    moved = table / np.median(table, axis=0)
    return [bool(((row > factor) | (row < 1.0 / factor)).any()) for row in moved]
