"""`shmq ls`, `shmq stat NAME`, `shmq gc`: look at named segments, and remove what dead processes left.

Works on every shmq segment of this user, whichever program made it. With --json one JSON value is printed and nothing
else. Exit status 0, or 1 with one sentence on stderr.
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
from shmq.segment import Segment, SegmentInfo, collect, list_segments

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


def _contents(info: SegmentInfo) -> dict[str, Any]:
    """Return what is known about the payload; raises as Segment.attach."""
    with Segment.attach(info.name, info.kind, info.abi) as segment:
        if info.kind != "ring":
            return {}
        ring = _native.ring_info(segment.mapping, segment.payload_at)
        if ring is None:
            raise ShmqError("the ring's header is corrupt")
        ring.pop("flags")
        return {key.replace("token", "pid"): value >> 32 if "token" in key else value for key, value in ring.items()}


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
