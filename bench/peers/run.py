"""`python -m bench.peers.run PEER --kind KIND --size N --json`: one measurement of one peer, as one process.

Prints one JSON object: what `shmq.measure.measure` returns and peer, version, lossless; or `skipped` and why; or `problem`.
Exit status 1 for a problem, or when a message went wrong in shmq or the reference; messages that another library lost
are a finding about it, and its status is 0.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import signal
import sys
from types import FrameType
from typing import Any

from bench.peers import Adapter, adapter_names, get_adapter
from shmq.measure import KINDS, MeasureError


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    adapter = get_adapter(options.peer)
    result = measure_one(adapter, options.kind, options.size, options.seconds)
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {value}")
    return status_of(adapter, result)


def measure_one(adapter: Adapter, kind: str, size: int, seconds: float) -> dict[str, Any]:
    """Return the object that is printed; never raises for a peer's fault."""
    known: dict[str, Any] = {"peer": adapter.name, "kind": kind, "size": size}
    reason = adapter.missing()
    if reason is None and not adapter.can(kind, size):
        reason = f"it has no {kind} of {size} bytes"
    if reason is not None:
        return {**known, "skipped": reason}
    try:
        figures = adapter.measure(kind, size, seconds)
    except (MeasureError, OSError) as error:
        return {**known, "problem": str(error)}
    wrong = any(figures["errors"].values())
    return {**known, **figures, "version": _version(adapter), "lossless": adapter.lossless and not wrong}


def status_of(adapter: Adapter, result: dict[str, Any]) -> int:
    """Return the exit status that belongs to a result."""
    if "problem" in result:
        return 1
    return int(adapter.role != "peer" and any(result.get("errors", {}).values()))


def _version(adapter: Adapter) -> str:
    return importlib.metadata.version(adapter.package) if adapter.package else ""


def _leave(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM unwind, so that links are closed and both processes end."""
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.peers.run", description="Measure one way of passing messages.")
    parser.add_argument("peer", choices=adapter_names())
    parser.add_argument("--kind", choices=list(KINDS), default="single")
    parser.add_argument("--size", type=int, default=32, help="bytes of a message, 16 or more (default 32)")
    parser.add_argument("--seconds", type=float, default=0.2, help="measured time (default 0.2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
