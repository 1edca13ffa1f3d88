"""D3: what the locks of a shared listener cost, against workers, reply size and the application's own work.

`shared-rwlock` is the VLS layer of 2019 (a read lock twice per socket call), `duplicated` the proposed lock-free way,
`unlocked-shared` the negative control: the locks taken out and nothing put in their place, so children get no service.

What to expect depends on what binds. With two CPUs the core keeps one of them busy, so two workers seldom run at the same
moment: the lock's cost is then its uncontended path only. `--work 5000` makes the worker the bottleneck (nginx spent about 5 us
per request in 2019), which dilutes that cost. Contention itself is measured by the suite `calls`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bench import draft2019
from bench.interleave import Cell
from bench.results import Measurement, Records, Visit
from bench.stats import MIN_PROCESSES, Ratio, paired_ratio, ratio_of_medians
from bench.suites.base import Plan, Suite, dig, median_of, request_rate, run_arguments, total_of
from bench.tables import MISSING, Analysis, Chart, Column, Series, Table, count, number

DUPLICATED = "duplicated"
LOCKED = "shared-rwlock"
CONTROL = "unlocked-shared"
WORKERS = (1, 2, 4)
WORK_NS = (0, 5000)
CLIENTS = 64
# What the quick plan looks at: (workers, size, work, rounds).
QUICK = ((1, "1K", 0, 6), (2, "1K", 0, 6), (4, "1K", 0, 2), (2, "1K", 5000, 2))
FULL_ROUNDS = 8
HEADLINE = ("1K", 0, "spin-rw")
"""Reply size, work and lock of the comparisons that are put into words, one for each number of workers."""


class ListenerSuite(Suite):
    name = "listener"
    question = "D3: does a worker's own listener beat a shared one behind a read-write lock?"

    def cells(self, plan: Plan) -> list[Cell]:
        if plan.quick:
            points = [(workers, size, work, plan.repeat(n, n)) for workers, size, work, n in QUICK]
        else:
            times = plan.repeat(FULL_ROUNDS, FULL_ROUNDS)
            points = [(w, size, work, times) for w in WORKERS for size in draft2019.SIZES for work in WORK_NS]
        locks = ("spin-rw",) if plan.quick else ("spin-rw", "futex-rw")
        cells = []
        for workers, size, work, times in points:
            cells.append(self._cell(plan, DUPLICATED, None, workers, size, work, times))
            cells += [self._cell(plan, LOCKED, lock, workers, size, work, times) for lock in locks]
        cells.append(self._cell(plan, CONTROL, None, 2, "1K", 0, 1))
        return cells

    def _cell(self, plan: Plan, listener: str, lock: str | None, workers: int, size: str, work: int, times: int) -> Cell:
        argv = run_arguments(
            "http", plan, workers=workers, listener=listener, lock=lock, clients=CLIENTS, size=size, work=work, app="compiled"
        )
        group = f"{workers}w {size} work={work}"
        factors = {"workers": workers, "size": size, "work": work, "listener": listener, "lock": lock or ""}
        control = listener == CONTROL
        mode = f"{listener}/{lock}" if lock else listener
        return Cell(self.name, "control" if control else group, mode, argv, times, control, factors)

    def measure(self, cell: Cell, result: Mapping[str, Any]) -> dict[str, Measurement]:
        return {} if cell.control else request_rate(cell.name, result)

    def analyse(self, records: Records) -> Analysis:
        comparisons = _comparisons(records)
        tables = [make(comparisons, _cpus(records)) for make in (_rate_table, _cost_table)]
        control = [visit for visit in records.visits if visit.mode == CONTROL and visit.result]
        findings = _findings(comparisons) + _shape(comparisons, _cpus(records))
        if control:
            tables.append(_control_table(control))
            findings.append(_control_finding(control))
        return Analysis(self.question, findings, tables, _charts(comparisons))


class _Comparison:
    """`duplicated` against one locked mode at one point."""

    def __init__(self, records: Records, group: str, locked_mode: str) -> None:
        self.free = records.of(group, DUPLICATED)
        self.locked = records.of(group, locked_mode)
        factors = (self.free or self.locked)[0].factors
        self.workers, self.size, self.work = int(factors["workers"]), str(factors["size"]), int(factors["work"])
        self.lock = locked_mode.partition("/")[2]
        self.ratio = self._ratio(records, group, locked_mode)
        # Times: locked over duplicated is duplicated over locked in throughput.
        slow, fast = (records.seconds_by_round(f"listener {group} {mode}") for mode in (locked_mode, DUPLICATED))
        self.paired = paired_ratio(slow, fast)

    @staticmethod
    def _ratio(records: Records, group: str, locked_mode: str) -> Ratio | None:
        # Of rates, like the two columns beside it: a median of few rates is not one over the median of their times.
        fast, slow = (
            [[1.0 / value for value in process] for process in records.seconds(f"listener {group} {mode}")]
            for mode in (DUPLICATED, locked_mode)
        )
        return ratio_of_medians(fast, slow) if slow and fast else None

    @property
    def draft(self) -> float | None:
        return draft2019.ratio(self.workers, self.size)

    @property
    def label(self) -> str:
        work = f" and {self.work} ns of work" if self.work else ""
        return f"{self.workers} worker{'s' if self.workers > 1 else ''}, {_size_label(self.size)} replies{work}"


def _comparisons(records: Records) -> list[_Comparison]:
    pairs: dict[tuple[str, str], None] = {}
    for visit in records.visits:
        if visit.mode.startswith(LOCKED) and visit.problem is None and records.of(visit.group, DUPLICATED):
            pairs[visit.group, visit.mode] = None
    found = [_Comparison(records, group, mode) for group, mode in pairs]
    return sorted(found, key=lambda c: (c.work, c.workers, draft2019.SIZES.index(c.size), c.lock))


def _cpus(records: Records) -> int:
    return int(records.session.get("cpus") or len(os.sched_getaffinity(0)))


def _size_label(size: str) -> str:
    return "0 KB" if size == "0" else f"{size[:-1]} {size[-1]}B"


_POINT_COLUMNS = [Column("workers"), Column("size"), Column("work ns"), Column("lock", numeric=False)]


def _point_cells(c: _Comparison, cpus: int) -> list[str]:
    mark = "*" if c.workers + 1 > cpus else ""
    return [f"{c.workers}{mark}", _size_label(c.size), str(c.work), c.lock]


def _rate_table(comparisons: Sequence[_Comparison], cpus: int) -> Table:
    columns = [
        Column("duplicated req/s"),
        Column("shared req/s"),
        Column("ratio [95 %]"),
        Column("by round [95 %]"),
        Column("2019"),
    ]
    rows = [
        [
            *_point_cells(c, cpus),
            number(median_of(c.free, "requests_per_s")),
            number(median_of(c.locked, "requests_per_s")),
            str(c.ratio) if c.ratio else MISSING,
            str(c.paired) if c.paired else MISSING,
            f"{c.draft:.2f}" if c.draft else MISSING,
        ]
        for c in comparisons
    ]
    notes = [
        "Shared: shared-rwlock. Ratio: throughput of duplicated / shared, medians over processes; an interval only from "
        f"{MIN_PROCESSES} processes per mode up. By round: median of the ratios within each round, which a machine that changes "
        "its speed between rounds does not widen. 2019: the draft's ratio (nginx, without added work).",
        f"* oversubscribed: workers and core together are more than this machine's {cpus} CPUs.",
    ]
    return Table("D3: duplicated listeners against a shared one", [*_POINT_COLUMNS, *columns], rows, notes)


def _cost_table(comparisons: Sequence[_Comparison], cpus: int) -> Table:
    titles = ("worker us d", "worker us s", "core us d", "core us s", "locks", "wait ns")
    rows = []
    for c in comparisons:
        microseconds = [cost(visits) for cost in (_worker_us, _core_us) for visits in (c.free, c.locked)]
        locks, wait = (_per_request(c.locked, path) for path in ("locks.acquires", "locks.wait_ns"))
        rows.append([*_point_cells(c, cpus), *(number(value, 2) for value in microseconds), number(locks), number(wait)])
    notes = [
        "Per request. us: CPU time of all workers and of the core, d duplicated, s shared-rwlock; over the whole run, warm-up "
        "and waiting included. Locks: acquisitions, and the time spent waiting for them, of shared-rwlock."
    ]
    return Table("D3: what a request costs", [*_POINT_COLUMNS, *map(Column, titles)], rows, notes)


def _workers(visits: Sequence[Visit], field: str) -> float:
    """Sum one of the workers' figures over all visits. These count from fork to exit, warm-up included."""
    return sum(dig(worker, field) or 0.0 for v in visits for worker in (v.result or {}).get("per_worker", []))


