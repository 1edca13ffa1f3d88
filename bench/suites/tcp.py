"""TCP's own speed: what a segment costs, what the full stack reaches over shared memory, what idle connections cost.

Five questions, each with a figure to reach (`GOALS`). The engine alone (two stacks in one process, `stackcore.tcp.speed`) is
timed per second of CPU time, the runs over `--wire shm` by the clock, as a user would. The null transport of the same machine,
visited in the same rounds, and the native stream stand beside `http`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.interleave import Cell
from bench.results import Measurement, Records
from bench.stats import Ratio, paired_ratio, ratio_of_medians
from bench.suites.base import Plan, Suite, median_of, request_rate, run_arguments
from bench.tables import MISSING, Analysis, Chart, Column, Series, Table, number

FRAMES = (1, 4, 16, 64, 256)
ACTIVE = 100
CONNECTIONS = (100, 1_000, 10_000, 100_000)
MANY = CONNECTIONS[-1]
ENGINE, IDLE, HTTP, BULK, LOSS = (
    "engine, 1460-byte segments",
    "idle connections",
    "http 0K",
    "bulk, wire shm",
    "1 % loss, wire sim",
)
TCP, NULL = "tcp over shm", "null transport"
TRANSFER = "transfer"
CLIENTS = 3600
"""Of the transfer at 1 % loss."""
PEER = "pytcp"


class TcpSuite(Suite):
    name = "tcp"
    always = False
    question = "What does a segment cost, and what do full runs over TCP reach beside the null transport and plain C?"

    def cells(self, plan: Plan) -> list[Cell]:
        return [*self._engine(plan), *self._idle(plan), *self._http(plan), *self._transfers(plan)]

    def _speed(self, plan: Plan, group: str, mode: str, times: int, kind: str, **factors: Any) -> Cell:
        words = [part for name, value in factors.items() for part in (f"--{name}", str(value)) if part != "True"]
        argv = ("stackcore.tcp.speed", kind, *words, "--seconds", f"{plan.seconds:.3f}", "--json")
        return Cell(self.name, group, mode, argv, times, factors=factors)

    def _engine(self, plan: Plan) -> list[Cell]:
        ends = (FRAMES[0], FRAMES[-1])
        return [self._speed(plan, ENGINE, f"frame {n}", _times_of(plan, n in ends), "bulk", frame=n) for n in FRAMES]

    def _idle(self, plan: Plan) -> list[Cell]:
        cells = []
        for n in CONNECTIONS:
            times = _times_of(plan, n in (ACTIVE, MANY))
            cells.append(self._speed(plan, IDLE, idle_mode(n, False), times, "echo", connections=n, active=ACTIVE))
            if n > ACTIVE:
                cells.append(
                    self._speed(plan, IDLE, idle_mode(n, True), times, "echo", connections=n, active=ACTIVE, anywhere=True)
                )
        return cells

    def _http(self, plan: Plan) -> list[Cell]:
        common = {"workers": 1, "clients": 64, "size": "0"}
        return [
            Cell(self.name, HTTP, mode, run_arguments("http", plan, **flags, **common), plan.repeat(6, 10), factors=common)
            for mode, flags in ((TCP, {"transport": "tcp", "wire": "shm"}), (NULL, {"transport": "null"}))
        ]

    def _transfers(self, plan: Plan) -> list[Cell]:
        plain = {"transport": "tcp", "unread": 0, "abort": 0}
        bulk = {**plain, "wire": "shm", "clients": 16, "size": "16M", "fifo": "256K"}
        loss = {**plain, "wire": "sim", "clients": CLIENTS, "size": "1M", "loss": 0.01, "seed": 1}
        return [
            Cell(self.name, BULK, TRANSFER, run_arguments("transfer", plan, **bulk), plan.repeat(6, 10), factors=bulk),
            Cell(self.name, LOSS, TRANSFER, run_arguments("transfer", plan, **loss), plan.repeat(1, 3), factors=loss),
        ]

    def measure(self, cell: Cell, result: Mapping[str, Any]) -> dict[str, Measurement]:
        """Seconds per segment, per request, per megabyte; of the transfer at 1 % loss, seconds of wall time."""
        if cell.group == ENGINE:
            return {cell.name: Measurement(result["ns_per_segment"] * 1e-9, int(result["segments"]))}
        if cell.group == IDLE:
            return {cell.name: Measurement(result["ns_per_request"] * 1e-9, int(result["requests"]))}
        if cell.group == BULK:
            rate = result.get("bytes_per_s") or 0.0
            return {cell.name: Measurement(1e6 / rate, int(result["requests"]))} if rate else {}
        if cell.group == LOSS:
            return {cell.name: Measurement(result["wall_s"], 1)}
        return request_rate(cell.name, result)

    def analyse(self, records: Records) -> Analysis:
        findings = [said for goal in GOALS if (said := goal.verdict(records))]
        tables = [_engine_table(records), _idle_table(records), _run_table(records)]
        shown = [table for table in tables if table.rows]
        return Analysis(self.question, [*findings, _peer_word()], shown, [*_engine_charts(records), *_idle_charts(records)])


def _times_of(plan: Plan, end: bool) -> int:
    """The ends of a curve are what goals are about; of what lies between a quick plan takes one look."""
    return plan.repeat(6 if end else 1, 10)


def idle_mode(connections: int, anywhere: bool) -> str:
    """Return the mode's name: `100 of 1,000`, or `anywhere in 1,000`."""
    return f"{'anywhere in' if anywhere else f'{ACTIVE} of'} {connections:,}"


