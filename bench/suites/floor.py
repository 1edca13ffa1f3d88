"""How near the stack comes to what plain C gets here, and how much two identical runs differ.

One cell, visited under two names that mean the same thing (A and A'): `http`, 0 KB, keep-alive, one compiled worker,
duplicated listener, single-queue, 64 clients. The A/A ratio is the method's own error: a difference between modes that is
no larger than it means nothing. The native reference of each round stands beside it (`bench/native`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.interleave import Cell
from bench.results import Measurement, Records
from bench.stats import MIN_PROCESSES, Ratio, paired_ratio, ratio_of_medians, relative_spread
from bench.suites.base import Plan, Suite, request_rate, run_arguments
from bench.tables import Analysis, Column, Table, number

GROUP = "http 0K, 1 worker, 64 clients"
MODES = ("A", "A'")
GOAL = 0.1
"""The share of the native stream's message rate that the stack is meant to reach."""

_NATIVE_ROWS = {
    "stream": "native stream, 32-byte messages one by one",
    "pingpong": "native ping-pong, round trips",
    "http": "native C program of the same shape",
}


class FloorSuite(Suite):
    name = "floor"
    question = "How near does the stack come to plain C on this machine, and how much do two identical runs differ?"

    def cells(self, plan: Plan) -> list[Cell]:
        argv = run_arguments(
            "http", plan, workers=1, listener="duplicated", events="single-queue", clients=64, size="0", app="compiled"
        )
        factors = {"workers": 1, "size": "0"}
        return [Cell(self.name, GROUP, mode, argv, plan.repeat(6, 10), factors=factors) for mode in MODES]

    def measure(self, cell: Cell, result: Mapping[str, Any]) -> dict[str, Measurement]:
        return request_rate(cell.name, result)

    def analyse(self, records: Records) -> Analysis:
        stack = [_rates(records.seconds(f"{self.name} {GROUP} {mode}")) for mode in MODES]
        native = {mode: [[r.figures[mode]["per_second"]] for r in records.references] for mode in _NATIVE_ROWS}
        rows = [_row(f"the stack, {mode}", rates) for mode, rates in zip(MODES, stack, strict=True)]
        rows += [_row(title, native[mode]) for mode, title in _NATIVE_ROWS.items()]
        columns = [Column("what", numeric=False), Column("per second"), Column("ns each"), Column("spread"), Column("processes")]
        notes = [f"{GROUP}, closed loop, keep-alive, duplicated, single-queue. Spread: (largest - smallest) / median."]
        return Analysis(self.question, _findings(records, stack), [Table("Distance to plain C", columns, rows, notes)])


def _rates(seconds: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[1.0 / value for value in process] for process in seconds]


def _row(title: str, rates: Sequence[Sequence[float]]) -> list[str]:
    flat = [rate for process in rates for rate in process]
    if not flat:
        return [title, "–", "–", "–", "0"]
    middle = statistics.median(flat)
    return [title, number(middle), number(1e9 / middle), f"{100 * relative_spread(flat):.0f} %", str(len(rates))]


def _shares(records: Records, native_mode: str) -> list[list[float]]:
    """Return, per process, its rate as a share of the native rate timed in the same round, seconds before it."""
    native = {reference.round: reference.figures[native_mode]["per_second"] for reference in records.references}
    return [
        [1.0 / measurement.seconds / native[visit.round]]
        for visit in records.visits
        for measurement in visit.measurements.values()
        if visit.round in native
    ]


def _findings(records: Records, stack: list[list[list[float]]]) -> list[str]:
    both = [rate for rates in stack for process in rates for rate in process]
    of_stream, of_shape = _shares(records, "stream"), _shares(records, "http")
    if not both or not of_stream:
        return ["No visit of this suite ended well, so nothing can be said."]
    stream, shape = (ratio_of_medians(shares, [[1.0]] * len(shares)) for shares in (of_stream, of_shape))
    reached = "reached" if stream.value >= GOAL else "missed"
    said = [
        f"The stack serves {number(statistics.median(both))} requests/s; set against the reference of the same round, that is "
        f"{_with_interval(stream, 3)} of the native stream's message rate (goal: {GOAL}, {reached}).",
        f"It runs at {_with_interval(shape, 2)} of the speed of a native C program of the same shape.",
    ]
    if stack[0] and stack[1]:
        same = ratio_of_medians(stack[0], stack[1])
        second, first = (records.seconds_by_round(f"floor {GROUP} {mode}") for mode in reversed(MODES))
        said.append(
            f"Two identical runs differ by a factor of {_with_interval(same, 2)}; compared within rounds by "
            f"{paired_ratio(second, first)}. A difference between modes below that means nothing."
        )
    return said


def _with_interval(ratio: Ratio, digits: int) -> str:
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.{digits}f} (no interval: fewer than {MIN_PROCESSES} processes)"
    return f"{ratio.value:.{digits}f} (95 % interval {ratio.low:.{digits}f} to {ratio.high:.{digits}f})"
