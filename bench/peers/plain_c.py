"""The floor: the native reference program (`bench/native`), plain C over shmq's own ring, in the same shapes."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from bench.native import PROGRAM
from bench.peers.base import Adapter, Link
from shmq.measure import MeasureError, batch_size, slots, two_cpus

_BATCHED = ("batch", "array")
_TIMEOUT = 60.0
_SHORTEST = 0.05
"""Seconds. On a busy machine either end may not run at all for some hundredths."""


class PlainCAdapter(Adapter):
    name = "C"
    role = "floor"
    kinds = frozenset({"single", "batch", "array", "view", "busy"})

    def link(self, size: int, kind: str) -> Link:
        raise MeasureError("plain C is a program of its own, it has no link")

    def missing(self) -> str | None:
        return None if PROGRAM.exists() else "the native reference program is not built"

    def measure(self, kind: str, size: int, seconds: float) -> dict[str, Any]:
        """Run the program; its latency is the median over blocks of 64 round trips."""
        batch = batch_size(size) if kind in _BATCHED else 1
        shape = ["--mode", "pingpong"] if kind == "busy" else ["--mode", "stream", "--batch", str(batch)]
        command = [
            str(PROGRAM), *shape, "--size", str(size), "--capacity", str(slots(size)), "--cpus", ",".join(map(str, two_cpus())),
        ]  # fmt: skip
        said = _run([*command, "--seconds", str(max(seconds, _SHORTEST))])
        if said is None:
            raise MeasureError("the native reference got too little done to measure anything")
        figures = {"trip_ns": said["p50_ns"]} if kind == "busy" else {}
        return {
            "kind": kind, "size": size, "batch": batch, "cpus": said["cpus"], "operations": said["operations"],
            "seconds": said["seconds"], "ns": said["ns"], **figures,
            "errors": {"lost": 0, "duplicate": 0, "misplaced": 0, "corrupt": said["wrong"]},
        }  # fmt: skip


def _run(command: list[str]) -> dict[str, Any] | None:
    """Return what the program says, or None when it measured nothing."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    if done.returncode != 0:
        raise MeasureError(f"the native reference failed: {done.stderr.strip() or done.returncode}")
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:  # "inf" per second
        return None
    return said if said["operations"] else None
