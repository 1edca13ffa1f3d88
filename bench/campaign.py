"""Runs one suite: rounds in their interleaved order, the native reference in front of each, everything on disk at once.

Nothing here knows what a suite measures. An interruption (Ctrl-C) or an error leaves the records made so far in `records`
and in `raw/`; the caller writes the rest.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.interleave import Cell, Round, rounds
from bench.native import time_reference
from bench.results import RawLog, Records, Reference, Visit
from bench.runner import BenchError, Outcome, Runner, run_process
from bench.suites.base import STARTUP_TIMEOUT, Plan, Suite

GIVE_UP_AFTER = 5
"""So many failed visits in a row end the benchmark: something is wrong with the installation, not with a mode."""
REFERENCE_SECONDS = {True: 0.1, False: 0.2}
"""Seconds for each shape of the native reference, by `plan.quick`."""


@dataclass(frozen=True)
class Step:
    """Progress: `done` of `total` visits of `suite`; `what` is about to run."""

    suite: str
    what: str
    done: int
    total: int


class Campaign:
    """One suite under one plan, written to one folder. Not thread safe; use it once."""

    def __init__(
        self,
        suite: Suite,
        plan: Plan,
        folder: Path,
        session: Mapping[str, Any],
        *,
        runner: Runner = run_process,
        on_step: Callable[[Step], None] = lambda step: None,
    ) -> None:
        self.suite, self.plan, self.runner, self.on_step = suite, plan, runner, on_step
        self.records = Records(suite.name, dict(session))
        self.cells = suite.cells(plan)
        self.total = sum(cell.rounds for cell in self.cells)
        self._folder = folder
        self._failed_in_a_row = 0

    def run(self) -> Records:
        """Visit everything and return the records; raises BenchError when it makes no sense to go on."""
        log = RawLog(self._folder, self.suite.name, self.records.session)
        try:
            for planned in rounds(self.cells):
                self._round(planned, log)
            index = self.total
            while extra := self.suite.wanting(self.plan, self.records):
                self.total += len(extra)
                for cell in extra:
                    self._visit(cell, index, log)
                    index += 1
        finally:
            log.close()
        return self.records

    def _round(self, planned: Round, log: RawLog) -> None:
        figures = time_reference(self.runner, REFERENCE_SECONDS[self.plan.quick])
        reference = Reference(self.suite.name, planned.group, planned.index, figures)
        self.records.references.append(reference)
        log.reference(reference)
        for cell in planned.cells:
            self._visit(cell, planned.index, log)

    def _visit(self, cell: Cell, index: int, log: RawLog) -> None:
        self.on_step(Step(self.suite.name, f"{cell.group} {cell.mode}", len(self.records.visits), self.total))
        command = [sys.executable, "-m", *cell.argv]
        started, before = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
        outcome = self.runner(command, self.plan.seconds + STARTUP_TIMEOUT)
        result, problem = _read(outcome)
        if result is not None and outcome.status is not None:
            problem = self.suite.complaint(cell, result, outcome.status)
        measured = self.suite.measure(cell, result) if result is not None and problem is None else {}
        visit = Visit(
            cell.suite, cell.group, cell.mode, cell.name, cell.factors, cell.control, index, _portable(command), started,
            time.monotonic() - before, outcome.status, problem, result, measured,
        )  # fmt: skip
        self.records.visits.append(visit)
        log.visit(visit)
        self._count_failure(visit, outcome)

    def _count_failure(self, visit: Visit, outcome: Outcome) -> None:
        self._failed_in_a_row = self._failed_in_a_row + 1 if visit.result is None else 0
        if self._failed_in_a_row >= GIVE_UP_AFTER:
            raise BenchError(
                f"{GIVE_UP_AFTER} visits in a row gave no result; the last was\n  {' '.join(visit.command)}\nand ended with: "
                f"{outcome.complaint()}"
            )


def _read(outcome: Outcome) -> tuple[dict[str, Any] | None, str | None]:
    """Return the object that a process printed, or why there is none."""
    try:
        result = json.loads(outcome.stdout)
    except ValueError:
        return None, f"no result: {outcome.complaint()}"
    if not isinstance(result, dict):
        return None, "no result: it printed JSON that is no object"
    return result, None


def _portable(command: Sequence[str]) -> list[str]:
    """Name the interpreter `python`: a reader has another path to it."""
    return ["python", *command[1:]]
