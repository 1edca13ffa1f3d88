"""D2: what happens to events that do not fit into one `epoll_wait`, and what each way of handling them costs.

Every visit runs the `fanout` workload (more ready sessions than `maxevents`, edge-triggered), whose oracle counts stale,
misdelivered, duplicate and lost events, one event once. `two-queue` is the outline's defect and a negative control here:
stale events are its finding. `bounded` and `single-queue` must show none; the full set goes on until each of
them has been seen to deliver at least `CHECKED_EVENTS` events.

A reference only goes stale once the ring has wrapped, so the ring's size is swept together with `maxevents`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.interleave import Cell
from bench.results import Measurement, Records, Visit
from bench.stats import MIN_PROCESSES, Ratio, paired_ratio, ratio_of_medians
from bench.suites.base import Plan, Suite, dig, median_of, run_arguments, total_of
from bench.tables import Analysis, Chart, Column, Series, Table, count, number

DEFECT = "two-queue"
CORRECT = ("bounded", "single-queue")
MODES = (DEFECT, *CORRECT)
ERRORS = ("stale", "misdelivered", "duplicate", "lost")
CLIENTS = 512
CHECKED_EVENTS = 10_000_000
TOP_UP_SECONDS = 5.0
MOST_TOP_UPS = 40
# (maxevents, ring slots)
QUICK = ((64, 256),)
FULL = tuple((maxevents, ring) for maxevents in (16, 64, 256) for ring in (128, 256, 512, 2048))


class EventsSuite(Suite):
    name = "events"
    question = "D2: are events lost or stale when more are ready than one epoll_wait takes, and what does each cure cost?"

    def cells(self, plan: Plan) -> list[Cell]:
        points = QUICK if plan.quick else FULL
        times = plan.repeat(6, 6)
        return [self._cell(plan, mode, *point, times) for point in points for mode in MODES]

    def _cell(self, plan: Plan, mode: str, maxevents: int, ring: int, times: int) -> Cell:
        argv = run_arguments("fanout", plan, events=mode, clients=CLIENTS, maxevents=maxevents, ring=ring)
        factors = {"maxevents": maxevents, "ring": ring, "events": mode}
        return Cell(self.name, f"maxevents={maxevents} ring={ring}", mode, argv, times, mode == DEFECT, factors)

    def measure(self, cell: Cell, result: Mapping[str, Any]) -> dict[str, Measurement]:
        nanoseconds, events = dig(result, "events.ns_per_event"), _delivered(result)
        return {cell.name: Measurement(nanoseconds * 1e-9, events)} if nanoseconds and events else {}

    def wanting(self, plan: Plan, records: Records) -> list[Cell]:
        """In the full set, longer visits of a correct mode that has not been seen to deliver enough events yet."""
        if plan.quick or plan.rounds:
            return []
        longer = replace(plan, seconds=TOP_UP_SECONDS)
        extra = [self._cell(longer, mode, *FULL[0], 1) for mode in CORRECT if _checked(records, mode) < CHECKED_EVENTS]
        spent = sum(visit.factors.get("top_up", 0) for visit in records.visits)
        return [replace(cell, factors={**cell.factors, "top_up": 1}) for cell in extra] if spent < MOST_TOP_UPS else []

    def analyse(self, records: Records) -> Analysis:
        points = _points(records)
        cells = [(point, mode) for point in points for mode in MODES if _finished(records, point, mode)]
        tables = [_error_table(records, cells), _cost_table(records, cells)]
        return Analysis(self.question, _findings(records, points), tables, _charts(records, points))


def _delivered(result: Mapping[str, Any] | None) -> int:
    return int(dig(result, "events.count") or 0)


def _group(point: tuple[int, int]) -> str:
    return f"maxevents={point[0]} ring={point[1]}"


def _finished(records: Records, point: tuple[int, int], mode: str) -> list[Visit]:
    """Every visit of a cell that printed a result, wrong ones included: errors must never drop out of a sum."""
    return [v for v in records.visits if v.group == _group(point) and v.mode == mode and v.result is not None]


def _points(records: Records) -> list[tuple[int, int]]:
    return sorted({(int(v.factors["maxevents"]), int(v.factors["ring"])) for v in records.visits})


def _checked(records: Records, mode: str) -> int:
    return sum(_delivered(visit.result) for visit in records.visits if visit.mode == mode)


def _errors(visits: Sequence[Visit]) -> dict[str, int]:
    return {kind: total_of(visits, f"errors.{kind}") or 0 for kind in ERRORS}


_POINT_COLUMNS = [Column("mode", numeric=False), Column("maxevents"), Column("ring")]


def _error_table(records: Records, cells: Sequence[tuple[tuple[int, int], str]]) -> Table:
    columns = [*_POINT_COLUMNS, *(Column(kind) for kind in ERRORS), Column("events")]
    rows = []
    for point, mode in cells:
        visits = _finished(records, point, mode)
        delivered = sum(_delivered(visit.result) for visit in visits)
        rows.append([mode, str(point[0]), str(point[1]), *(count(n) for n in _errors(visits).values()), count(delivered)])
    notes = [
        f"fanout, {CLIENTS} sessions, edge-triggered. Sums over all processes; the oracle counts each event once. Events: "
        "those delivered and checked."
    ]
    return Table("D2: events beyond maxevents", columns, rows, notes)


def _cost_table(records: Records, cells: Sequence[tuple[tuple[int, int], str]]) -> Table:
    figures = ("ns_per_event", "bytes", "ring_high_water", "growth_copies")
    columns = [*_POINT_COLUMNS, Column("ns/event"), Column("bytes"), Column("ring high-water"), Column("growth copies")]
    rows = []
    for point, mode in cells:
        visits = _finished(records, point, mode)
        costs = [number(median_of(visits, f"events.{figure}")) for figure in figures]
        rows.append([mode, str(point[0]), str(point[1]), *costs])
    notes = ["Medians over processes. Bytes: memory of the mode's own queues. Growth copies: records copied when a queue grew."]
    return Table("D2: what each mode costs", columns, rows, notes)


def _findings(records: Records, points: Sequence[tuple[int, int]]) -> list[str]:
    said = []
    seen = {mode: [v for v in records.visits if v.mode == mode and v.result is not None] for mode in MODES}
    for mode in (mode for mode in MODES if seen[mode]):
        errors, events = _errors(seen[mode]), _checked(records, mode)
        wrong = ", ".join(f"{n:,} {kind}" for kind, n in errors.items() if n)
        said.append(f"{mode}: {wrong or 'no stale, misdelivered, duplicate or lost event'} in {events:,} events delivered.")
    return said + _cost_findings(records, points) or ["No visit of this suite ended with a result."]


def _cost_findings(records: Records, points: Sequence[tuple[int, int]]) -> list[str]:
    """Compare the two correct modes at the first point at which both were visited."""
    for point in points:
        first, second = (records.seconds(f"events {_group(point)} {mode}") for mode in CORRECT)
        if first and second:
            bounded, single = (records.seconds_by_round(f"events {_group(point)} {mode}") for mode in CORRECT)
            return [_cost_sentence(point, ratio_of_medians(second, first), paired_ratio(single, bounded))]
    return []


def _cost_sentence(point: tuple[int, int], ratio: Ratio, paired: Ratio | None) -> str:
    where = f"With {_group(point).replace(' ', ' and ')}, single-queue"
    if ratio.low is None:
        return (
            f"{where} takes {ratio.value:.2f} times bounded's ns per event (no interval: fewer than {MIN_PROCESSES} processes)."
        )
    words = {
        "higher": "costs more than",
        "lower": "costs less than",
        "no difference shown": "is not shown to cost more or less than",
    }
    return (
        f"{where} {words[ratio.verdict]} bounded: {ratio.value:.2f} times the ns per event "
        f"(95 % interval {ratio.low:.2f} to {ratio.high:.2f}, {ratio.processes[0]} processes each; "
        f"compared within rounds: {paired})."
    )


def _charts(records: Records, points: Sequence[tuple[int, int]]) -> list[Chart]:
    if not points:
        return []
    names = [f"{maxevents}/{ring}" for maxevents, ring in points]
    wrong = [Series(mode, [_per_million(_finished(records, p, mode)) for p in points]) for mode in MODES]
    cost = [Series(mode, [median_of(_finished(records, p, mode), "events.ns_per_event") for p in points]) for mode in MODES]
    return [
        Chart("bars", "Wrong events per million delivered", "maxevents/ring", "per million", names, wrong,
              "Stale, misdelivered, duplicate and lost together; the correct modes stand at zero."),
        Chart("bars", "Cost per event", "maxevents/ring", "ns", names, cost),
    ]  # fmt: skip


def _per_million(visits: Sequence[Visit]) -> float | None:
    events = sum(_delivered(visit.result) for visit in visits)
    return 1e6 * sum(_errors(visits).values()) / events if events else None
