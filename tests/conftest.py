"""For all tests: whatever they do to processes, nothing stays behind in shared memory."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_MEMORY = Path("/dev/shm")


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
    """Fail the session when its tests leave files in /dev/shm that nobody uses any more."""
    before = _unused_files()
    yield
    left = _unused_files() - before
    assert not left, f"left behind in {SHARED_MEMORY}: {sorted(left)}"
