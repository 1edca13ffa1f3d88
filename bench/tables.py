"""What an analysis consists of: sentences, tables and charts, before anybody decides how they look.

The terminal (`bench.terminal`), the HTML page (`bench.report`) and later forms all draw the same objects, so they
cannot say different things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column's head. `numeric` columns are set flush right."""

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of ready-made strings; `notes` stand below and explain marks and abbreviations."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} cells under {len(self.columns)} columns")


@dataclass(frozen=True)
class Series:
    """One line or one group of bars; `low` and `high` bound intervals where there are any (None where not)."""

    name: str
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    reference: bool = False
    """Drawn dashed and pale: an older or foreign result to compare with."""


@dataclass(frozen=True)
class Chart:
    """A chart over named positions `x`, shared by its series."""

    kind: str
    """`"lines"` or `"bars"`."""
    title: str
    x_label: str
    y_label: str
    x: Sequence[str]
    series: Sequence[Series]
    caption: str = ""
    baseline: float | None = None
    """A level to mark with a thin line, for example 1 for ratios."""
    log: bool = False


@dataclass(frozen=True)
class Analysis:
    """What one suite has to say. `verdict` answers its question in a sentence or two."""

    question: str
    findings: Sequence[str]
    tables: Sequence[Table]
    charts: Sequence[Chart] = field(default_factory=tuple)


def number(value: float | None, digits: int = 3) -> str:
    """Format a figure with `digits` significant ones and thin thousands: 1234567 -> '1,230,000', 0.01234 -> '0.0123'."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    return f"{value:.{digits}g}"


def count(value: int | None) -> str:
    """Format a count exactly, with thousands separators."""
    return MISSING if value is None else f"{value:,}"
