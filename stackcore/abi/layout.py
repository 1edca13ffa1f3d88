"""Where everything lies in a stack's segment: computed once by the core, read back by everybody else.

:class:`Layout` is pure arithmetic; :func:`lay_out` writes it into a fresh segment; :class:`View` gives the numpy
arrays over a mapped one. A reader never computes offsets itself, it takes them from the ``sc_stack`` record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stackcore import native
from stackcore.abi import abi

SEGMENT_HEADER = abi.LINE
"""Bytes of shmq's own segment header, in front of the stack record."""
RING_HEADER = 7 * abi.LINE
FIFO_HEADER = 2 * abi.LINE
CELL = abi.LINE


def _up(n: int) -> int:
    return -(-n // abi.LINE) * abi.LINE


def is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


@dataclass(frozen=True)
class Layout:
    """Sizes asked for. ``ring_slots`` and ``fifo_size`` (bytes) are powers of two; ValueError otherwise."""

    workers: int
    sessions: int
    ring_slots: int
    fifo_size: int
    app_size: int = 0
    listeners: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= abi.MAX_WORKERS:
            raise ValueError(f"a stack has 1..{abi.MAX_WORKERS} worker records, not {self.workers}")
        if not 1 <= self.listeners <= abi.MAX_LISTENERS:
            raise ValueError(f"a stack has 1..{abi.MAX_LISTENERS} listeners, not {self.listeners}")
        if not 1 <= self.sessions <= 1 << 24:
            raise ValueError(f"a stack has 1..{1 << 24} sessions, not {self.sessions}")
        if not is_power_of_two(self.ring_slots) or not 2 <= self.ring_slots <= 1 << 24:
            raise ValueError(f"a ring has a power of two of slots, 2..{1 << 24}, not {self.ring_slots}")
        if not is_power_of_two(self.fifo_size) or not 256 <= self.fifo_size <= 1 << 26:
            raise ValueError(f"a fifo has a power of two of bytes, 256..{1 << 26}, not {self.fifo_size}")

    @property
    def offsets(self) -> dict[str, int]:
        """The offset and stride fields of ``sc_stack``, and ``size``, all in bytes."""
        o: dict[str, int] = {}
        o["telemetry_at"] = SEGMENT_HEADER + abi.STACK.itemsize + CELL
        o["workers_at"] = _up(o["telemetry_at"] + abi.TELEMETRY.itemsize)
        o["listeners_at"] = o["workers_at"] + self.workers * abi.WORKER.itemsize
        o["sessions_at"] = o["listeners_at"] + self.listeners * abi.LISTENER.itemsize
        o["rings_at"] = o["sessions_at"] + self.sessions * abi.SESSION.itemsize
        o["ring_stride"] = RING_HEADER + _up(self.ring_slots * abi.EVENT.itemsize)
        o["accept_at"] = o["rings_at"] + 2 * self.workers * o["ring_stride"]
        o["accept_stride"] = RING_HEADER + _up(self.accept_slots * abi.PENDING.itemsize)
        o["fifos_at"] = o["accept_at"] + self.listeners * o["accept_stride"]
        o["fifo_stride"] = 2 * FIFO_HEADER + 2 * self.fifo_size
        o["app_at"] = o["fifos_at"] + self.sessions * o["fifo_stride"]
        o["app_size"] = _up(self.app_size)
        o["size"] = o["app_at"] + o["app_size"]
        return o

    @property
    def accept_slots(self) -> int:
        """Slots of a shared listener's accept ring: every session may wait there at once."""
        return max(2, 1 << (self.sessions - 1).bit_length())

    @property
    def size(self) -> int:
        """Bytes of the whole segment."""
        return self.offsets["size"]


class View:
    """numpy arrays over the shared records of a mapped segment. Not to outlive the mapping."""

    def __init__(self, payload: Any, address: int) -> None:
        """``payload``: the segment's memory behind its header, writable or not; ``address``: where the segment is mapped."""
        self.address = address
        record = np.frombuffer(payload, abi.STACK, 1)[0]
        # Copied once: others can write to the record later, and no address may come from what they wrote.
        self.geometry: dict[str, int] = {name: int(record[name]) for name in abi.STACK.names or ()}
        k = self.geometry

        def array(dtype: np.dtype[Any], count: int, at: int) -> np.ndarray[Any, Any]:
            return np.frombuffer(payload, dtype, count, at - SEGMENT_HEADER)

        self.telemetry = array(abi.TELEMETRY, 1, k["telemetry_at"])
        self.workers = array(abi.WORKER, k["workers"], k["workers_at"])
        self.listeners = array(abi.LISTENER, k["listeners"], k["listeners_at"])
        self.sessions = array(abi.SESSION, k["sessions"], k["sessions_at"])

    @property
    def core_cell_at(self) -> int:
        """Address of the wait cell in which the core announces that it sleeps."""
        return self.address + SEGMENT_HEADER + abi.STACK.itemsize

    def ring_at(self, worker: int, to_core: bool) -> int:
        """Address of a worker's ring header."""
        k = self.geometry
        return self.address + k["rings_at"] + (2 * worker + to_core) * k["ring_stride"]

    def accept_ring_at(self, listener: int) -> int:
        k = self.geometry
        return self.address + k["accept_at"] + listener * k["accept_stride"]

    def worker_at(self, worker: int) -> int:
        """Address of a worker's record."""
        return self.address + self.geometry["workers_at"] + worker * abi.WORKER.itemsize


def lay_out(payload: Any, address: int, layout: Layout) -> View:
    """Write the stack record and empty rings into zeroed memory; see :class:`View` for the arguments."""
    stack = np.frombuffer(payload, abi.STACK, 1)[0]
    for name, value in layout.offsets.items():
        stack[name] = value
    stack["workers"] = layout.workers
    stack["listeners"] = layout.listeners
    stack["sessions"] = layout.sessions
    stack["ring_slots"] = layout.ring_slots
    stack["fifo_size"] = layout.fifo_size
    stack["version"] = abi.ABI_VERSION
    view = View(payload, address)
    for worker in range(layout.workers):
        reset_rings(view, worker)
    for listener in range(layout.listeners):
        _init_ring(view.accept_ring_at(listener), layout.accept_slots, abi.PENDING.itemsize)
    return view


def _init_ring(at: int, slots: int, slot_size: int) -> None:
    if native.ring_init(at, slots, slot_size) != 0:
        raise ValueError(f"cannot lay out a ring of {slots} slots of {slot_size} bytes")


def reset_rings(view: View, worker: int) -> None:
    """Empty both rings of a worker record that nobody is attached to."""
    slots = view.geometry["ring_slots"]
    for to_core in (False, True):
        _init_ring(view.ring_at(worker, to_core), slots, abi.EVENT.itemsize)
