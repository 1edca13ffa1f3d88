"""shmq beside the other ways to pass small messages between two processes from Python, and beside plain C.

One cell per peer and kind of traffic; the reference in C is a peer among them, so it is timed in every round, seconds from the
others. Ratios are taken within rounds. A peer that is not installed gets one visit that says so; one that loses messages is
marked and never the best peer, for what it saves by losing is no speed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.interleave import Cell
from bench.native import reference_figures
from bench.peers import Adapter, adapter_names, get_adapter
from bench.results import Measurement, Records, Visit
from bench.stats import MIN_PROCESSES, Ratio, drift_marks, paired_ratio
from bench.suites.base import Plan, Suite, median_of, total_of
from bench.tables import MISSING, Analysis, Chart, Column, Series, Table, number
from shmq.measure import KINDS, batch_size

SMALL = 32
"""The quick plan sends larger messages only through peers that are made for bytes."""
ROUND_TRIPS = ("busy", "blocking")
ERRORS = ("lost", "duplicate", "misplaced", "corrupt")

# (kind, bytes of a message)
QUICK = (
    ("single", 32), ("batch", 32), ("array", 32), ("busy", 32), ("blocking", 32), ("idle", 32), ("single", 1024),
    ("single", 65536), ("view", 65536),
)  # fmt: skip
FULL = (*QUICK, ("batch", 1024), ("array", 1024), ("view", 1024), ("busy", 1024), ("busy", 65536), ("blocking", 1024))


class PeersSuite(Suite):
    name = "peers"
    always = False
    share = 1 / 3  # there are many visits
    question = "How fast are shmq's ring and channel beside what Python users can pick today, and beside plain C?"

    def cells(self, plan: Plan) -> list[Cell]:
        present = [adapter for adapter in map(get_adapter, adapter_names()) if adapter.missing() is None]
        absent = [adapter for adapter in map(get_adapter, adapter_names()) if adapter not in present]
        cells = [
            self._cell(plan, adapter, kind, size, plan.repeat(2, 4) if kind == "idle" else plan.repeat(6, 10))
            for kind, size in (QUICK if plan.quick else FULL)
            for adapter in present
            if adapter.can(kind, size) and not (plan.quick and adapter.objects and size > SMALL)
        ]
        return cells + [self._cell(plan, adapter, *QUICK[0], 1) for adapter in absent]

    def _cell(self, plan: Plan, adapter: Adapter, kind: str, size: int, times: int) -> Cell:
        seconds = f"{plan.seconds * self.share:.3f}"
        argv = ("bench.peers.run", adapter.name, "--kind", kind, "--size", str(size), "--seconds", seconds, "--json")
        factors = {"peer": adapter.name, "kind": kind, "size": size}
        return Cell(self.name, group_name(kind, size), adapter.name, argv, times, factors=factors)

    def measure(self, cell: Cell, result: Mapping[str, Any]) -> dict[str, Measurement]:
        """Return the time per message, or a round trip's median; how long a receiver idled is no figure."""
        if "skipped" in result or result["kind"] == "idle":
            return {}
        nanoseconds = result["trip_ns"] if result["kind"] in ROUND_TRIPS else result["ns"]
        return {cell.name: Measurement(nanoseconds * 1e-9, int(result["operations"]))}

    def complaint(self, cell: Cell, result: Mapping[str, Any], status: int) -> str | None:
        return result.get("problem") or super().complaint(cell, result, status)

    def analyse(self, records: Records) -> Analysis:
        groups = [_Group(records, kind, size) for kind, size in FULL]
        shown = [group for group in groups if group.rows]
        verdicts = [verdict for target in TARGETS if (verdict := target.verdict(groups))]
        findings = verdicts + _losses(records) + _left_out(records)
        tables = [group.table() for group in shown]
        return Analysis(self.question, findings or ["No visit of this suite ended well."], tables, _charts(shown))


def group_name(kind: str, size: int) -> str:
    """Return the group's name: `single 32 B`, `view 64 KB`."""
    return f"{kind} {size // 1024} KB" if size >= 1024 else f"{kind} {size} B"


# ---- one kind of traffic: its peers, fastest first ----


