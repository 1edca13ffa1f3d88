"""The command line: run, bench, report, compare, modes, warmup, doctor.

Exit status: 0 all was well; 1 a run found something wrong (lost events, a dead worker ...); 2 a flag cannot work or the
machine lacks something; 130 after Ctrl-C. Tables and colours are for terminals; ``--json`` prints one object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from stackcore import __version__

SWITCH_HELP = {
    "listener": "How forked workers share a listening socket (D3).",
    "lock": "Read-write lock of listener modes that lock.",
    "events": "What happens to events that one epoll_wait cannot return (D2).",
    "accept": "Which worker gets a new connection.",
    "ring-full": "When a worker's ring is full.",
    "wait": "How core and workers wait for work.",
    "app": "What the workers' loop is written in.",
    "trigger": "Edge- or level-triggered readiness. [default: the workload's]",
    "verify": "What the clients check of each reply.",
    "schedule": "Open-loop arrivals.",
    "transport": "What carries the sessions: null, or the stack's own tcp.",
    "wire": "What carries TCP's packets: shm or sim. [default: shm over tcp]",
    "cc": "Congestion control.",
    "recovery": "What becomes of a queued retransmission whose connection is gone (D1).",
    "retransmit-policy": "Which queued retransmission goes first.",
    "nagle": "Coalesce small segments.",
    "pin": "Which CPU each process runs on.",
}
"""One line per switch for --help; the choices are listed by `stackcore modes`, so that --help need not load the stack."""

OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--workers", type=int, help="Forked app workers. [default: 1]"),
    click.option("--clients", type=int, help="Clients, each with one request open. [default: 64]"),
    click.option("--size", help="Reply size, as in 0, 1K, 100K, 1M. [default: 1K]"),
    click.option("--duration", type=float, help="Seconds to measure. [default: 2]"),
    click.option("--warmup", type=float, help="Seconds before that. [default: 0.2]"),
    click.option("--maxevents", type=int, help="Events one epoll_wait returns at most. [default: the workload's]"),
    click.option("--ring", type=int, help="Slots of a worker's ring, a power of two. [default: 2048, fanout: clients/2]"),
    click.option("--fifo", help="Bytes of a byte fifo, a power of two. [default: 16K]"),
    click.option("--sessions", type=int, help="Size of the session table. [default: 1024, or twice the clients]"),
    click.option("--frame", type=int, help="Items per node and cycle, 1..256. [default: 256]"),
    click.option("--requests-per-connection", type=int, help="Close after that many; 0 keeps alive. [default: 0]"),
    click.option("--rate", type=float, help="Open loop: requests per second over all clients. [default: closed loop]"),
    click.option("--work", "work_ns", type=int, help="The app's own work per request, ns. [default: 0]"),
    click.option("--timeout", type=float, help="Seconds after which a client gives a request up. [default: 1]"),
    click.option("--seed", type=int, help="Seed of contents and schedules. [default: 0]"),
    click.option("--mtu", type=int, help="Largest IP datagram, bytes. [default: 1500]"),
    click.option("--loss", type=float, help="Fraction of packets lost on the way, each way. [default: 0]"),
    click.option("--burst-loss", type=float, help="Fraction lost in bursts of four in the mean. [default: 0]"),
    click.option("--delay", help="One way, as in 10ms. [default: 0; transfer on sim: 5ms]"),
    click.option("--jitter", help="Added to it, uniform from 0. [default: 0]"),
    click.option("--reorder", type=float, help="Fraction of packets that arrive a millisecond late. [default: 0]"),
    click.option("--duplicate", type=float, help="Fraction that arrives twice. [default: 0]"),
    click.option("--corrupt", type=float, help="Fraction in which a bit is flipped. [default: 0]"),
    click.option("--link-rate", help="Bytes per second each way, as in 125M. [default: no limit]"),
    click.option("--queue", type=int, help="Packets that wait for the link at most. [default: 1000]"),
    click.option("--budget", type=int, help="Segments one retransmit pass sends at most. [default: 256]"),
    click.option("--retries", type=int, help="Retransmission timeouts until a connection is given up. [default: 8]"),
    click.option("--close-timeout", type=float, help="Seconds a closed connection may linger without progress. [default: 2]"),
    click.option("--rto-init", type=float, help="First retransmission timeout, seconds. [default: 1]"),
    click.option("--unread", type=float, help="transfer: clients that send what the server never reads. [default: 0.1]"),
    click.option("--abort", type=float, help="transfer: clients that reset midway. [default: 0.05]"),
    click.option("--limit", type=float, help="transfer: seconds until the run is given up. [default: 600]"),
    click.option("--pcap", help="Write the packets to this file, for Wireshark."),
    click.option("--plugin", help="Load a plug-in, module:name or file.py:name, as in examples/stackcore/half.py:HALF."),
    click.option("--name", help="Name of the core's control socket. [default: $STACKCORE_NAME, or one per run]"),
]


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All flags of a run."""
    for name, text in SWITCH_HELP.items():
        command = click.option(f"--{name}", metavar="MODE", help=text)(command)
    for option in reversed(OPTIONS):
        command = option(command)
    return command


