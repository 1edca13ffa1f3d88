"""Runs the native reference program `shmq-ref`: what plain C gets from this machine at this moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.runner import BenchError, Runner

MODES = ("stream", "pingpong", "http")
PROGRAM = Path(__file__).with_name("shmq-ref")


def time_reference(runner: Runner, seconds: float) -> dict[str, Any]:
    """Run all three shapes for `seconds` each and return their JSON objects by mode.

    Raises BenchError when the program is missing, fails, or reports a wrong byte.
    """
    if not PROGRAM.exists():
        raise BenchError(f"the native reference program {PROGRAM} is not built; run 'make' first")
    figures = {}
    for mode in MODES:
        outcome = runner([str(PROGRAM), "--mode", mode, "--seconds", str(seconds)], 30.0)
        if outcome.status != 0:
            raise BenchError(f"the native reference '{mode}' failed: {outcome.complaint()}")
        figures[mode] = json.loads(outcome.stdout)
    return figures


def reference_figures(reference: dict[str, Any]) -> list[float]:
    """Return what drift is judged by: the three rates, operations a second."""
    return [float(reference[mode]["per_second"]) for mode in MODES]
