"""The report: one HTML page that needs no network, made from a result folder alone.

Every number on it comes from an analysis of `raw/*.jsonl`; the page names the command that made the folder, and the commands
of the visits themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bench.plots import draw
from bench.results import Records, load_folder
from bench.suites import get_suite, suite_names
from bench.tables import Analysis, Chart
from bench.trust import caveats, drift_sentence

MOST_CHARTS = 6


@dataclass(frozen=True)
class _Section:
    records: Records
    analysis: Analysis
    charts: list[tuple[Chart, Markup]]
    commands: list[str]
    problems: list[str]
    drift: str


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html and return its path; raises BenchError when the folder holds no results."""
    path = folder / "report.html"
    path.write_text(render(load_folder(folder)), encoding="utf-8")
    return path


def render(records: dict[str, Records]) -> str:
    """Return the page for the records of one or more suites."""
    sections = [_section(records[name]) for name in suite_names() if name in records and records[name].visits]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    session = _newest_session(records)
    return environment.get_template("report.html.j2").render(
        sections=sections, session=session, machine=session.get("machine", {}), caveats=_all_caveats(records)
    )


def _section(records: Records) -> _Section:
    analysis = get_suite(records.suite).analyse(records)
    return _Section(
        records,
        analysis,
        [(chart, Markup(draw(chart))) for chart in analysis.charts[:MOST_CHARTS]],  # our own drawing, not foreign text
        list(dict.fromkeys(" ".join(visit.command) for visit in records.visits)),
        [f"{visit.cell}, round {visit.round}: {visit.problem}" for visit in records.problems()],
        drift_sentence(records) if records.references else "",
    )


def _newest_session(records: dict[str, Records]) -> dict[str, Any]:
    return max((r.session for r in records.values()), key=lambda session: str(session.get("started", "")))


def _all_caveats(records: dict[str, Records]) -> list[str]:
    """Every suite's sentences, each once, in order."""
    return list(dict.fromkeys(sentence for r in records.values() if r.visits for sentence in caveats(r)))
