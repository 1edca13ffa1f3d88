"""What must hold after every test of the stack: no child process, and no new file of ours in /dev/shm."""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_MEMORY = Path("/dev/shm")
PATIENCE_S = 3.0  # another program on the machine may be just about to remove its own file


def _unused_files() -> set[str]:
    """Names in /dev/shm that no process keeps locked; who uses a segment holds a shared lock on its file."""
    unused = set()
    for path in SHARED_MEMORY.iterdir():
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # gone meanwhile, or somebody else's
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unused.add(path.name)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
    return unused


def _children() -> list[int]:
    """Children of this process, running or not yet reaped, without reaping any."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    files, children = _unused_files(), _children()
    yield
    assert _children() == children, "a child process was left running or unreaped"
    left = _unused_files() - files
    deadline = time.monotonic() + PATIENCE_S
    while left and time.monotonic() < deadline:
        os.sched_yield()
        left &= _unused_files()
    assert not left, f"left behind in {SHARED_MEMORY}: {sorted(left)}"