def _worker_us(visits: Sequence[Visit]) -> float | None:
    requests = _workers(visits, "requests")
    return 1e6 * _workers(visits, "cpu_s") / requests if requests else None


def _core_us(visits: Sequence[Visit]) -> float | None:
    value = _per_request(visits, "core.cpu_s")
    return None if value is None else 1e6 * value


def _per_request(visits: Sequence[Visit], path: str) -> float | None:
    """Divide a run's total by the requests its workers answered: both count over the whole run."""
    requests = _workers(visits, "requests")
    values = [value for visit in visits if (value := dig(visit.result, path)) is not None]
    return sum(values) / requests if requests and values else None


def _control_table(visits: Sequence[Visit]) -> Table:
    columns = [Column("worker"), Column("accepted"), Column("requests")]
    rows = [
        [str(index), count(worker.get("accepted")), count(worker.get("requests"))]
        for index, worker in enumerate((visits[0].result or {}).get("per_worker", []))
    ]
    notes = [f"Connections that nobody served: {count(total_of(visits, 'errors.unserved'))}."]
    return Table("The negative control: unlocked-shared", columns, rows, notes)


def _control_finding(visits: Sequence[Visit]) -> str:
    workers = [worker for visit in visits for worker in (visit.result or {}).get("per_worker", [])]
    accepted = sum(int(worker.get("accepted") or 0) for worker in workers)
    unserved = total_of(visits, "errors.unserved") or 0
    if accepted == 0 and unserved > 0:
        return (
            f"Taking the locks out without duplicating the listener does not work: {len(workers)} workers accepted 0 "
            f"connections, all {unserved:,} stayed without service."
        )
    return f"The negative control did not show what it should: workers accepted {accepted:,}, unserved {unserved:,}."


