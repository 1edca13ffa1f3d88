"""`shmq ls`, `shmq stat NAME`, `shmq gc`: look at named segments, and remove what dead processes left. `shmq bench`: time it.

The first three work on every shmq segment of this user, whichever program made it. With --json one JSON value is printed and
nothing else. Exit status 0, or 1 with one sentence on stderr.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from shmq import _native
from shmq.errors import ShmqError
from shmq.queue import Queue
from shmq.segment import Segment, SegmentInfo, collect, list_segments

# What tells about the payload of a segment of this kind.
_LOOKS = {"ring": _native.ring_info, "channel": _native.channel_info, "fifo": _native.stream_info}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look after shared-memory segments made by shmq."""


@main.command("ls")
@_JSON
def list_command(as_json: bool) -> None:
    """List the named segments and whether anybody still needs them."""
    segments = list_segments()
    if as_json:
        _print_json([dataclasses.asdict(info) for info in segments])
    elif segments:
        _print_segments(segments)
    else:
        click.echo("no shmq segments")


@main.command("stat")
@click.argument("name")
@_JSON
def stat_command(name: str, as_json: bool) -> None:
    """Show one segment and what lies in it."""
    info = next((info for info in list_segments() if info.name == name), None)
    if info is None:
        raise click.ClickException(f"there is no shmq segment named {name!r}, `shmq ls` shows which there are")
    values = dataclasses.asdict(info)
    try:
        values |= _contents(info)
    except (OSError, ShmqError) as error:
        values["problem"] = str(error)
    if as_json:
        _print_json(values)
    else:
        table = Table(show_header=False, box=None)
        for key, value in values.items():
            table.add_row(key.replace("_", " "), str(value))
        Console().print(table)
    if "problem" in values:
        raise click.exceptions.Exit(1)


@main.command("gc")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@_JSON
def gc_command(dry_run: bool, as_json: bool) -> None:
    """Remove segments whose creator is dead and which no process has open.

    Segments of other pid namespaces (containers) are left alone.
    """
    removed = collect(dry_run=dry_run)
    if as_json:
        _print_json([dataclasses.asdict(info) for info in removed])
        return
    for info in removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {info.name} ({info.size} bytes, made by {info.pid})")
    if not removed:
        click.echo("nothing to remove")


@main.command("bench")
@click.option("--size", type=click.IntRange(min=16, max=1 << 20), default=32, show_default=True, help="Bytes of a message.")
@click.option("--seconds", type=click.FloatRange(min=0.01, max=60), default=0.2, show_default=True, help="Time for each row.")
@_JSON
def bench_command(size: int, seconds: float, as_json: bool) -> None:
    """Measure rings and channels between two processes on this machine.

    The processes are pinned to two CPUs, and every message is checked. Takes about ten times --seconds.
    """
    from shmq import benchmark, measure

    rows = []
    try:
        for row in benchmark.run(size, seconds):
            rows.append(row)
    except (measure.MeasureError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        _print_json(rows)
    else:
        _print_benchmark(rows)


def _print_benchmark(rows: list[dict[str, Any]]) -> None:
    from shmq.measure import KINDS

    table = Table(box=None)
    for title in ("what", "messages/s", "us", "p50 us", "p99 us", "CPU"):
        table.add_column(title, justify="left" if title == "what" else "right")
    for row in rows:
        table.add_row(f"{row['link']}, {KINDS[row['kind']]}", *_benchmark_figures(row))
    Console().print(table)
    first, second = rows[0]["cpus"]
    where = f"CPUs {first} and {second}" if first != second else f"CPU {first} alone, which both processes share"
    click.echo(f"{rows[0]['size']} bytes a message, {rows[0]['batch']} messages a batch, on {where}; all arrived in order")


def _benchmark_figures(row: dict[str, Any]) -> list[str]:
    if row["kind"] == "idle":
        return ["", "", "", "", f"{100 * row['cpu_share']:.2f} %"]
    if "trip_ns" in row:
        return ["", *(f"{row[key] / 1000:.2f}" for key in ("trip_ns", "p50_ns", "p99_ns")), ""]
    return [f"{1e9 / row['ns']:,.0f}", "", "", "", ""]


def _contents(info: SegmentInfo) -> dict[str, Any]:
    """Return what is known about the payload; raises as Segment.attach."""
    if info.kind == "queue":  # its file may be longer than its segment
        with Queue.attach(info.name) as queue:
            return queue.stats()
    with Segment.attach(info.name, info.kind, info.abi) as segment:
        look = _LOOKS.get(info.kind)
        if look is None:
            return {}
        inside = look(segment.mapping, segment.payload_at)
        if inside is None:
            raise ShmqError(f"the {info.kind}'s header is corrupt")
        inside.pop("flags")
        return {key.replace("token", "pid"): value >> 32 if "token" in key else value for key, value in inside.items()}


def _print_segments(segments: list[SegmentInfo]) -> None:
    table = Table(box=None)
    for title in ("name", "kind", "bytes", "creator", "state"):
        table.add_column(title, justify="right" if title in ("bytes", "creator") else "left")
    for info in segments:
        table.add_row(info.name, info.kind, f"{info.size:,}", str(info.pid), info.state)
    Console().print(table)
    if any(info.state == "orphan" for info in segments):
        click.echo("orphans can be removed with `shmq gc`")


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


if __name__ == "__main__":
    main()