class Lazy(click.Group):
    """Commands of the bench package are imported only when they are used."""

    _elsewhere = {"bench": "bench_command", "report": "report_command", "compare": "compare_command"}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._elsewhere])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._elsewhere:
            import bench.cli

            command: click.Command = getattr(bench.cli, self._elsewhere[cmd_name])
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="stackcore")
def cli() -> None:
    """A user-space host stack's inter-process path: run it, switch its disputed designs, measure them.

    \b
    Start here:
      stackcore run http --workers 2 --clients 64     one run, with a summary
      stackcore modes                                 every switch and its choices
      stackcore bench --quick                         the benchmark, with a report
    """


@cli.command()
@click.argument("workload", default="http")
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def run(workload: str, as_json: bool, **flags: Any) -> None:
    """One run: a core, forked workers, clients; prints what happened. WORKLOAD: http, fanout or transfer.

    \b
    Examples:
      stackcore run http --workers 2 --size 4K --listener shared-rwlock
      stackcore run http --rate 100000 --schedule constant     open loop: honest latencies
      stackcore run fanout --events two-queue --clients 512     watch events go stale
      stackcore run http --transport tcp --wire shm             the stack's own TCP, a client host beside it
      stackcore run transfer --wire sim --loss 0.01             3600 downloads over a lossy network, in seconds
    """
    from stackcore import configuration

    config = configuration.make(workload=workload, **flags)  # loads plug-ins, which must come before the engine
    from stackcore import runner
    from stackcore.show import progress_line, summary

    with progress_line(config, quiet=as_json) as progress:
        result = runner.run_here(config, progress)
    if as_json:
        click.echo(json.dumps(result.data))
    else:
        summary(result)
    for problem in result.problems:
        click.echo(f"wrong: {problem}", err=True)
    sys.exit(0 if result.ok else 1)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print as one JSON object.")
def modes(as_json: bool) -> None:
    """Every switch with its choices, one line each."""
    from stackcore import configuration  # noqa: F401  (registers the switches)
    from stackcore.registry import SWITCHES
    from stackcore.show import modes_table

    if as_json:
        table = {
            s.name: {"doc": s.doc, "default": s.default, "choices": {c.name: c.doc for c in s}} for s in SWITCHES.values()
        }
        click.echo(json.dumps(table, indent=2))
    else:
        modes_table(SWITCHES.values())


@cli.command()
def warmup() -> None:
    """Compile all kernels ahead of time."""
    from stackcore import calls, configuration, kernel
    from stackcore.warmup import warm_up
    from workloads import WORKLOAD, load

    seconds = 0.0
    for workload in WORKLOAD:
        config = configuration.make(workload=workload.name)
        prepared = load(workload.name).prepare(config)
        try:
            seconds += warm_up(config, prepared)
        finally:
            prepared.close()
    calls.measure(configuration.LISTENER.default, False, processes=1, seconds=0.01)
    hits, misses = kernel.cache_statistics()
    click.echo(f"kernels ready after {seconds:.1f} s: {misses} compiled, {hits} from {kernel.cache_dir()}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print as one JSON object.")
def doctor(as_json: bool) -> None:
    """Look at what a run needs: compiler, /dev/shm, CPUs, governor, kernels' cache."""
    from stackcore import doctor as examination

    checks = examination.examine()
    if as_json:
        click.echo(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        examination.show(checks)
    sys.exit(0 if all(check.ok for check in checks if check.needed) else 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: turns exceptions that are meant for people into one line and an exit status."""
    from stackcore.control import ControlError

    try:
        cli.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except (ValueError, ImportError, OSError, RuntimeError, EOFError, ControlError) as error:
        click.echo(f"stackcore: {error}", err=True)
        sys.exit(2)