class _Row:
    """One peer's visits to one kind of traffic."""

    def __init__(self, records: Records, group: str, name: str) -> None:
        self.name, self.role = name, get_adapter(name).role
        self.visits = [v for v in records.of(group, name) if v.result and "skipped" not in v.result]
        self.by_round = records.seconds_by_round(f"peers {group} {name}")
        self.seconds = statistics.median(self.by_round.values()) if self.by_round else math.inf
        self.lossless = get_adapter(name).lossless and not any(total_of(self.visits, f"errors.{kind}") for kind in ERRORS)
        self.cpu = median_of(self.visits, "cpu_share") or 0.0

    def speed_against(self, other: _Row | None) -> Ratio | None:
        """Return how many times as fast it is as another one, round by round."""
        return paired_ratio(other.by_round, self.by_round) if other else None


class _Group:
    def __init__(self, records: Records, kind: str, size: int) -> None:
        self.kind, self.size, self.name = kind, size, group_name(kind, size)
        rows = [_Row(records, self.name, name) for name in adapter_names()]
        rows = [row for row in rows if row.visits]
        self.rows = sorted(rows, key=lambda row: row.cpu if kind == "idle" else row.seconds)
        self._drift = _drift_note(records, self.name)

    def row(self, name: str) -> _Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def best(self, role: str) -> _Row | None:
        """Return the fastest that lost nothing."""
        return next((row for row in self.rows if row.role == role and row.lossless), None)

    def table(self) -> Table:
        if self.kind == "idle":
            return self._idle_table()
        peer, floor = self.best("peer"), self.best("floor")
        titles = ("us", "p50 us", "p99 us") if self.kind in ROUND_TRIPS else ("msg/s",)
        columns = [Column("", numeric=False), *map(Column, titles), Column("x peer [95 %]"), Column("x C [95 %]")]
        rows = []
        for row in self.rows:
            ratios = [str(ratio) if (ratio := row.speed_against(other)) else MISSING for other in (peer, floor)]
            rows.append([row.name + ("" if row.lossless else " *"), *self._times(row), *ratios])
        return Table(f"{self.name}: {KINDS[self.kind]}", columns, rows, self._notes(peer))

    def _times(self, row: _Row) -> tuple[str, ...]:
        if self.kind in ROUND_TRIPS:
            percentiles = [median_of(row.visits, path) for path in ("p50_ns", "p99_ns")]
            return (number(1e6 * row.seconds), *(number(ns / 1000 if ns else None) for ns in percentiles))
        return (number(1 / row.seconds),)

    def _notes(self, peer: _Row | None) -> list[str]:
        notes = [f"Best peer: {peer.name}. " if peer else "No peer to compare with. "]
        notes[0] += "x peer: times as fast as that one, median over rounds; above 1 is faster. x C: as fast as plain C."
        if self.kind in ("batch", "array"):
            notes[0] += f" {batch_size(self.size)} messages a batch."
        if self.kind in ROUND_TRIPS:
            notes[0] += " us: median over blocks of round trips; p50, p99: of single ones, with the clock's own 0.06 us."
        if any(not row.lossless for row in self.rows):
            notes.append("* may lose messages, so it is not the best peer.")
        return [*notes, *self._drift]

    def _idle_table(self) -> Table:
        rows = [[row.name, number(100 * row.cpu)] for row in self.rows]
        notes = ["CPU time of a receiver that waits for a message for half a second, as a share of that time."]
        return Table(f"{self.name}: {KINDS[self.kind]}", [Column("", numeric=False), Column("% of a CPU")], rows, notes)


def _drift_note(records: Records, group: str) -> list[str]:
    """Name the rounds of a group in front of which the native reference was not its usual self."""
    references = [reference for reference in records.references if reference.group == group]
    marks = drift_marks([reference_figures(reference.figures) for reference in references])
    marked = [str(reference.round) for reference, mark in zip(references, marks, strict=True) if mark]
    return [f"The machine's speed was unusual in front of {len(marked)} of {len(marks)} rounds."] if marked else []


# ---- what shmq is meant to reach ----


