"""shmq: shared-memory building blocks for processes on one machine.

Rings, locks and segments over C11 atomics. Importing the package imports neither numpy nor numba nor the stack.
"""

try:
    from shmq import _native as _native
except ImportError as error:
    if error.name != "shmq":  # it exists, but cannot be loaded: the linker's own words say why
        raise
    raise ImportError(
        "the compiled part of shmq is missing: run `make` in the checkout, or leave the source folder to use the "
        "installed package",
        name="shmq._native",
    ) from None

from shmq.channel import Channel
from shmq.errors import CorruptSegment, OwnerDied, PeerDied, RoleTaken, ShmqError
from shmq.event import Event
from shmq.fifo import ByteFifo
from shmq.lock import FutexRwLock, Mutex, PthreadRwLock, SpinLock, SpinRwLock
from shmq.queue import Queue
from shmq.ring import Ring
from shmq.segment import Segment

__all__ = [
    "ByteFifo",
    "Channel",
    "CorruptSegment",
    "Event",
    "FutexRwLock",
    "Mutex",
    "OwnerDied",
    "PeerDied",
    "PthreadRwLock",
    "Queue",
    "Ring",
    "RoleTaken",
    "Segment",
    "ShmqError",
    "SpinLock",
    "SpinRwLock",
]
