"""One benchmark at a time on one machine: a lock file that says who holds it.

The lock is a `flock` on a file in the temporary folder, shared by all users of the machine. The kernel drops it with the
holder's last descriptor, so a killed benchmark leaves nothing to clean up; the file itself stays and is reused. Its content
is only there for the sentence a second run prints. Doubt: two containers with temporary folders of their own do not see
each other's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path


class Busy(RuntimeError):
    """Another benchmark runs on this machine; the text names its holder."""


def lock_path() -> Path:
    """Return the path of the machine's lock file."""
    return Path(tempfile.gettempdir()) / "stackcore-bench.lock"


@contextlib.contextmanager
def machine_lock(path: Path | None = None) -> Iterator[Path]:
    """Hold the machine's benchmark lock; raises `Busy` at once when somebody else does."""
    path = path or lock_path()
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another benchmark is running on this machine: {_holder(descriptor)}; wait for it") from None
        _write_holder(descriptor)
        yield path
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:
        # Another user's file in a sticky folder: it cannot be created or written, yet flock needs no more than reading.
        return os.open(path, os.O_RDONLY | flags)
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, 0o666)
    return descriptor


def _write_holder(descriptor: int) -> None:
    record = {
        "pid": os.getpid(),
        "user": getpass.getuser(),
        "command": " ".join(sys.argv),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):  # opened for reading only: held all the same, without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(record).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {record['pid']} of user {record['user']} ({record['command']}), since {record['since']}"
    except (ValueError, KeyError, TypeError, OSError):
        return "its holder left no name"
