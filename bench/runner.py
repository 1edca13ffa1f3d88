"""One visit's process: started, waited for, and never left behind.

A `Runner` is any callable with the signature of `run_process`; tests pass one that answers without starting anything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

GRACE_SECONDS = 5.0


class BenchError(RuntimeError):
    """The benchmark cannot go on; the text says why and what to do."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended. `status` is its exit status, negative for a signal, None when it was stopped for its time."""

    status: int | None
    stdout: str
    stderr: str

    def complaint(self) -> str:
        """Return the last line it wrote to stderr, or how it ended when there is none."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        if lines:
            return lines[-1]
        if self.status is None:
            return "it did not end in time"
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"


Runner = Callable[[Sequence[str], float], Outcome]


def visit_environment() -> dict[str, str]:
    """Return this process's environment, with the stack that a visit imports pinned to the one this process came from.

    Otherwise `python -m` would prefer packages in the current folder, which in a checkout are not the installed ones.
    """
    root = str(Path(__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([root, inherited]) if inherited else root
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def run_process(command: Sequence[str], timeout: float) -> Outcome:
    """Run `command` in a process group of its own and return its outcome.

    After `timeout` seconds, and on any exception (Ctrl-C), the whole group gets SIGTERM and, `GRACE_SECONDS` later,
    SIGKILL: a core and its workers go together.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=visit_environment(),
    )
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            stdout, stderr = _stop(process)
            return Outcome(None, stdout, stderr)
        except BaseException:
            _stop(process)
            raise
    return Outcome(process.returncode, stdout, stderr)


def _stop(process: subprocess.Popen[str]) -> tuple[str, str]:
    _signal_group(process, signal.SIGTERM)
    try:
        return process.communicate(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGKILL)
        return process.communicate()


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
