"""Result files: pyperf JSON on top, the complete run objects below it in `raw/`.

A result folder holds

* `SUITE.json`, a pyperf file: one benchmark per cell (or per call in `calls`), value = seconds per operation, one
  `pyperf.Run` per process with that visit's modes as metadata. `python -m pyperf show|hist|stats|compare_to` open it.
* `raw/SUITE.jsonl`, one JSON object a line, appended as things happen, so that an interrupted run keeps what it has: first
  the session (command, machine, plan), then the visits and native references in the order in which they ran.
* `report.html`, made from these files alone by `stackcore report`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyperf

from bench.runner import BenchError


@dataclass(frozen=True)
class Measurement:
    """One process's figure: `seconds` per operation, over `operations` of them."""

    seconds: float
    operations: int


@dataclass(frozen=True)
class Visit:
    """One process: what was started, how it ended, what it printed.

    `result` is the object the process printed, or None; `problem` says in a sentence why the visit does not count, or is
    None. `measurements` maps names of benchmarks to figures; it is empty for a visit without a usable figure.
    """

    suite: str
    group: str
    mode: str
    cell: str
    factors: Mapping[str, Any]
    control: bool
    round: int
    command: list[str]
    started: str
    wall_seconds: float
    exit_status: int | None
    problem: str | None
    result: dict[str, Any] | None
    measurements: dict[str, Measurement] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """The native reference as timed in front of one round of one group."""

    suite: str
    group: str
    round: int
    figures: dict[str, Any]


@dataclass
class Records:
    """All that is known of one suite: the session's description, its visits and its references, in order."""

    suite: str
    session: dict[str, Any] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)

    def of(self, group: str, mode: str) -> list[Visit]:
        """Return the visits of one cell that count."""
        return [v for v in self.visits if v.group == group and v.mode == mode and v.problem is None]

    def seconds(self, benchmark: str) -> list[list[float]]:
        """Return one list of values (seconds per operation) per process that measured `benchmark`."""
        return [[v.measurements[benchmark].seconds] for v in self.visits if benchmark in v.measurements]

    def seconds_by_round(self, benchmark: str) -> dict[int, float]:
        """Return the value (seconds per operation) of each round's process that measured `benchmark`."""
        return {v.round: v.measurements[benchmark].seconds for v in self.visits if benchmark in v.measurements}

    def problems(self) -> list[Visit]:
        """Return the visits that went wrong."""
        return [v for v in self.visits if v.problem is not None]


class RawLog:
    """Appends records to `raw/SUITE.jsonl`; each line is on disk before the next visit starts."""

    def __init__(self, folder: Path, suite: str, session: Mapping[str, Any]) -> None:
        raw = folder / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        self._file = (raw / f"{suite}.jsonl").open("w", encoding="utf-8")
        self._write("session", {"suite": suite, **session})

    def visit(self, visit: Visit) -> None:
        self._write("visit", asdict(visit))

    def reference(self, reference: Reference) -> None:
        self._write("native", asdict(reference))

    def close(self) -> None:
        self._file.close()

    def _write(self, kind: str, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"kind": kind, **record}) + "\n")
        self._file.flush()


def load_records(path: Path) -> Records:
    """Read one `raw/SUITE.jsonl`; raises BenchError naming the file and line when it is not one."""
    records = Records(suite=path.stem)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            _add_line(records, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"{path}, line {number}, is not a record of this version of bench ({error})") from error
    return records


def _add_line(records: Records, line: dict[str, Any]) -> None:
    kind = line.pop("kind")
    if kind == "session":
        records.session = line
    elif kind == "visit":
        measurements = {name: Measurement(**m) for name, m in line.pop("measurements").items()}
        records.visits.append(Visit(**line, measurements=measurements))
    elif kind == "native":
        records.references.append(Reference(**line))
    else:
        raise ValueError(f"unknown kind of record {kind!r}")


def load_folder(folder: Path) -> dict[str, Records]:
    """Read every suite of a result folder, by name; raises BenchError when there is none."""
    paths = sorted((folder / "raw").glob("*.jsonl"))
    if not paths:
        raise BenchError(f"{folder} holds no benchmark results (no raw/*.jsonl); make some with 'stackcore bench -o {folder}'")
    return {path.stem: load_records(path) for path in paths}


def machine_metadata() -> dict[str, Any]:
    """Return what pyperf knows about this machine and interpreter; the same for each run of a session."""
    probe = pyperf.Run([1.0], metadata={"name": "probe"}, collect_metadata=True).get_metadata()
    changing = {"name", "date", "load_avg_1min", "runnable_threads", "uptime", "mem_max_rss", "unit"}
    return {key: value for key, value in probe.items() if key not in changing}


def write_pyperf(folder: Path, records: Records) -> Path | None:
    """Write `SUITE.json`; returns its path, or None when no process measured anything (pyperf knows no empty file).

    A name that no longer has a figure disappears with the old file.
    """
    path = folder / f"{records.suite}.json"
    benchmarks: dict[str, pyperf.Benchmark] = {}
    machine = records.session.get("machine", {})
    for visit in records.visits:
        for name, measurement in visit.measurements.items():
            _add_run(benchmarks, _pyperf_run(name, measurement, visit, machine))
    for reference in records.references:
        for mode, figure in reference.figures.items():
            _add_run(benchmarks, _native_run(mode, figure, machine))
    if not benchmarks:
        path.unlink(missing_ok=True)
        return None
    pyperf.BenchmarkSuite(list(benchmarks.values())).dump(str(path), replace=True)
    return path


def _add_run(benchmarks: dict[str, pyperf.Benchmark], run: pyperf.Run) -> None:
    name = run.get_metadata()["name"]
    if name in benchmarks:
        benchmarks[name].add_run(run)
    else:
        benchmarks[name] = pyperf.Benchmark([run])


def _pyperf_run(name: str, measurement: Measurement, visit: Visit, machine: Mapping[str, Any]) -> pyperf.Run:
    metadata = {
        **machine,
        "name": name,
        "unit": "second",
        "loops": max(1, measurement.operations),
        "date": _pyperf_date(visit.started),
        "duration": visit.wall_seconds,
        "bench_suite": visit.suite,
        "bench_mode": visit.mode,
        "bench_round": visit.round,
        "bench_command": " ".join(visit.command),
        **{f"bench_{key}": value for key, value in visit.factors.items() if value != ""},
    }
    return pyperf.Run([measurement.seconds], metadata=metadata, collect_metadata=False)


def _native_run(mode: str, figure: Mapping[str, Any], machine: Mapping[str, Any]) -> pyperf.Run:
    metadata = {
        **machine,
        "name": f"native {mode}",
        "unit": "second",
        "loops": max(1, int(figure["operations"])),
    }
    return pyperf.Run([1.0 / figure["per_second"]], metadata=metadata, collect_metadata=False)


def _pyperf_date(started: str) -> str:
    """pyperf wants local time without a zone."""
    return datetime.fromisoformat(started).astimezone().replace(tzinfo=None).isoformat(sep=" ")