def _cell(group: str, mode: str) -> str:
    return f"tcp {group} {mode}"


def _seconds(records: Records, group: str, mode: str) -> list[list[float]]:
    return records.seconds(_cell(group, mode))


def _rate(records: Records, group: str, mode: str) -> Ratio | None:
    """Operations per second, as a ratio to 1, for its interval."""
    seconds = _seconds(records, group, mode)
    return ratio_of_medians([[1.0]] * len(seconds), seconds) if seconds else None


def _longer(records: Records, mode: str, other: str) -> Ratio | None:
    """How many times as long a request takes among idle connections, round by round."""
    return paired_ratio(*(records.seconds_by_round(_cell(IDLE, name)) for name in (mode, other)))


# ---- what is to be reached ----


def _engine_figure(records: Records) -> Ratio | None:
    return _rate(records, ENGINE, f"frame {FRAMES[-1]}")


def _http_figure(records: Records) -> Ratio | None:
    return paired_ratio(*(records.seconds_by_round(_cell(HTTP, mode)) for mode in (NULL, TCP)))


def _idle_figure(records: Records) -> Ratio | None:
    return _longer(records, idle_mode(MANY, False), idle_mode(ACTIVE, False))


def _anywhere_figure(records: Records) -> Ratio | None:
    return _longer(records, idle_mode(MANY, True), idle_mode(ACTIVE, False))


def _bulk_figure(records: Records) -> Ratio | None:
    return _rate(records, BULK, TRANSFER)


def _loss_figure(records: Records) -> Ratio | None:
    """Wall seconds, as a ratio to 1."""
    seconds = _seconds(records, LOSS, TRANSFER)
    return ratio_of_medians(seconds, [[1.0]] * len(seconds)) if seconds else None


def _memory_figure(records: Records) -> Ratio | None:
    size = median_of(records.of(IDLE, idle_mode(MANY, False)), "record_bytes_per_connection")
    return Ratio(size, None, None, (1, 1)) if size else None


