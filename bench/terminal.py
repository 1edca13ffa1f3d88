"""The terminal's side: tables by rich, a progress bar with the time left, plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from bench.campaign import Step
from bench.tables import Analysis, Table

PLAIN_INTERVAL_SECONDS = 15.0


def print_analysis(console: Console, title: str, analysis: Analysis) -> None:
    """Print what a suite found: its question, its sentences, its tables."""
    console.print()
    console.rule(Text(title, style="bold"))
    console.print(Text(analysis.question, style="italic"))
    for finding in analysis.findings:
        console.print(Text(f"  • {finding}"))
    for table in analysis.tables:
        print_table(console, table)


def print_table(console: Console, table: Table) -> None:
    """Print one table with its notes below."""
    drawn = RichTable(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in table.columns:
        drawn.add_column(column.title, justify="right" if column.numeric else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(Text(table.title, style="bold"))
    console.print(drawn)
    for note in table.notes:
        console.print(Text(note, style="dim"))


@contextlib.contextmanager
def progress(console: Console, visits: int) -> Iterator[Callable[[Step], None]]:
    """Show progress over all suites together; yields what is to be called in front of each visit.

    On a terminal this is a bar with elapsed and remaining time. Elsewhere (a log) it is one line now and then.
    """
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task("starting", total=visits)
            yield _Counter(visits, lambda step, done, total: bar.update(
                task, completed=done, total=total, description=f"{step.suite}: {step.what}"))  # fmt: skip
    else:
        yield _Counter(visits, _Lines(console))


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", style="dim"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=120.0,
    )


class _Counter:
    """Adds up the visits of suites that each count their own, and passes the sum on."""

    def __init__(self, planned: int, show: Callable[[Step, int, int], None]) -> None:
        self._planned, self._show = planned, show
        self._totals: dict[str, tuple[int, int]] = {}  # suite -> its number of visits as first and as last known

    def __call__(self, step: Step) -> None:
        first, _ = self._totals.get(step.suite, (step.total, 0))
        earlier = sum(last for suite, (_, last) in self._totals.items() if suite != step.suite)
        self._totals[step.suite] = (first, step.total)
        added = sum(last - first for first, last in self._totals.values())
        self._show(step, earlier + step.done, self._planned + added)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console, self._started, self._said = console, time.monotonic(), float("-inf")

    def __call__(self, step: Step, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said < PLAIN_INTERVAL_SECONDS:
            return
        self._said = now
        left = f", about {(now - self._started) / done * (total - done):.0f} s left" if done else ""
        self._console.print(f"visit {done + 1} of {total}: {step.suite} {step.what}{left}", highlight=False, soft_wrap=True)
