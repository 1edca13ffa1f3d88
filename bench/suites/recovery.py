"""D1: what becomes of queued retransmissions whose connection is gone, and what each cure costs.

The workload `transfer` runs in the simulator with the provocations that free connections while they are queued (clients that
leave requests unread, clients that reset midway). Virtual time makes a visit repeatable to the packet, so what is repeated is
the seed: every mode sees the same ones, and ratios are taken seed by seed. `unchecked` is the negative control; an access to a
freed connection, of which a real core dies, is counted there and the run goes on.

What the modes cost per entry is timed apart, by the real clock (`stackcore.tcp.queue_cost`): in a run it drowns.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.interleave import Cell
from bench.results import Measurement, Records, Visit
from bench.stats import Ratio, paired_ratio, ratio_of_medians
from bench.suites.base import Plan, Suite, dig, median_of, run_arguments, total_of
from bench.tables import MISSING, Analysis, Chart, Column, Series, Table, count, number

DEFECT, OUTLINE = "unchecked", "state-aware"
HANDLES = ("generation", "purge", "flag")
"""They look at the handle, or leave nothing behind: no stranger, ever."""
MODES = (DEFECT, OUTLINE, *HANDLES)
Point = tuple[float, int]
FRAME, SCARCE = 256, 1
POINTS = ((0.0, FRAME), (0.001, FRAME), (0.01, FRAME), (0.03, FRAME), (0.03, SCARCE))
"""(loss, budget). The last lets entries pile up behind the budget as they do where a frame is little beside the load."""
SEEDS = {True: 1, False: 6}
CLIENTS = {True: 1200, False: 3600}
SIZE = {True: "64K", False: "256K"}
COST = "cost"
STEPS = {
    "program": "queue it", "look": "look at its entry", "stale": "look at a stale entry", "free": "free it while queued",
}  # fmt: skip


class RecoverySuite(Suite):
    name = "recovery"
    always = False
    question = "D1: do queued retransmissions outlive their connection, what harm do they do, and what does each cure cost?"

    def cells(self, plan: Plan) -> list[Cell]:
        seeds = range(1, 1 + (plan.rounds or SEEDS[plan.quick]))
        cells = [self._cell(plan, point, mode, seed) for seed in seeds for point in POINTS for mode in MODES]
        argv = ("stackcore.tcp.queue_cost", "--seconds", f"{plan.seconds / 3:.3f}", "--json")
        return [*cells, Cell(self.name, COST, "queue", argv, plan.repeat(6, 10))]

    def _cell(self, plan: Plan, point: Point, mode: str, seed: int) -> Cell:
        factors = {"recovery": mode, "loss": point[0], "budget": point[1], "seed": seed}
        factors |= {"clients": CLIENTS[plan.quick], "size": SIZE[plan.quick]}
        argv = run_arguments("transfer", plan, transport="tcp", wire="sim", **factors)
        return Cell(self.name, group_name(point), mode, argv, 1, mode == DEFECT, factors)

    def measure(self, cell: Cell, result: Mapping[str, Any]) -> dict[str, Measurement]:
        """Virtual seconds per transfer; of the queue's own steps, real seconds."""
        if cell.group != COST:
            rate = result.get("requests_per_s") or 0.0
            return {cell.name: Measurement(1.0 / rate, int(result["requests"]))} if rate > 0 else {}
        return {
            f"{self.name} {COST} {mode} {step}": Measurement(max(ns, 1e-3) * 1e-9, one["connections"] * one["rounds"])
            for mode, one in result["modes"].items()
            for step, ns in one["ns"].items()
        }

    def analyse(self, records: Records) -> Analysis:
        points = [(point, mode) for point in POINTS for mode in MODES if _seen(records, point, mode)]
        tables = [_harm_table(records, points), _clients_table(records, points), _cost_table(records)]
        findings = [*_harm_findings(records), *_goodput_findings(records), *_cost_findings(records)]
        findings = findings or ["No visit of this suite ended with a result."]
        return Analysis(self.question, findings, [table for table in tables if table.rows], _charts(records, points))


def group_name(point: Point) -> str:
    """Return the group's name: `0.1 % loss`, or `3 % loss, budget 1`."""
    loss, budget = point
    return f"{100 * loss:g} % loss" + ("" if budget == FRAME else f", budget {budget}")


