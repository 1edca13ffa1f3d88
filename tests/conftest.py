"""For all tests: whatever they do to processes, nothing stays behind in shared memory."""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_MEMORY = Path("/dev/shm")
PATIENCE_SECONDS = 5.0


def _unused_files() -> set[str]:
    """Names in /dev/shm that no process keeps locked; an open segment holds a shared lock on its file."""
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


@pytest.fixture(scope="session", autouse=True)
def nothing_left_in_shared_memory() -> Iterator[None]:
    """Fail the session when its tests leave files in /dev/shm that nobody uses any more.

    A file has to stay for `PATIENCE_SECONDS` to count: another program on the machine may be just about to remove its own.
    """
    before = _unused_files()
    yield
    left = _unused_files() - before
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left &= _unused_files()
    assert not left, f"left behind in {SHARED_MEMORY}: {sorted(left)}"
