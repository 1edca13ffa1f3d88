"""The socket calls themselves: ns per vls call, without a core, in one and in two pinned processes.

This is where a lock's cost and its contention are seen undiluted. On a machine with two CPUs a running core leaves one CPU to
the workers, which then seldom meet in a lock; without a core, two processes call at the same time from two CPUs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.interleave import Cell
from bench.results import Measurement, Records
from bench.stats import Ratio, ratio_of_medians
from bench.suites.base import Plan, Suite
from bench.tables import MISSING, Analysis, Chart, Column, Series, Table, number

FREE = "duplicated"
LOCKED = ("shared-rwlock/spin-rw", "shared-rwlock/futex-rw")
MODES = (FREE, *LOCKED)
PROCESSES = (1, 2)
CALLS_PER_VISIT = 3
"""A visit times several calls one after the other; each gets this part of the plan's seconds."""


class CallsSuite(Suite):
    name = "calls"
    question = "What does a socket call cost with and without the locks, alone and when two processes call at once?"

    def cells(self, plan: Plan) -> list[Cell]:
        cells = []
        for processes in PROCESSES:
            for mode in MODES:
                listener, _, lock = mode.partition("/")
                argv = ["stackcore.calls", "--listener", listener, "--processes", str(processes), "--json"]
                argv += ["--seconds", f"{max(0.01, plan.seconds / CALLS_PER_VISIT):.3f}"]
                argv += ["--lock", lock] if lock else []
                factors = {"processes": processes, "listener": listener, "lock": lock}
                times = plan.repeat(6, 10)
                cells.append(Cell(self.name, f"{processes}p", mode, tuple(argv), times, factors=factors))
        return cells

    def measure(self, cell: Cell, result: Mapping[str, Any]) -> dict[str, Measurement]:
        return {
            f"{cell.name} {call}": Measurement(nanoseconds * 1e-9, int(result.get("calls") or 1))
            for call, nanoseconds in result["ns_per_call"].items()
        }

    def analyse(self, records: Records) -> Analysis:
        calls = _call_names(records)
        columns = [Column("call", numeric=False), Column("procs"), *(Column(_short(mode)) for mode in MODES)]
        columns += [Column(f"{_short(mode)} ratio [95 %]") for mode in LOCKED]
        rows = []
        for processes in PROCESSES:
            for call in calls:
                ratios = [_ratio(records, processes, call, mode) for mode in LOCKED]
                times = [number(_median_ns(records, processes, call, mode)) for mode in MODES]
                rows.append([call, str(processes), *times, *(str(r) if r else MISSING for r in ratios)])
        notes = [
            "ns per call, medians over processes. spin-rw, futex-rw: the locks of shared-rwlock. Ratio: time with the lock / "
            "duplicated; above 1 the locked call is slower."
        ]
        table = Table("Socket calls without a core", columns, rows, notes)
        return Analysis(self.question, _findings(records, calls), [table], _charts(records, calls))


def _short(mode: str) -> str:
    return mode.rpartition("/")[2]


def _benchmark(processes: int, call: str, mode: str) -> str:
    return f"calls {processes}p {mode} {call}"


def _call_names(records: Records) -> list[str]:
    names: dict[str, None] = {}
    for visit in records.visits:
        if visit.problem is None and visit.result:
            names.update(dict.fromkeys(visit.result["ns_per_call"]))
    return list(names)


def _median_ns(records: Records, processes: int, call: str, mode: str) -> float | None:
    seconds = records.seconds(_benchmark(processes, call, mode))
    return 1e9 * statistics.median(value for process in seconds for value in process) if seconds else None


def _ratio(records: Records, processes: int, call: str, mode: str) -> Ratio | None:
    locked = records.seconds(_benchmark(processes, call, mode))
    free = records.seconds(_benchmark(processes, call, FREE))
    return ratio_of_medians(locked, free) if locked and free else None


def _findings(records: Records, calls: Sequence[str]) -> list[str]:
    """Name, for one and for two processes, the call that the locks slow down most among those with an interval."""
    said = []
    for processes in PROCESSES:
        judged = [
            (ratio, call, mode)
            for call in calls
            for mode in LOCKED
            if (ratio := _ratio(records, processes, call, mode)) and ratio.low is not None
        ]
        if judged:
            ratio, call, mode = max(judged, key=lambda item: item[0].value)
            slower = sum(item[0].verdict == "higher" for item in judged)
            said.append(
                f"With {processes} process{'es' if processes > 1 else ''} the locks slow {call} down most: {mode} takes "
                f"{ratio.value:.2f} times as long (95 % interval {ratio.low:.2f} to {ratio.high:.2f}); {slower} of {len(judged)} "
                "comparisons are shown to be slower."
            )
    return said or ["Too few processes for an interval: no call is called slower."]


def _charts(records: Records, calls: Sequence[str]) -> list[Chart]:
    return [
        Chart(
            "bars",
            f"ns per call, {processes} process{'es' if processes > 1 else ''}",
            "call",
            "ns",
            list(calls),
            [Series(_short(mode), [_median_ns(records, processes, call, mode) for call in calls]) for mode in MODES],
        )
        for processes in PROCESSES
        if calls
    ]
