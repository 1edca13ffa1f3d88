"""shmq: shared-memory building blocks for processes on one machine.

Rings, locks and segments over C11 atomics. Importing the package imports neither numpy nor numba nor the stack.
"""

try:
    from shmq import _native as _native
except ImportError as error:
    if error.name != "shmq._native":
        raise
    raise ImportError(
        "the compiled part of shmq is missing: run `make` in the checkout, or leave the source folder to use the "
        "installed package",
        name="shmq._native",
    ) from error

from shmq.errors import CorruptSegment, OwnerDied, PeerDied, RoleTaken, ShmqError
from shmq.segment import Segment

__all__ = ["CorruptSegment", "OwnerDied", "PeerDied", "RoleTaken", "Segment", "ShmqError"]
