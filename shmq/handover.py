"""Handles that go to another process by pickle: through Process arguments, or a multiprocessing Pipe or Queue.

Promise. What travels is a duplicate of the file descriptor, so unnamed segments work, nothing can be renamed or removed
in between, and no name is needed. It works with all start methods (fork needs none of it). Anywhere else a pickled
handle would be bytes that nobody can use, so there pickling is a TypeError that says what to do.

How. multiprocessing's own pickler is recognised by its module's frame below ours: `reduction.DupFd` then picks the right
way, the child being spawned or the descriptor server of the process. This module imports nothing of multiprocessing
that the caller has not imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["pack", "unpack"]

# The modules whose picklers send descriptors along.
_SENDERS = {"multiprocessing.reduction", "shmq.queue"}


def _being_sent() -> bool:
    """True when a sending pickler called the __reduce__ that called `pack`."""
    return sys._getframe(3).f_globals.get("__name__") in _SENDERS


def pack(what: object, fds: Sequence[int]) -> tuple[Any, ...]:
    """Return picklable stand-ins of the descriptors; to be called by `__reduce__` itself. TypeError when not sent."""
    if not _being_sent():
        raise TypeError(
            f"a {type(what).__name__} can be pickled only on its way to another process (Process arguments, a "
            "multiprocessing Pipe, a Queue): elsewhere pass its name and attach, or send its fd over a socket"
        )
    from multiprocessing import reduction  # who sends has imported it

    return tuple(reduction.DupFd(fd) for fd in fds)


def unpack(packed: Sequence[Any]) -> tuple[int, ...]:
    """Return the descriptors in this process; the caller closes them. All or none."""
    fds: list[int] = []
    try:
        for each in packed:
            fds.append(each.detach())
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return tuple(fds)
