"""Charts as SVG text that takes its colours from the page around it, so one drawing serves light and dark.

matplotlib writes fixed colours. The drawing is made in stand-in colours that occur nowhere else, and these are replaced by
CSS variables (`--chart-1` ...) and `currentColor` afterwards. Nothing is fetched: text stays text, in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, cast

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from bench.tables import Chart, Series, number

_TEXT, _GRID, _PALE = "#010203", "#010204", "#010205"
_COLOURS = ("#010206", "#010207", "#010208", "#010209")
_REPLACEMENTS = {
    _TEXT: "currentColor",
    _GRID: "var(--grid)",
    _PALE: "var(--pale)",
    **{stand_in: f"var(--chart-{index})" for index, stand_in in enumerate(_COLOURS, start=1)},
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": _TEXT,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


def draw(chart: Chart) -> str:
    """Return the chart as an `<svg>` element for use inside a page; deterministic for equal charts."""
    with plt.rc_context(cast(Any, {**_STYLE, "svg.hashsalt": chart.title})):
        figure, axes = plt.subplots(figsize=(5.2, 3.1), layout="constrained")
        try:
            (_bars if chart.kind == "bars" else _lines)(axes, chart)
            _decorate(axes, chart)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        finally:
            plt.close(figure)
    return _for_page(text.getvalue(), chart)


def _bars(axes: Axes, chart: Chart) -> None:
    width = 0.8 / max(1, len(chart.series))
    for index, series in enumerate(chart.series):
        offset = (index - (len(chart.series) - 1) / 2) * width
        at = [position + offset for position in range(len(chart.x))]
        heights = [value or 0.0 for value in series.y]
        bars = axes.bar(at, heights, width * 0.92, color=_COLOURS[index % len(_COLOURS)], label=series.name)
        if len(chart.x) * len(chart.series) <= 16:
            labels = ["" if value is None else number(value) for value in series.y]
            axes.bar_label(bars, labels, fontsize=8, padding=2, color=_TEXT)
    top = max((value for series in chart.series for value in series.y if value), default=1.0)
    axes.set_ylim(0, 1.12 * top)


def _lines(axes: Axes, chart: Chart) -> None:
    coloured = 0
    for series in chart.series:
        points = [(x, y) for x, y in enumerate(series.y) if y is not None]
        if not points:
            continue
        colour = _PALE if series.reference else _COLOURS[coloured % len(_COLOURS)]
        coloured += not series.reference
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, "--" if series.reference else "-", marker="o", markersize=5, color=colour, label=series.name)
        _intervals(axes, series, colour)
    if chart.baseline is not None:
        axes.axhline(chart.baseline, color=_TEXT, linewidth=0.8)


def _intervals(axes: Axes, series: Series, colour: str) -> None:
    for x, (y, low, high) in enumerate(zip(series.y, series.low, series.high, strict=False)):
        if y is not None and low is not None and high is not None:
            axes.errorbar([x], [y], yerr=[[max(0.0, y - low)], [max(0.0, high - y)]], color=colour, capsize=4)


def _decorate(axes: Axes, chart: Chart) -> None:
    crowded = len(chart.x) > 6 or max((len(name) for name in chart.x), default=0) > 10
    axes.set_xticks(range(len(chart.x)), list(chart.x), rotation=30 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xlim(-0.6, len(chart.x) - 0.4)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.tick_params(length=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    if len(chart.series) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(chart.series), fontsize=9, borderaxespad=0.2)


def _short(value: float) -> str:
    for limit, suffix in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"


def _for_page(svg: str, chart: Chart) -> str:
    svg = svg[svg.index("<svg") :]
    for stand_in, replacement in _REPLACEMENTS.items():
        svg = svg.replace(stand_in, replacement)
    svg = re.sub(r' id="[a-z.]+_\d+"', "", svg)  # generic ids would repeat from chart to chart
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns:?\w*="[^"]*"', "", svg).replace("xlink:href", "href")
    return svg.replace("<svg", f'<svg role="img" aria-label="{_attribute(_description(chart))}"', 1).strip()


def _description(chart: Chart) -> str:
    """Return the chart's figures in words, for readers who cannot see it."""
    return f"{chart.title}, {chart.y_label} by {chart.x_label}. " + ". ".join(
        f"{series.name}: " + ", ".join(_spoken(chart.x, series.y)) for series in chart.series
    )


def _spoken(names: Sequence[str], values: Sequence[float | None]) -> list[str]:
    return [f"{name} {number(value)}" for name, value in zip(names, values, strict=True)]


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
