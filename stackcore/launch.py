"""Processes of a run: fork, report readiness, stop, reap. Nothing outlives the launcher.

Forking a process with threads copies locks in any state, so a fork asserts a single task. A child reports over a pipe
(an empty line: ready, or one line with what went wrong); it gets SIGTERM from the kernel when the launcher dies.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class LaunchError(RuntimeError):
    """A process of the run could not be started, or ended before its time; the message says which and why."""


def assert_single_task() -> None:
    """LaunchError naming the threads when this process has more than one task."""
    tasks = sorted(Path("/proc/self/task").iterdir())
    if len(tasks) > 1:
        names = ", ".join((t / "comm").read_text().strip() for t in tasks[1:])
        raise LaunchError(
            f"cannot fork: this process has {len(tasks)} threads ({names}). Set OPENBLAS_NUM_THREADS=1 before numpy is "
            "imported, and start other threads after the run"
        )


@dataclass
class Child:
    """A forked process of the run. ``usage`` is set when it was reaped."""

    name: str
    pid: int
    status_fd: int
    cpu: int | None = None
    exit_status: int | None = None
    usage: Any = None

    @property
    def exit_name(self) -> str:
        """"0", another exit code, or the name of the signal that killed it; "running" before that."""
        if self.exit_status is None:
            return "running"
        if self.killed:
            return signal.Signals(os.WTERMSIG(self.exit_status)).name
        return str(os.WEXITSTATUS(self.exit_status))

    @property
    def killed(self) -> bool:
        """Ended by a signal."""
        return self.exit_status is not None and os.WIFSIGNALED(self.exit_status)

    def reap(self, block: bool = False) -> bool:
        """True when the process has ended; its status and rusage are known then."""
        if self.exit_status is None:
            pid, status, usage = os.wait4(self.pid, 0 if block else os.WNOHANG)
            if pid == self.pid:
                self.exit_status, self.usage = status, usage
        return self.exit_status is not None

    def signal(self, number: int) -> None:
        if self.exit_status is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


@contextmanager
def uninterrupted() -> Iterator[None]:
    """No Ctrl-C in here: clean-up runs to its end, however impatient somebody is."""
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


def fork(name: str, body: Callable[[Callable[[], None]], None], born: Callable[[Child], None] = lambda child: None) -> Child:
    """Run ``body(ready)`` in a new process; it calls ``ready()`` once it serves. Exits 0, or 1 with a report.

    ``born`` gets the child before any signal can come between.
    """
    assert_single_task()
    sys.stdout.flush()
    sys.stderr.flush()
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    # A Ctrl-C between the fork and the first line of the child would run the launcher's clean-up in the child.
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    pid = os.fork()
    if pid:
        os.close(write_fd)
        child = Child(name, pid, read_fd)
        born(child)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        return child
    code = 1
    try:
        os.close(read_fd)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            body(lambda: _report(write_fd, ""))
            code = 0
    except BaseException as error:
        _report(write_fd, f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _report(fd: int, text: str) -> None:
    try:
        os.write(fd, text.replace("\n", " ").encode() + b"\n")
    except OSError:
        pass  # the launcher is gone


def wait_ready(children: list[Child], timeout: float = 30.0) -> None:
    """Until each child has reported that it serves; LaunchError with its words when one did not."""
    deadline = time.monotonic() + timeout
    for child in children:
        readable, _, _ = select.select([child.status_fd], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise LaunchError(f"{child.name} did not get ready within {timeout:g} s")
        text = os.read(child.status_fd, 4096)
        if text != b"\n":
            child.reap(block=not text)
            reason = text.decode(errors="replace").strip() or f"it ended with {child.exit_name}"
            raise LaunchError(f"{child.name} could not start: {reason}")


def last_words(child: Child) -> str:
    """What an ended child reported after it had been ready, or nothing."""
    readable, _, _ = select.select([child.status_fd], [], [], 0)
    return os.read(child.status_fd, 4096).decode(errors="replace").strip() if readable else ""


def stop(children: list[Child], patience: float = 3.0) -> None:
    """SIGTERM, then SIGKILL for those that do not go; all are reaped."""
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + patience
    for child in children:
        while not child.reap() and time.monotonic() < deadline:
            await_exit(child, deadline - time.monotonic())
        if child.exit_status is None:
            child.signal(signal.SIGKILL)
            child.reap(block=True)
        if child.status_fd >= 0:
            os.close(child.status_fd)
            child.status_fd = -1


def await_exit(child: Child, timeout: float) -> None:
    """Sleep until the process ends (pidfd), at most ``timeout`` seconds; it still has to be reaped."""
    if child.exit_status is not None:
        return
    try:
        fd = os.pidfd_open(child.pid)
    except ProcessLookupError:
        return
    try:
        select.select([fd], [], [], max(0.0, timeout))
    finally:
        os.close(fd)
