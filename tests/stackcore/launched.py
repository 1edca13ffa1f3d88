"""Real runs of the command line, from the test process: in a forked child, which saves the imports, or exec'd."""

import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from stackcore.cli import main

PATIENCE_S = 30.0


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be exactly one JSON object."""
        found = json.loads(self.out)
        assert isinstance(found, dict), self.out
        return found


class Command:
    """``stackcore ARGUMENTS`` in a forked child with its own session; Ctrl-C reaches it and what it started."""

    unfinished: ClassVar[list["Command"]] = []

    def __init__(self, *arguments: str) -> None:
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed by _finish
        self.pid = os.fork()
        if self.pid == 0:
            self._become(arguments)
        self.unfinished.append(self)

    def _become(self, arguments: tuple[str, ...]) -> None:
        status = 70
        try:
            os.setsid()
            faulthandler.disable()  # a core that is meant to crash has nothing to say in the tests' own output
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(self.out.fileno(), 1)
            os.dup2(self.err.fileno(), 2)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process lives
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            main(arguments)
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            print(f"Traceback: {error!r}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def descendants(self) -> list[int]:
        """Processes that this one has forked and that still run: the core, then the workers."""
        try:
            return [int(p) for p in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self) -> Ended:
        """Until it ends; killed, and a failed test, when it does not."""
        pidfd = os.pidfd_open(self.pid)
        poll([pidfd], PATIENCE_S)
        os.close(pidfd)
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        assert ended, "the command does not end"
        return self._finish(os.waitstatus_to_exitcode(status))

    def _finish(self, status: int) -> Ended:
        self.unfinished.remove(self)
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return Ended(status, *texts)

    def abandon(self) -> None:
        """For a test that failed: kill it and all that it started."""
        os.killpg(self.pid, signal.SIGKILL)
        self._finish(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))


def poll(fds: list[int], seconds: float) -> bool:
    """Is one of them readable within that time?"""
    return bool(select.select(fds, [], [], seconds)[0])


def run(*arguments: str) -> Ended:
    """``stackcore ARGUMENTS``, to its end."""
    return Command(*arguments).wait()


def executed(*arguments: str, **environment: str) -> Ended:
    """The same as a program of its own, from the interpreter's start."""
    done = subprocess.run(
        [sys.executable, "-m", "stackcore", *arguments], capture_output=True, text=True, timeout=150, check=False,
        env=os.environ | environment,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a state of other processes that nothing signals; what ``condition`` returned."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        os.sched_yield()
    return found


def alive(pid: int) -> bool:
    """Does it run? A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def folder_of_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, kept: str = "") -> Iterator[Path]:
    """Sockets and temporary files of runs lie in ``folder``, and are gone at the end, but for files that end in ``kept``."""
    folder.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    for command in list(Command.unfinished):
        command.abandon()
    left = [p for p in folder.rglob("*") if not (kept and p.suffix == kept) and (not p.is_dir() or "docroot" in p.name)]
    assert left == []
