"""`stackcore compare A.json B.json`: two pyperf files side by side, with the intervals pyperf itself does not give.

A `pyperf.Run` is a process here (see `bench.results`), so the bootstrap resamples runs.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pyperf

from bench.runner import BenchError
from bench.stats import MIN_PROCESSES, ratio_of_medians
from bench.tables import Column, Table, number


def compare_files(a: Path, b: Path) -> Table:
    """Return a table of the benchmarks both files have; raises BenchError when a file is none or nothing is common."""
    first, second = _load(a), _load(b)
    common = [name for name in first if name in second]
    if not common:
        raise BenchError(f"{a} and {b} have no benchmark in common; 'python -m pyperf show' lists what is in a file")
    rows = []
    for name in common:
        ratio = ratio_of_medians(first[name], second[name])
        verdict = {"higher": "B is faster", "lower": "A is faster"}.get(ratio.verdict, ratio.verdict)
        rows.append([name, _nanoseconds(first[name]), _nanoseconds(second[name]), str(ratio), verdict])
    columns = [
        Column("benchmark", numeric=False), Column("A ns"), Column("B ns"), Column("speed B / A [95 %]"),
        Column("verdict", numeric=False),
    ]  # fmt: skip
    notes = [f"A: {a}, B: {b}. Medians over processes; an interval only from {MIN_PROCESSES} processes on both sides up."]
    return Table("Comparison", columns, rows, notes)


def _load(path: Path) -> dict[str, list[list[float]]]:
    try:
        suite = pyperf.BenchmarkSuite.load(str(path))
    except (ValueError, KeyError, TypeError, OSError, AttributeError) as error:
        raise BenchError(f"{path} is not a pyperf result file ({error})") from error
    return {bench.get_name(): [list(run.values) for run in bench.get_runs() if run.values] for bench in suite}


def _nanoseconds(processes: list[list[float]]) -> str:
    return number(1e9 * statistics.median(value for process in processes for value in process))