def _findings(comparisons: Sequence[_Comparison]) -> list[str]:
    judged = [c for c in comparisons if c.ratio and c.ratio.verdict != "no interval"]
    if not judged:
        return [f"No mode was visited by {MIN_PROCESSES} processes, so no interval is given and no win is called."]
    said = [_judgement(c) for c in judged if (c.size, c.work, c.lock) == HEADLINE] or [_judgement(judged[0])]
    if len(judged) > len(said):
        better, worse = ([c for c in judged if c.ratio and c.ratio.verdict == v] for v in ("higher", "lower"))
        said.append(
            f"Over all {len(judged)} points: duplicated is faster at {len(better)}, slower at {len(worse)}, and no difference is "
            f"shown at {len(judged) - len(better) - len(worse)}."
        )
    return said


def _shape(comparisons: Sequence[_Comparison], cpus: int) -> list[str]:
    """Set the ratios by number of workers beside the draft's, and say what this machine cannot show."""
    points = [c for c in comparisons if (c.size, c.work, c.lock) == HEADLINE and c.ratio]
    if len(points) < 2:
        return []
    workers = ", ".join(str(c.workers) for c in points)
    here = ", ".join(f"{c.ratio.value:.2f}" for c in points if c.ratio)
    draft = ", ".join(f"{c.draft:.2f}" if c.draft else MISSING for c in points)
    text = f"Shape over {workers} workers at {_size_label(HEADLINE[0])}: {here} here, {draft} in the draft of 2019."
    if cpus < 1 + max(c.workers for c in points):
        text += (
            f" With {cpus} CPUs for the core and all workers, two workers seldom run at the same moment, let alone meet in "
            "a lock: a gain that grows with workers, as in 2019, is not to be expected here."
        )
    return [text]


def _judgement(c: _Comparison) -> str:
    assert c.ratio is not None
    words = {"higher": "serves more than", "lower": "serves less than", "no difference shown": "is not shown to differ from"}
    draft = f"; the draft of 2019 had {c.draft:.2f}" if c.draft else ""
    return (
        f"With {c.label}, duplicated {words[c.ratio.verdict]} shared-rwlock ({c.lock}): {c.ratio.value:.2f} times the requests "
        f"(95 % interval {c.ratio.low:.2f} to {c.ratio.high:.2f}, {c.ratio.processes[0]} processes each; compared within rounds: "
        f"{c.paired}{draft})."
    )


def _charts(comparisons: Sequence[_Comparison]) -> list[Chart]:
    plain = [c for c in comparisons if c.work == 0 and c.lock == "spin-rw" and c.ratio]
    charts = []
    sizes = [size for size in draft2019.SIZES if any(c.size == size for c in plain)]
    workers = sorted({c.workers for c in plain})
    if workers:
        shown = max(sizes, key=lambda size: sum(c.size == size for c in plain))
        charts.append(_rate_chart([c for c in plain if c.size == shown], shown))
        charts.append(_ratio_by_workers([c for c in plain if c.size == shown], shown))
    if len(sizes) > 1:
        charts += [_ratio_by_size([c for c in plain if c.workers == w], w, sizes) for w in workers]
    return charts


def _rate_chart(points: Sequence[_Comparison], size: str) -> Chart:
    series = [
        Series(DUPLICATED, [median_of(c.free, "requests_per_s") for c in points]),
        Series(LOCKED, [median_of(c.locked, "requests_per_s") for c in points]),
    ]
    names = [f"{c.workers}" for c in points]
    return Chart("bars", f"Throughput, {_size_label(size)} replies", "workers", "requests/s", names, series)


def _ratio_by_workers(points: Sequence[_Comparison], size: str) -> Chart:
    names = [str(c.workers) for c in points]
    return _ratio_chart(f"duplicated / shared-rwlock, {_size_label(size)} replies", "workers", names, points)


def _ratio_by_size(points: Sequence[_Comparison], workers: int, sizes: Sequence[str]) -> Chart:
    ordered = sorted(points, key=lambda c: sizes.index(c.size))
    title = f"duplicated / shared-rwlock, {workers} worker{'s' if workers > 1 else ''}"
    return _ratio_chart(title, "reply size", [_size_label(c.size) for c in ordered], ordered)


def _ratio_chart(title: str, x_label: str, x: Sequence[str], points: Sequence[_Comparison]) -> Chart:
    ratios = [c.ratio for c in points]
    here = Series(
        "here",
        [r.value if r else None for r in ratios],
        low=[r.low if r else None for r in ratios],
        high=[r.high if r else None for r in ratios],
    )
    draft = Series("draft of 2019", [c.draft for c in points], reference=True)
    caption = "Upright bars: 95 % interval, where there is one."
    return Chart("lines", title, x_label, "ratio of throughput", x, [here, draft], caption, baseline=1.0)