def _seen(records: Records, point: Point, mode: str) -> list[Visit]:
    """Every visit that printed a result, wrong ones included: harm must never drop out of a sum."""
    return [v for v in records.visits if v.group == group_name(point) and v.mode == mode and v.result is not None]


def _of_mode(records: Records, mode: str) -> list[Visit]:
    return [visit for point in POINTS for visit in _seen(records, point, mode)]


def _by_seed(visits: Sequence[Visit], path: str) -> dict[int, float]:
    found = {int(visit.factors["seed"]): dig(visit.result, path) for visit in visits}
    return {seed: value for seed, value in found.items() if value}


def _scaled(visits: Sequence[Visit], path: str, scale: float) -> str:
    value = median_of(visits, path)
    return number(None if value is None else value / scale)


# ---- tables ----

_POINT = [Column("loss", numeric=False), Column("mode", numeric=False)]


def _harm_table(records: Records, points: Sequence[tuple[Point, str]]) -> Table:
    counts = ("crashes", "strangers", "freed_queued", "dropped", "retransmits")
    columns = [*_POINT, Column("crashes"), Column("strangers"), Column("freed while queued"), Column("dropped")]
    columns += [Column("retransmits"), Column("depth"), Column("in queue p50 ms"), Column("p99 ms")]
    rows = []
    for point, mode in points:
        visits = _seen(records, point, mode)
        sums = [count(total_of(visits, f"recovery.{name}")) for name in counts]
        waits = [_scaled(visits, f"recovery.queue_ns.{q}", 1e6) for q in ("p50", "p99")]
        depth = number(median_of(visits, "recovery.max_depth"))
        rows.append([group_name(point), mode, *sums, depth, *waits])
    seeds = len({visit.factors["seed"] for visit in records.visits if "seed" in visit.factors})
    notes = [
        f"Sums over the seeds ({seeds}), the same for all modes; times are medians over seeds, virtual. Crashes: accesses to a "
        "freed connection, counted in the simulator; a real core dies of the first. Strangers: segments that the pass sent for "
        "an entry whose connection was another one by then. Dropped: entries that the mode found invalid, or of no more use. "
        f"Depth: most entries at once. The budget of a pass is {FRAME} segments unless the row says another."
    ]
    return Table("D1: entries that outlive their connection", columns, rows, notes)


def _clients_table(records: Records, points: Sequence[tuple[Point, str]]) -> Table:
    columns = [*_POINT, Column("goodput MB/s"), Column(f"x {OUTLINE} [95 %]"), Column("slowest client s")]
    columns += [Column("close to free p50 ms"), Column("p99 ms"), Column("completed")]
    rows = []
    for point, mode in points:
        visits = _seen(records, point, mode)
        ratio = _goodput_ratio(records, point, mode)
        rows.append([
            group_name(point), mode, _scaled(visits, "bytes_per_s", 1e6), str(ratio) if ratio else MISSING,
            _scaled(visits, "transfers.slowest_ns", 1e9), _scaled(visits, "recovery.close_to_free_ns.p50", 1e6),
            _scaled(visits, "recovery.close_to_free_ns.p99", 1e6), count(total_of(visits, "transfers.completed")),
        ])  # fmt: skip
    notes = [
        "Virtual time, medians over seeds. Goodput: all bytes over the time that the slowest client took, whom a few timeouts "
        "in a row hold up for seconds. Close to free: from the application's close to the end of the connection."
    ]
    return Table("D1: what the clients see", columns, rows, notes)


def _goodput_ratio(records: Records, point: Point, mode: str) -> Ratio | None:
    if mode == OUTLINE:
        return None
    return paired_ratio(*(_by_seed(_seen(records, point, name), "bytes_per_s") for name in (mode, OUTLINE)))


def _cost_table(records: Records) -> Table:
    columns = [Column("mode", numeric=False), *(Column(title) for title in STEPS.values()), Column(f"look, less {DEFECT}'s")]
    rows = []
    for mode in MODES:
        figures = {step: _cost(records, mode, step) for step in STEPS}
        if figures["look"] is None:
            continue
        base = _cost(records, DEFECT, "look")
        extra = figures["look"] - base if base is not None and mode != DEFECT else None
        freed = figures["free"] if mode == "purge" else 0.0
        rows.append([mode, *(number(figures[s], 2) for s in ("program", "look", "stale")), number(freed, 2), _signed(extra)])
    notes = [
        "ns per connection, medians over processes, 16,384 connections queued in random order. Only purge does anything when a "
        "queued connection is freed, and so finds no stale entry in a run. flag has no queue: its entry is in the output node's."
    ]
    return Table("D1: what a mode costs", columns, rows, notes)


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1f}"


