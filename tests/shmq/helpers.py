"""Processes under test: forked, told when to go on, and never left behind."""

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable

PATIENCE_S = 20.0  # for what must happen; nothing waits that long unless it fails


class Flag:
    """A one-way, one-shot event between processes, made before the fork."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def set(self) -> None:
        os.write(self._write, b"!")

    def wait(self) -> None:
        if not select.select([self._read], [], [], PATIENCE_S)[0]:
            raise TimeoutError("the other process did not get that far")
        os.read(self._read, 1)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Child:
    """A forked process that runs `work`; its status is 0 unless that raised."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        self.status: int | None = None

    def kill(self) -> None:
        """kill -9, and wait until it is gone. Leaves a status that `join` does not accept."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.status = os.waitpid(self.pid, 0)[1]

    def join(self) -> None:
        """Assert that the work ended well."""
        pidfd = os.pidfd_open(self.pid)
        try:
            ended = bool(select.select([pidfd], [], [], PATIENCE_S)[0])
        finally:
            os.close(pidfd)
        if not ended:
            self.kill()
            raise TimeoutError("the child does not end")
        self.status = os.waitpid(self.pid, 0)[1]
        assert self.status == 0, f"the child ended with wait status {self.status}"


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of another process that nothing signals, such as being asleep."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the awaited state never came"
        os.sched_yield()