@dataclass(frozen=True)
class Goal:
    """`figure` is to be at least (or, with `most`, at most) `goal`, in `unit`; figures are divided by `scale` for the reader."""

    what: str
    figure: Any
    goal: float
    unit: str
    scale: float = 1.0
    most: bool = False

    def verdict(self, records: Records) -> str | None:
        """Say whether it was reached; None without figures."""
        found: Ratio | None = self.figure(records)
        if found is None:
            return None
        interval = ""
        if found.low is not None and found.high is not None:
            interval = f" (95 % interval {self._shown(found.low)} to {self._shown(found.high)})"
        judged = "reached" if (found.value <= self._limit if self.most else found.value >= self._limit) else "missed"
        if found.low is not None and found.high is not None and found.low < self._limit < found.high:
            judged += ", but the interval includes the goal"
        word = "at most" if self.most else "at least"
        return f"{self.what}: {self._shown(found.value)} {self.unit}{interval}; goal {word} {self.goal:g}, {judged}."

    @property
    def _limit(self) -> float:
        return self.goal * self.scale

    def _shown(self, value: float) -> str:
        return number(value / self.scale)


GOALS = (
    Goal("Segments per second of one core, received and sent, frame 256", _engine_figure, 1.0, "million", 1e6),
    Goal("http 0 KB over TCP and shared memory, as a share of the null transport's rate", _http_figure, 0.25, "times"),
    Goal("Bulk transfer without loss, a core per host where there are enough", _bulk_figure, 1.0, "GB/s", 1e3),
    Goal(f"A request among {MANY:,} connections, the same {ACTIVE} active, takes", _idle_figure, 1.2, "times as long", most=True),
    Goal(f"A request that goes anywhere in {MANY:,} connections takes", _anywhere_figure, 3.0, "times as long", most=True),
    Goal("An idle connection's memory beside its fifos", _memory_figure, 1024, "bytes", most=True),
    Goal(f"{CLIENTS} x 1 MB at 1 % loss in the simulator", _loss_figure, 60.0, "s of wall time", most=True),
)


def _peer_word() -> str:
    try:
        version = importlib.metadata.version(PEER)
    except importlib.metadata.PackageNotFoundError:
        return f"Left out: PyTCP ({PEER} is not installed)."
    return f"Left out: PyTCP ({PEER} {version} is installed, but works on a TAP device only, which no wire here is)."


# ---- tables and charts ----


def _engine_table(records: Records) -> Table:
    columns = [Column("frame"), Column("ns/segment"), Column("[95 %]"), Column("segments/s"), Column("GB/s")]
    columns += [Column(f"p{q}") for q in (10, 50, 90, 99)]
    rows = []
    for n in FRAMES:
        mode = f"frame {n}"
        seconds, visits = _seconds(records, ENGINE, mode), records.of(ENGINE, mode)
        if not seconds:
            continue
        each = ratio_of_medians(seconds, [[1e-9]] * len(seconds))
        interval = MISSING if each.low is None or each.high is None else f"{number(each.low)}, {number(each.high)}"
        rate = median_of(visits, "bytes_per_s")
        spread = [number(median_of(visits, f"step_ns_per_segment.p{q}")) for q in (10, 50, 90, 99)]
        rows.append([str(n), number(each.value), interval, number(1e9 / each.value), number(rate and rate / 1e9), *spread])
    notes = [
        "Two stacks in one process on one CPU, virtual clock, no link. A segment counts once, at reception; it was also made "
        "and sent there. ns of CPU time, medians over processes; p10 to p99: ns per segment over a process's steps, by the clock."
    ]
    return Table("A segment's cost and the vector's size", columns, rows, notes)


def _idle_table(records: Records) -> Table:
    columns = [Column("connections"), Column(f"the same {ACTIVE}, ns"), Column("x alone [95 %]")]
    columns += [Column("anywhere, ns"), Column("x alone [95 %]"), Column("bytes/connection"), Column("resident")]
    alone = idle_mode(ACTIVE, False)
    rows = []
    for n in CONNECTIONS:
        same, anywhere = idle_mode(n, False), idle_mode(n, True)
        visits = records.of(IDLE, same)
        if not visits:
            continue
        figures = [_ns(records, same), _against(records, same, alone), _ns(records, anywhere), _against(records, anywhere, alone)]
        memory = [number(median_of(visits, f"{kind}_bytes_per_connection")) for kind in ("record", "resident")]
        rows.append([f"{n:,}", *figures, memory[0], memory[1] if n == MANY else MISSING])
    notes = [
        f"{ACTIVE} requests of 64 bytes under way, answered by 64 bytes; ns of CPU time per request and answer, both hosts "
        "together. Anywhere: each next request goes out on a connection picked at random. bytes/connection: records beside the "
        "fifos, per host; resident: what the process grew by, fifos of 256 bytes and their headers included, per host."
    ]
    return Table("What idle connections cost", columns, rows, notes)