def _cost(records: Records, mode: str, step: str) -> float | None:
    seconds = _cost_seconds(records, mode, step)
    return 1e9 * statistics.median(value for process in seconds for value in process) if seconds else None


def _cost_seconds(records: Records, mode: str, step: str) -> list[list[float]]:
    return records.seconds(f"recovery {COST} {mode} {step}")


# ---- findings ----


def _harm_findings(records: Records) -> list[str]:
    said = []
    for mode in MODES:
        visits = _of_mode(records, mode)
        if not visits:
            continue
        crashes, strangers, freed = (total_of(visits, f"recovery.{n}") or 0 for n in ("crashes", "strangers", "freed_queued"))
        said.append(f"{mode}: {_harm(mode, crashes, strangers)}; {freed:,} connections were freed while they were queued.")
    return said


def _harm(mode: str, crashes: int, strangers: int) -> str:
    found = f"{crashes:,} accesses to a freed connection, {strangers:,} segments for a stranger"
    if mode == DEFECT:
        return found if crashes or strangers else f"{found}: the defect did not show in these runs"
    if mode in HANDLES:
        return f"{found}, as it must be" if not crashes + strangers else f"{found}: WRONG, there must be none"
    if crashes:
        return f"{found}: WRONG, it must never reach a freed connection"
    if strangers:
        return f"{found}: the index had a new owner that was in recovery itself, and would have sent them a little later"
    return f"{found}: no index had a new owner in recovery while its entry was queued"


def _goodput_findings(records: Records) -> list[str]:
    """Name the mode whose goodput differs most from the outline's, where there is an interval."""
    ratios = [(r, point, mode) for point in POINTS for mode in HANDLES if (r := _goodput_ratio(records, point, mode))]
    judged = [item for item in ratios if item[0].low is not None]
    if not judged:
        return []
    differing = [item for item in judged if item[0].verdict != "no difference shown"]
    if not differing:
        return [f"In goodput no mode is shown to differ from {OUTLINE} at any loss ({len(judged)} comparisons)."]
    ratio, point, mode = max(differing, key=lambda item: abs(item[0].value - 1))
    return [f"In goodput {mode} differs most from {OUTLINE}: {ratio} times at {group_name(point)}."]


def _cost_findings(records: Records) -> list[str]:
    said = []
    base = _cost_seconds(records, DEFECT, "look")
    for mode in (OUTLINE, "generation"):
        seconds = _cost_seconds(records, mode, "look")
        if seconds and base:
            ratio = ratio_of_medians(seconds, base)
            extra = 1e9 * (statistics.median(map(statistics.median, seconds)) - statistics.median(map(statistics.median, base)))
            said.append(f"The check of {mode} adds {extra:+.1f} ns to an entry, which takes {ratio} times as long as {DEFECT}'s.")
    purge = _cost(records, "purge", "free")
    if purge is not None:
        said.append(f"purge adds {number(purge, 2)} ns to freeing a connection that is queued.")
    return said


def _harmed(visits: Sequence[Visit]) -> int:
    return sum(total_of(visits, f"recovery.{name}") or 0 for name in ("crashes", "strangers"))


def _charts(records: Records, points: Sequence[tuple[Point, str]]) -> list[Chart]:
    if not points:
        return []
    shown = [point for point in POINTS if any(seen == point for seen, _ in points)]
    x = [group_name(point) for point in shown]

    def over_points(path: str, scale: float) -> list[Series]:
        values = {mode: [median_of(_seen(records, point, mode), path) for point in shown] for mode in MODES}
        return [Series(mode, [None if v is None else v / scale for v in values[mode]]) for mode in MODES]

    harm = [Series(mode, [_harmed(_seen(records, point, mode)) for point in shown]) for mode in MODES]
    return [
        Chart("bars", "Crashes and strangers' segments", "", "count", x, harm, "Sums over all seeds."),
        Chart("bars", "Goodput", "", "MB/s", x, over_points("bytes_per_s", 1e6)),
        Chart("bars", "Slowest client", "", "s", x, over_points("transfers.slowest_ns", 1e9), log=True),
        Chart("bars", "From close to free, 99th percentile", "", "ms", x, over_points("recovery.close_to_free_ns.p99", 1e6)),
    ]
