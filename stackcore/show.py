"""What people see of a run: a progress line while it goes on, a summary table after it. Rich decides about colours."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from stackcore.configuration import RunConfig
from stackcore.registry import Switch
from stackcore.result import Result


@contextmanager
def progress_line(config: RunConfig, quiet: bool) -> Iterator[Any]:
    """A callable for :func:`stackcore.runner.run_here`, drawn on a terminal only.

    Redrawn by the caller's own calls, not by a thread: the launcher still forks while it is up.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    done = TextColumn("{task.fields[requests]:,} requests")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), done)
    bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
    with bar:
        task = bar.add_task(f"{config.workload}, {config.workers} workers", total=1.0, requests=0)

        def update(share: float, requests: int) -> None:
            bar.update(task, completed=share, requests=requests, refresh=True)

        yield update


def _ns(value: float) -> str:
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} ns"


def summary(result: Result) -> None:
    """The run as two small tables on standard output."""
    console, data = Console(), result.data
    modes = data["modes"]
    what = f"{data['workers']} workers, {data['settings']['size']} B replies"
    title = f"{data['workload']}: {modes['listener']}, {modes['events']}, {what}"
    table = Table(title=title, show_header=False, title_justify="left")
    latency, events, locks = data["latency_ns"], data["events"], data["locks"]
    kind = "open loop" if latency["open_loop"] else "closed loop"
    table.add_row("requests", f"{data['requests']:,} in {data['duration_s']:.2f} s")
    table.add_row("rate", f"{data['requests_per_s']:,.0f} requests/s, {data['bytes_per_s'] / 1e6:,.1f} MB/s")
    table.add_row(f"latency ({kind})", ", ".join(f"{k} {_ns(latency[k])}" for k in ("p50", "p90", "p99", "p999", "max")))
    table.add_row("errors", ", ".join(f"{k} {v:,}" for k, v in data["errors"].items()))
    high = f"ring high water {events['ring_high_water']}"
    table.add_row("events", f"{events['count']:,}, {events['ns_per_event']:.0f} ns each, {high}")
    waited = f"{locks['contended']:,} contended, {_ns(locks['wait_ns'])} waited"
    table.add_row("locks", f"{locks['acquires']:,} acquires, {waited}")
    if data["transport"] == "tcp":
        _network_rows(table, data)
    core = data["core"]
    per_dispatch = f"{core['vectors_per_dispatch']:.1f} items per dispatch"
    table.add_row("core", f"{core['cpu_s']:.2f} s CPU, {per_dispatch}, exit {core['exit']}")
    if data["client"]:
        table.add_row("client host", f"{data['client']['cpu_s']:.2f} s CPU on CPU {data['client']['cpu']}")
    console.print(table)
    console.print(_workers(data))
    if data["machine"]["oversubscribed"]:
        console.print(f"more processes than the {data['machine']['cpus']} CPUs: rates include scheduling", style="yellow")


def _network_rows(table: Table, data: dict[str, Any]) -> None:
    """TCP over a wire: segments, the retransmit queue, and of transfers what became of them."""
    tcp, recovery, transfers = data["tcp"], data["recovery"], data["transfers"]
    clock = ", virtual time" if data["wire"] == "sim" else ""
    table.add_row("wire", f"{data['wire']}{clock}, loss {data['settings']['loss']:.2%}, cc {data['modes']['cc']}")
    lost = f"{tcp.get('retransmits', 0):,} retransmitted, {tcp.get('timeouts', 0):,} timeouts"
    table.add_row("segments", f"{tcp.get('segments_in', 0):,} in, {tcp.get('segments_out', 0):,} out, {lost}")
    mode = f"recovery {data['modes']['recovery']}"
    bad = f"{recovery['strangers']:,} strangers, {recovery['crashes']:,} crashes"
    waits = f"in the queue p99 {_ns(recovery['queue_ns']['p99'])}, close to free p99 {_ns(recovery['close_to_free_ns']['p99'])}"
    table.add_row(mode, f"{recovery['queued']:,} queued, {recovery['dropped']:,} dropped, {bad}")
    table.add_row("", waits)
    if transfers:
        cuts = f"{transfers['cut_by_reset']:,} cut by a reset, {transfers['cut_by_abort']:,} by themselves"
        table.add_row("transfers", f"{transfers['completed']:,} completed, {transfers['refetched']:,} begun anew: {cuts}")
        times = (("p50", "p50_ns"), ("p99", "p99_ns"), ("slowest", "slowest_ns"))
        table.add_row("", ", ".join(f"{name} {_ns(transfers[field])}" for name, field in times))


def _workers(data: dict[str, Any]) -> Table:
    table = Table("worker", "pid", "cpu", "accepted", "requests", "CPU s", "switches vol/invol", "parks", "exit")
    for i, w in enumerate(data["per_worker"]):
        switches = f"{w['voluntary_switches']:,} / {w['involuntary_switches']:,}"
        counts = (f"{w['accepted']:,}", f"{w['requests']:,}", f"{w['cpu_s']:.2f}", switches, f"{w['parks']:,}")
        table.add_row(str(i), str(w["pid"]), str(w["cpu"]), *counts, w["exit"])
    return table


def modes_table(switches: Iterable[Switch]) -> None:
    """All switches, their choices, and which is the default."""
    table = Table("switch", "choice", "what it does")
    for switch in switches:
        table.add_section()
        table.add_row(f"--{switch.name}" if switch.name != "workload" else "WORKLOAD", "", switch.doc, style="bold")
        for choice in switch:
            mark = " (default)" if choice.name == switch.default else ""
            table.add_row("", choice.name + mark, choice.doc)
    Console().print(table)