@dataclass(frozen=True)
class Target:
    """`what` shmq is to do `goal` times as fast as a rival, in one kind of traffic.

    `rival` is a role, whose fastest row is taken, or a peer's name. `ours` names the class that is judged; None takes the
    fastest of shmq's.
    """

    what: str
    kind: str
    size: int
    goal: float
    rival: str
    ours: str | None = None

    def verdict(self, groups: Sequence[_Group]) -> str | None:
        """Say whether it was reached, or by how much not; None without figures."""
        group = next((group for group in groups if (group.kind, group.size) == (self.kind, self.size)), None)
        if group is None:
            return None
        ours = group.row(self.ours) if self.ours else group.best("shmq")
        if self.kind == "idle":
            return self._idle_verdict(ours)
        rival = group.row(self.rival) or group.best(self.rival)
        ratio = ours.speed_against(rival) if ours else None
        if ours is None or rival is None or ratio is None:
            return None
        said = f"{self.what}: {ours.name} is {ratio.value:.2f} times as fast as {rival.name}"
        return f"{said}{_interval(ratio)}; goal {self.goal:g}, {self._judge(ratio)}."

    def _judge(self, ratio: Ratio) -> str:
        by = f"missed by {100 * (1 - ratio.value / self.goal):.0f} %"
        if ratio.low is None or ratio.high is None:
            return f"{'reached' if ratio.value >= self.goal else by}, without an interval"
        if ratio.low >= self.goal:
            return "reached"
        if ratio.high < self.goal:
            return by
        return f"{'reached' if ratio.value >= self.goal else by}, but the interval includes the goal"

    def _idle_verdict(self, ours: _Row | None) -> str | None:
        if ours is None:
            return None
        judged = "reached" if ours.cpu < self.goal else "missed"
        return f"{self.what}: {ours.name} uses {100 * ours.cpu:.2f} % of a CPU; goal below {100 * self.goal:g} %, {judged}."


TARGETS = (
    Target("single messages of 32 B", "single", 32, 1.5, "peer"),
    Target("batches of bytes objects", "batch", 32, 1.5, "peer"),
    Target("contiguous batches", "array", 32, 0.7, "floor"),
    Target("contiguous batches", "array", 32, 1.0, "os.pipe"),
    Target("busy round trip, median", "busy", 32, 1.0, "peer"),
    Target("busy round trip, median", "busy", 32, 0.5, "floor"),
    Target("blocking round trip, median", "blocking", 32, 1.0, "peer"),
    Target("a parked consumer", "idle", 32, 0.01, "", ours="shmq.Ring"),
    Target("single messages of 1 KB", "single", 1024, 1.5, "peer"),
    Target("single messages of 64 KB", "single", 65536, 1.5, "peer"),
    Target("64 KB in place", "view", 65536, 0.9, "floor"),
    Target("objects, small", "single", 32, 5.0, "multiprocessing.Queue", ours="shmq.Queue"),
    Target("objects, small", "single", 32, 2.0, "faster-fifo", ours="shmq.Queue"),
)
"""Of a round trip half as fast means twice as long."""


def _interval(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return f" (no interval: fewer than {MIN_PROCESSES} rounds)"
    return f" (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"


# ---- the rest of the findings ----


def _finished(records: Records) -> list[Visit]:
    return [visit for visit in records.visits if visit.result and "errors" in visit.result]


def _losses(records: Records) -> list[str]:
    """Name each peer whose messages did not all arrive, once and in order."""
    said = []
    for name in adapter_names():
        visits = [visit for visit in _finished(records) if visit.mode == name]
        wrong = {kind: total_of(visits, f"errors.{kind}") or 0 for kind in ERRORS}
        if any(wrong.values()):
            counts = ", ".join(f"{n:,} {kind}" for kind, n in wrong.items() if n)
            said.append(f"{name} is not lossless here: {counts}.")
    return said


def _left_out(records: Records) -> list[str]:
    reasons = {v.mode: v.result["skipped"] for v in records.visits if v.result and "skipped" in v.result}
    if not reasons:
        return []
    return ["Left out: " + "; ".join(f"{name} ({reason})" for name, reason in reasons.items()) + "."]


def _charts(groups: Sequence[_Group]) -> list[Chart]:
    charts = []
    for group in groups:
        rows = [row for row in group.rows if math.isfinite(row.seconds)]
        if not rows:
            continue
        title = f"{group.name}, {'median round trip' if group.kind in ROUND_TRIPS else 'per message'}"
        series = [Series(group.name, [1e9 * row.seconds for row in rows])]
        names = [row.name for row in rows]
        charts.append(Chart("bars", title, "", "ns", names, series, log=True))
    return charts
