"""The ends of a ring of numpy records: structured arrays in, structured arrays out, or views of the slots themselves.

Promise. `push_array` and `pop_array` copy once, in one or two runs, and refuse another dtype. `reserve` and `peek` give
arrays that stand on the shared memory itself; `commit` and `release` raise BufferError, and change nothing, while such
an array or anything made from it without copying is alive, so no array can see a slot that is not its own.

The record's dtype lies behind the slots in numpy's own notation (that of .npy files), so `Ring.attach` knows it. Types
that hold Python objects are refused: an address means nothing in another process.

Only `Ring` imports this module, and numpy with it, when a dtype is asked for.
"""

from __future__ import annotations

import ast
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy

from shmq import _native
from shmq.errors import CorruptSegment

__all__ = ["ArrayConsumer", "ArrayProducer"]


def checked_dtype(wanted: object) -> np.dtype[Any]:
    """Return the dtype of one record, or raise TypeError or ValueError."""
    dtype: np.dtype[Any] = np.dtype(wanted)  # type: ignore[call-overload]
    if dtype.hasobject:
        raise TypeError(f"{dtype} holds Python objects, which cannot be shared: use a Queue")
    if dtype.subdtype is not None or dtype.itemsize == 0:
        raise ValueError(f"{dtype} is not the type of a record: put sub-arrays in a named field, of at least one byte")
    return dtype


def describe(dtype: np.dtype[Any]) -> bytes:
    """Return the dtype as text from which `restore` makes it again."""
    return repr(npy.dtype_to_descr(dtype)).encode()


def restore(text: bytes) -> np.dtype[Any]:
    """Return the dtype that `describe` wrote; CorruptSegment when it is none."""
    try:
        return checked_dtype(npy.descr_to_dtype(ast.literal_eval(text.decode())))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise CorruptSegment("the ring's record type is unreadable") from error


class _ArrayEnd:
    """What both ends share: the native end, its dtype, closing."""

    def __init__(self, native: Any, dtype: np.dtype[Any]) -> None:
        self._native = native
        self.dtype = dtype
        self.stats = native.stats
        self.fileno = native.fileno
        self.close = native.close

    def _checked(self, records: Any) -> np.ndarray[Any, Any]:
        array = np.asanyarray(records)
        if array.dtype != self.dtype:
            raise TypeError(f"the ring's records are {self.dtype}, the array's are {array.dtype}")
        return array

    @property
    def capacity(self) -> int:
        """Slots in the ring."""
        return self._native.capacity

    @property
    def slot_size(self) -> int:
        """Bytes per slot, the dtype's itemsize."""
        return self._native.slot_size

    @property
    def closed(self) -> bool:
        """True once closed."""
        return self._native.closed

    def __enter__(self) -> Self:
        self._native.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._native.close()


class ArrayProducer(_ArrayEnd):
    """The producing end of a ring with a dtype; `push`, `try_push`, `apush` and `push_many` take records as bytes."""

    def __init__(self, native: _native.RingProducer, dtype: np.dtype[Any]) -> None:
        super().__init__(native, dtype)
        self.push = native.push
        self.try_push = native.try_push
        self.push_many = native.push_many
        self.apush = native.apush
        self.commit = native.commit

    def push_array(self, records: Any) -> int:
        """Copy in as many records of an array of the ring's dtype as there is room for; how many."""
        return self._native.push_array(np.ascontiguousarray(self._checked(records)))

    def reserve(self, n: int) -> np.ndarray[Any, Any]:
        """Return up to n free slots as a writable array; shorter and empty as the plain end's. Drop it, then commit."""
        view = self._native.reserve(n)
        return np.frombuffer(view, self.dtype) if view.nbytes else np.empty(0, self.dtype)


class ArrayConsumer(_ArrayEnd):
    """The consuming end of a ring with a dtype; `pop`, `try_pop`, `apop` and `pop_many` give records as bytes."""

    def __init__(self, native: _native.RingConsumer, dtype: np.dtype[Any]) -> None:
        super().__init__(native, dtype)
        self.pop = native.pop
        self.try_pop = native.try_pop
        self.pop_many = native.pop_many
        self.apop = native.apop
        self.release = native.release

    def pop_array(self, out: Any) -> int:
        """Take records out into a C-contiguous array of the ring's dtype, as many as it holds and are there; how many."""
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out must be an array of {self.dtype}, not {type(out).__name__}")
        return self._native.pop_array(self._checked(out))

    def peek(self, n: int) -> np.ndarray[Any, Any]:
        """Return up to n of the oldest records as a read-only array, without copying. Drop it, then release."""
        view = self._native.peek(n)
        return np.frombuffer(view, self.dtype) if view.nbytes else np.empty(0, self.dtype)
