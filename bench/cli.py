"""The commands `stackcore bench`, `report` and `compare`, as click commands for stackcore's group.

Exit status of `bench`: 0 when every visit counted and no correct mode showed an error, 1 when some did not, 130 after
Ctrl-C (what was measured is written), 143 after SIGTERM, 2 for a wrong command line.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console

from bench.campaign import Campaign
from bench.compare import compare_files
from bench.lockfile import Busy, machine_lock
from bench.results import Records, load_folder, machine_metadata, write_pyperf
from bench.runner import BenchError, Runner, run_process
from bench.suites import Plan, default_suites, get_suite, suite_names
from bench.terminal import print_analysis, print_table, progress
from bench.trust import drift_sentence

INTERRUPTED = 130
WARM_UP_TIMEOUT = 900.0


@click.command("bench")
@click.argument("suites", nargs=-1, metavar="[SUITE]...")
@click.option("--suite", "more", multiple=True, metavar="SUITE", help="The same as naming the suite as an argument.")
@click.option("--quick", is_flag=True, help="One cell per question: about three minutes, peers four, tcp and recovery two.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("reports/latest"),
              show_default=True, help="Folder for JSON files and the report.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), help="Processes per cell, instead of the plan's own numbers.")
@click.option("--seconds", type=click.FloatRange(min=0.05, max=3600),
              help="Measured seconds per process, 0.5 unless given, 0.3 with --quick; a third of it in peers.")  # fmt: skip
@click.option("--no-report", is_flag=True, help="Write no HTML page.")
def bench_command(
    suites: tuple[str, ...],
    more: tuple[str, ...],
    quick: bool,
    output: Path,
    rounds: int | None,
    seconds: float | None,
    no_report: bool,
) -> None:
    """Run the benchmark suites, those about the stack unless named.

    Modes are visited in turns, one process per visit; JSON files and a report are written.
    Suites: floor (distance to plain C, A/A), listener (D3), events (D2), calls (lock cost per socket call); and, only when
    they are named, peers (shmq beside other IPC packages), tcp (what TCP costs and reaches) and recovery (D1).
    """
    chosen = _chosen([*suites, *more])
    plan = Plan.make(quick=quick, seconds=seconds, rounds=rounds)
    console = Console()
    try:
        with machine_lock(), _ended_by_sigterm():
            status = run_suites(chosen, plan, output, console, report=not no_report)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (Busy, BenchError, OSError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(status)


@click.command("report")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report_command(folder: Path) -> None:
    """Print a result folder and write its page anew."""
    try:
        records = load_folder(folder)
    except (BenchError, OSError) as error:
        raise click.ClickException(str(error)) from error
    console = Console()
    show(console, [records[name] for name in suite_names() if name in records])
    _write_page(console, folder)


@click.command("compare")
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def compare_command(a: Path, b: Path) -> None:
    """Compare two result files.

    Both are pyperf files written by `stackcore bench`. Prints the speed of B relative to A with intervals.
    """
    try:
        table = compare_files(a, b)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    print_table(Console(), table)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that the visit under way is ended, too."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _chosen(names: list[str]) -> list[str]:
    for name in names:
        try:
            get_suite(name)
        except KeyError as error:
            raise click.UsageError(str(error.args[0])) from None
    return list(dict.fromkeys(names)) or default_suites()


def run_suites(
    names: list[str], plan: Plan, folder: Path, console: Console, *, report: bool = True, runner: Runner = run_process
) -> int:
    """Run suites one after the other, print and write what they found; returns the exit status.

    A BenchError that ends a suite is raised after what was measured until then has been printed and written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    session = _session(plan)
    started = time.monotonic()
    finished: list[Records] = []
    visits = {name: sum(cell.rounds for cell in get_suite(name).cells(plan)) for name in names}
    planned = sum(visits.values())
    measured = sum(visits[name] * get_suite(name).share * plan.seconds for name in names)
    console.print(f"{planned} visits, {measured:.0f} s measured in all, into {folder}", highlight=False, soft_wrap=True)
    _warm_up(runner, console)
    interrupted, failure = False, None
    with progress(console, planned) as on_step:
        for name in names:
            campaign = Campaign(get_suite(name), plan, folder, session, runner=runner, on_step=on_step)
            finished.append(campaign.records)
            try:
                campaign.run()
            except KeyboardInterrupt:
                interrupted = True
                break
            except BenchError as error:
                failure = error
                break
            finally:
                write_pyperf(folder, campaign.records)
    show(console, finished)
    if report:
        _write_page(console, folder)
    console.print(f"took {time.monotonic() - started:.0f} s", highlight=False)
    if failure:
        raise failure
    if interrupted:
        console.print("interrupted: what was measured so far is written", highlight=False)
        return INTERRUPTED
    return 1 if any(records.problems() for records in finished) else 0


def _warm_up(runner: Runner, console: Console) -> None:
    """Compile the kernels before anything is timed; a first time takes minutes, later ones a second or two."""
    console.print("looking for compiled kernels (they are compiled on the first run only)", highlight=False)
    outcome = runner([sys.executable, "-m", "stackcore", "warmup"], WARM_UP_TIMEOUT)
    if outcome.status != 0:
        raise BenchError(f"'stackcore warmup' failed: {outcome.complaint()}")


def _session(plan: Plan) -> dict[str, Any]:
    return {
        "command": shlex.join(["stackcore", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": plan.quick,
        "seconds": plan.seconds,
        "cpus": plan.cpus,
        "machine": machine_metadata(),
    }


def show(console: Console, records: list[Records]) -> None:
    """Print every suite's analysis, then what did not count and how steady the machine was."""
    for suite_records in records:
        if suite_records.visits:
            print_analysis(console, suite_records.suite, get_suite(suite_records.suite).analyse(suite_records))
    problems = [visit for suite_records in records for visit in suite_records.problems()]
    console.print()
    for visit in problems:
        console.print(
            f"does not count: {visit.cell}, round {visit.round}: {visit.problem}", style="red", highlight=False, soft_wrap=True
        )
    for suite_records in records:
        if suite_records.references:
            console.print(drift_sentence(suite_records), highlight=False, soft_wrap=True)


def _write_page(console: Console, folder: Path) -> None:
    from bench.report import write_report  # matplotlib is slow to import

    console.print(f"report: {write_report(folder)}", highlight=False, soft_wrap=True)