def _ns(records: Records, mode: str) -> str:
    seconds = _seconds(records, IDLE, mode)
    return number(ratio_of_medians(seconds, [[1e-9]] * len(seconds)).value) if seconds else MISSING


def _against(records: Records, mode: str, alone: str) -> str:
    ratio = _longer(records, mode, alone)
    return str(ratio) if ratio else MISSING


def _run_table(records: Records) -> Table:
    columns = [
        Column("run", numeric=False),
        Column("figure"),
        Column("[95 %]"),
        Column("unit", numeric=False),
        Column("processes"),
    ]
    rows = [
        _run_row(records, f"{HTTP}, {TCP}", HTTP, TCP, 1.0, "requests/s"),
        _run_row(records, f"{HTTP}, {NULL}", HTTP, NULL, 1.0, "requests/s"),
        _native_row(records),
        _run_row(records, "16 transfers of 16 MB, wire shm", BULK, TRANSFER, 1e3, "GB/s"),
        _loss_row(records),
    ]
    notes = ["Runs of all processes, by the clock. The simulator's is seconds of real time for one whole run."]
    return Table("Whole runs over TCP", columns, [row for row in rows if row], notes)


def _run_row(records: Records, title: str, group: str, mode: str, scale: float, unit: str) -> list[str]:
    rate = _rate(records, group, mode)
    return _figure_row(title, rate, scale, unit) if rate else []


def _figure_row(title: str, found: Ratio, scale: float, unit: str) -> list[str]:
    interval = MISSING
    if found.low is not None and found.high is not None:
        interval = f"{number(found.low / scale)}, {number(found.high / scale)}"
    return [title, number(found.value / scale), interval, unit, str(found.processes[1])]


def _native_row(records: Records) -> list[str]:
    rates = [[reference.figures["stream"]["per_second"]] for reference in records.references]
    found = ratio_of_medians(rates, [[1.0]] * len(rates)) if rates else None
    return _figure_row("native stream, 32-byte messages", found, 1.0, "messages/s") if found else []


def _loss_row(records: Records) -> list[str]:
    found = _loss_figure(records)
    return _figure_row(f"{CLIENTS} transfers of 1 MB at 1 % loss, wire sim", found, 1.0, "s") if found else []


def _engine_charts(records: Records) -> list[Chart]:
    visits = [records.of(ENGINE, f"frame {n}") for n in FRAMES]
    if not any(visits):
        return []

    def over_frames(path: str) -> Sequence[float | None]:
        return [median_of(found, path) for found in visits]

    middle = Series("median step", over_frames("step_ns_per_segment.p50"), over_frames("step_ns_per_segment.p10"),
                    over_frames("step_ns_per_segment.p90"))  # fmt: skip
    whole = Series("CPU time over all", over_frames("ns_per_segment"))
    caption = "Bars: 10th to 90th percentile of the steps."
    return [Chart("lines", "ns per segment", "frame", "ns", [str(n) for n in FRAMES], [whole, middle], caption)]


def _idle_charts(records: Records) -> list[Chart]:
    def over_connections(anywhere: bool) -> Sequence[float | None]:
        modes = [idle_mode(n, anywhere and n > ACTIVE) for n in CONNECTIONS]
        return [median_of(records.of(IDLE, mode), "ns_per_request") for mode in modes]

    series = [Series(f"the same {ACTIVE}", over_connections(False)), Series("anywhere", over_connections(True))]
    if not any(value for one in series for value in one.y):
        return []
    return [Chart("lines", "ns per request and answer", "connections", "ns", [f"{n:,}" for n in CONNECTIONS], series)]
