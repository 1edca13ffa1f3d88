"""What a suite is: a list of cells to visit, how to read a visit's result, and what to conclude."""

from __future__ import annotations

import abc
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.interleave import Cell
from bench.results import Measurement, Records, Visit
from bench.tables import Analysis

STARTUP_TIMEOUT = 120.0
"""Seconds granted to a visit on top of what it measures: a first one may compile kernels."""


@dataclass(frozen=True)
class Plan:
    """How much to measure. `seconds` is a visit's measured time; `rounds` overrides every suite's own number."""

    quick: bool
    seconds: float
    rounds: int | None = None
    cpus: int = 0

    @classmethod
    def make(cls, *, quick: bool, seconds: float | None = None, rounds: int | None = None) -> Plan:
        """Fill in what was not given: 0.3 s a visit when quick, else 0.5 s."""
        return cls(quick, seconds or (0.3 if quick else 0.5), rounds, len(os.sched_getaffinity(0)))

    def repeat(self, quick: int, full: int) -> int:
        """Return the number of rounds of a cell that has `quick` ones in a quick plan and `full` ones else."""
        return self.rounds or (quick if self.quick else full)


class Suite(abc.ABC):
    """One question and how it is measured. Suites hold no state: everything is in the records."""

    name: ClassVar[str]
    question: ClassVar[str]
    always: ClassVar[bool] = True
    """Part of a run that names no suite; False for what is about other people's software, or about TCP alone."""
    share: ClassVar[float] = 1.0
    """The part of the plan's seconds that a visit measures."""

    @abc.abstractmethod
    def cells(self, plan: Plan) -> list[Cell]:
        """Return what is to be visited."""

    @abc.abstractmethod
    def measure(self, cell: Cell, result: Mapping[str, Any]) -> dict[str, Measurement]:
        """Return the figures in one process's result by benchmark name; may be empty."""

    @abc.abstractmethod
    def analyse(self, records: Records) -> Analysis:
        """Say what the records show; must cope with missing cells, for an interrupted run has a report, too."""

    def wanting(self, plan: Plan, records: Records) -> list[Cell]:
        """Return cells that need another visit after the planned rounds; empty when there is enough."""
        return []

    def complaint(self, cell: Cell, result: Mapping[str, Any], status: int) -> str | None:
        """Return why a process that printed a result does not count, or None when it does."""
        if status == 0 or cell.control:
            return None
        wrong = {kind: n for kind, n in result.get("errors", {}).items() if n}
        said = ", ".join(f"{kind} {n}" for kind, n in wrong.items()) or "it named no error"
        return f"exit status {status}: {said}"


def run_arguments(workload: str, plan: Plan, **flags: Any) -> tuple[str, ...]:
    """Return the arguments of a `stackcore run` visit; flag names use _ for -, None leaves a flag out."""
    words = ["stackcore", "run", workload]
    for flag, value in flags.items():
        if value is not None:
            words += [f"--{flag.replace('_', '-')}", str(value)]
    return (*words, "--duration", str(plan.seconds), "--json")


def request_rate(benchmark: str, result: Mapping[str, Any]) -> dict[str, Measurement]:
    """Return the time per request of a run's result; empty when it served nothing."""
    rate, requests = result.get("requests_per_s") or 0.0, int(result.get("requests") or 0)
    return {benchmark: Measurement(1.0 / rate, requests)} if rate > 0 and requests > 0 else {}


def median_of(visits: Sequence[Visit], path: str) -> float | None:
    """Return the median over visits of the result's value at a dotted `path`; None when no visit has it."""
    found = [value for visit in visits if (value := dig(visit.result, path)) is not None]
    return statistics.median(found) if found else None


def total_of(visits: Sequence[Visit], path: str) -> int | None:
    """Return the sum over visits of the result's count at a dotted `path`; None when no visit has it."""
    found = [value for visit in visits if (value := dig(visit.result, path)) is not None]
    return int(sum(found)) if found else None


def dig(result: Mapping[str, Any] | None, path: str) -> float | None:
    """Return the number at a dotted path, or None when a step is missing."""
    at: Any = result
    for step in path.split("."):
        if not isinstance(at, Mapping) or step not in at:
            return None
        at = at[step]
    return at if isinstance(at, int | float) else None
