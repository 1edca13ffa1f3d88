"""What a peer's adapter is: what it can, and how to make a link of it."""

from __future__ import annotations

import abc
import importlib
import importlib.util
import itertools
import os
import shutil
import tempfile
from typing import Any, ClassVar

from shmq.measure import Link, Receiver, Sender, measure

__all__ = ["Adapter", "FolderLink", "Link", "Receiver", "Sender", "load", "unique_name"]

_SHARED_MEMORY = "/dev/shm"
_numbers = itertools.count()


class Adapter(abc.ABC):
    """One peer. Adapters hold no state; a link is made before the fork, its ends in the processes that use them."""

    name: ClassVar[str]
    package: ClassVar[str] = ""
    """What to install, "" for what is always there."""
    module: ClassVar[str] = ""
    """What to import."""
    role: ClassVar[str] = "peer"
    """`"floor"`, `"shmq"` or `"peer"`."""
    lossless: ClassVar[bool] = True
    """Does it promise to deliver every message that was sent? A run shows whether it does."""
    objects: ClassVar[bool] = False
    """Does it carry Python objects, not only bytes? Then it pays for them, and large messages are not what it is for."""
    kinds: ClassVar[frozenset[str]]
    """Those of `shmq.measure.KINDS` that it can."""
    largest: ClassVar[int | None] = None
    """Bytes of the largest message it takes, None: no limit below a megabyte."""

    @abc.abstractmethod
    def link(self, size: int, kind: str) -> Link:
        """Return a new link for this kind of traffic, with room for about `shmq.measure.slots(size)` messages of `size` bytes."""

    def as_received(self, message: bytes, kind: str) -> bytes:
        """Return what the receiver sees of a message: some pad."""
        return message

    def missing(self) -> str | None:
        """Return why this peer cannot be measured here, or None when it can."""
        if self.module and importlib.util.find_spec(self.module) is None:
            return f"{self.package} is not installed"
        return None

    def can(self, kind: str, size: int) -> bool:
        """Can it carry this kind of traffic with messages of `size` bytes?"""
        return kind in self.kinds and (self.largest is None or size <= self.largest)

    def measure(self, kind: str, size: int, seconds: float) -> dict[str, Any]:
        """Time one kind of traffic; see `shmq.measure.measure`."""
        return measure(
            lambda: self.link(size, kind), kind, size, seconds, as_received=lambda message: self.as_received(message, kind)
        )


class FolderLink(Link):
    """A link whose peer keeps its files in a folder of its own; the folder lies in memory and goes with the link."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="peers-", dir=_SHARED_MEMORY if os.path.isdir(_SHARED_MEMORY) else None)

    def sender(self) -> Sender:
        raise NotImplementedError

    def receiver(self) -> Receiver:
        raise NotImplementedError

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def load(module: str) -> Any:
    """Import a peer's module, of which type checkers know nothing because it need not be installed."""
    return importlib.import_module(module)


def unique_name() -> str:
    """Return a name for a shared object that no other process of this machine uses now."""
    return f"peers-{os.getpid()}-{next(_numbers)}"
