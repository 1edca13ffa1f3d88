"""Wire ``shm``: packets between two processes over two rings in shared memory, in batches, without a system call.

Promise: packets arrive whole, once and in order, or they were never taken (:func:`shm_send` says how many it took; the rest
stays with the caller). No call blocks. No wake-up is lost: who announced itself before its last look is rung. Whatever the
other process writes into the shared memory, nothing outside the rings is touched: addresses come from this end's own
cursors and geometry, a remote cursor that no correct peer writes is reported as CORRUPT, a slot's length is read once,
checked, and otherwise the packet is dropped and counted.

How. Each slot is 8 bytes of length and then the datagram, in an odd number of cache lines, so that slots spread over all
sets of a cache. One cursor store and one fence per batch; the remote cursor is looked at only when its cached value is not
enough (shmq/native/ring.h has the proofs). Each end has one doorbell, an eventfd, which rings for packets and for room.

A :class:`Wire` is made before the fork, each process takes its :meth:`Wire.end`. That the other process died is for the
caller to notice, who started it: here a dead peer is one that neither sends nor takes anything. After a death make a new
wire. The memory has no name and goes with the last process.
"""

from __future__ import annotations

import errno
import os
import select
from types import TracebackType
from typing import Any, Self

import numpy as np

from shmq.segment import Segment
from stackcore import native
from stackcore.abi import abi
from stackcore.bundle import Bundle
from stackcore.kernel import c_function, kernel
from stackcore.native import (
    load64,
    memcpy,
    ring_head,
    ring_publish,
    ring_ready,
    ring_release,
    ring_room,
    ring_tail,
    ring_wake_consumer,
    ring_wake_producer,
    store64,
)
from stackcore.tcp.state import HEADROOM

CORRUPT = -errno.EBADMSG
CORE, PEER = range(2)
"""The two ends."""

_CACHE_LINE = 64
_RING_HEADER = c_function("shmq_x_sizeof_ring", 0)()
_HANDLE_WORDS = 8
_LENGTH = 8
"""Bytes of a slot's length word."""
_PARKED_EVENTFD = 2
"""SHMQ_PARKED_EVENTFD of wait.h."""

CONFIG = np.dtype([(name, "i8") for name in ("producer", "consumer", "out_at", "in_at", "mask", "slot_size", "mtu")])

STATISTICS = np.dtype([(name, "i8") for name in ("sent", "received", "full", "bad_length", "wrong_length")])
"""``full``: sends that could not take everything. ``bad_length``: given to us with a length that no datagram has, not sent.
``wrong_length``: received as such, dropped."""


class ShmWire(Bundle):
    """One end, for kernels."""

    cfg: np.ndarray[Any, Any]
    """CONFIG[1]"""
    stat: np.ndarray[Any, Any]
    """STATISTICS[1]"""
    handles: np.ndarray[Any, Any]
    """int64[2, 8]: this end's private ring handles"""


@kernel
def shm_send(w, buf, lengths, n):
    """Send the datagrams in rows 0..``n``-1 of ``buf`` (uint8[rows, stride], in C order, IP header at column HEADROOM).

    How many rows were taken: the rest, for which the ring has no room, stays with the caller. CORRUPT (negative) when the
    peer has damaged the ring: nothing is sent any more.
    """
    return shm_send_from(w, buf, lengths, 0, n)


@kernel
def shm_send_from(w, buf, lengths, first, n):
    """The same for rows ``first``..``n``-1."""
    cfg, stat = w.cfg[0], w.stat[0]
    producer = int(cfg["producer"])
    room = ring_room(producer, n - first)
    if room < 0:
        return room
    at, tail, mask, size = int(cfg["out_at"]), ring_tail(producer), int(cfg["mask"]), int(cfg["slot_size"])
    base, stride = buf.ctypes.data + HEADROOM, buf.shape[1]
    put = 0
    row = int(first)
    while row < n:
        length = int(lengths[row])
        if length < 1 or length > cfg["mtu"]:
            stat["bad_length"] += 1
        else:
            if put == room:
                stat["full"] += 1
                break
            slot = at + ((tail + put) & mask) * size
            store64(slot, length)
            memcpy(slot + _LENGTH, base + row * stride, length)
            put += 1
        row += 1
    if put > 0:
        stat["sent"] += put
        ring_publish(producer, put)
        ring_wake_consumer(producer)
    return row - first


@kernel
def shm_receive(w, buf, lengths, limit):
    """Take up to ``limit`` packets into rows 0, 1, ... of ``buf`` and ``lengths``; how many, or CORRUPT (negative)."""
    cfg, stat = w.cfg[0], w.stat[0]
    consumer = int(cfg["consumer"])
    ready = min(ring_ready(consumer, limit), limit)
    if ready <= 0:
        return ready
    at, head, mask, size = int(cfg["in_at"]), ring_head(consumer), int(cfg["mask"]), int(cfg["slot_size"])
    base, stride = buf.ctypes.data + HEADROOM, buf.shape[1]
    used = 0
    for i in range(ready):
        slot = at + ((head + i) & mask) * size
        length = load64(slot)  # once: the peer may be writing here
        if length < 1 or length > cfg["mtu"]:
            stat["wrong_length"] += 1
        else:
            memcpy(base + used * stride, slot + _LENGTH, length)
            lengths[used] = length
            used += 1
    stat["received"] += used
    ring_release(consumer, ready)
    ring_wake_producer(consumer)
    return used


@kernel
def shm_room(w, want):
    """Packets that :func:`shm_send` would take now, as far as known; all of ``want`` if the ring has that. Or CORRUPT."""
    return ring_room(int(w.cfg[0]["producer"]), want)


@kernel
def shm_ready(w):
    """1 when :func:`shm_receive` would find something, 0, or CORRUPT."""
    return min(ring_ready(int(w.cfg[0]["consumer"]), 1), 1)


class WireEnd:
    """One process's end of a :class:`Wire`. Not thread safe. Not to be used after :meth:`close`."""

    def __init__(self, wire: Wire, role: int) -> None:
        handles = np.zeros((2, _HANDLE_WORDS), "i8")
        cfg = np.zeros(1, CONFIG)
        out_at, in_at = wire.ring_at(role), wire.ring_at(1 - role)
        producer, consumer = handles[0].ctypes.data, handles[1].ctypes.data
        native.bind_producer(producer, out_at, wire.slots, wire.slot_size)
        native.bind_consumer(consumer, in_at, wire.slots, wire.slot_size)
        native.producer_set_efd(producer, wire.doorbells[1 - role])
        native.consumer_set_efd(consumer, wire.doorbells[1 - role])
        cfg["producer"], cfg["consumer"] = producer, consumer
        cfg["out_at"], cfg["in_at"] = out_at + _RING_HEADER, in_at + _RING_HEADER
        cfg["mask"], cfg["slot_size"], cfg["mtu"] = wire.slots - 1, wire.slot_size, wire.mtu
        self.kernel = ShmWire(cfg=cfg, stat=np.zeros(1, STATISTICS), handles=handles)
        """What the kernels of this module take."""
        self._doorbell = wire.doorbells[role]
        self._epoll = select.epoll()
        # Edges: the counter is never read, because the other process has this descriptor, too, and could empty it or make
        # it blocking between the poll and a read.
        self._epoll.register(self._doorbell, select.EPOLLIN | select.EPOLLET)

    def fileno(self) -> int:
        """The doorbell, an eventfd, for another loop's epoll: register it edge-triggered and do not read it."""
        return self._doorbell

    def announce(self, room: bool = False) -> None:
        """This end is going to sleep: ring when a packet comes, or (``room``) when the peer has taken one.

        The caller then looks once more (:func:`shm_ready`, :func:`shm_room`), sleeps on the doorbell only if there is
        nothing, and calls :meth:`clear` in any case.
        """
        native.consumer_announce(int(self.kernel.cfg[0]["consumer"]), _PARKED_EVENTFD)
        if room:
            native.producer_announce(int(self.kernel.cfg[0]["producer"]), _PARKED_EVENTFD)

    def clear(self) -> None:
        """Awake again."""
        native.consumer_clear(int(self.kernel.cfg[0]["consumer"]))
        native.producer_clear(int(self.kernel.cfg[0]["producer"]))

    def park(self, timeout: float, room: bool = False) -> bool:
        """Sleep until a packet is there (or, with ``room``, space for one), at most ``timeout`` seconds.

        True when something is there to do (a corrupt ring is, too); False may also come early. Interrupted by signals.
        """
        self.announce(room)
        try:
            if self._something(room):
                return True
            self._epoll.poll(timeout)
            return self._something(room)
        finally:
            self.clear()

    def _something(self, room: bool) -> bool:
        return shm_ready(self.kernel) != 0 or (room and shm_room(self.kernel, 1) != 0)

    def statistics(self) -> dict[str, int]:
        """The counters by name."""
        return {name: int(self.kernel.stat[0][name]) for name in STATISTICS.names or ()}

    def close(self) -> None:
        """Release this end's descriptor; the :class:`Wire` is closed apart. A second call does nothing."""
        self._epoll.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


class Wire:
    """Two empty rings and two doorbells. Each process that has it (by fork) closes it for itself."""

    def __init__(self, mtu: int = 1500, slots: int = 1024) -> None:
        if not 1 <= mtu <= 65535:
            raise ValueError(f"a datagram has 1..65535 bytes, the MTU cannot be {mtu}")
        if not 2 <= slots <= 1 << 20 or slots & (slots - 1):
            raise ValueError(f"a wire's ring has a power of two of slots, 2..{1 << 20}, not {slots}")
        self.mtu, self.slots = mtu, slots
        self.slot_size = (-(-(_LENGTH + mtu) // _CACHE_LINE) | 1) * _CACHE_LINE
        self._stride = _RING_HEADER + slots * self.slot_size
        self._stride += -self._stride % abi.LINE
        self._segment = Segment.create(2 * self._stride, "wire", native.BUILD_HASH[:31])
        self.doorbells: tuple[int, ...] = ()
        """Eventfds, by role of who sleeps on it."""
        try:
            for role in (CORE, PEER):
                if native.ring_init(self.ring_at(role), slots, self.slot_size) != 0:
                    raise ValueError(f"cannot lay out a ring of {slots} slots of {self.slot_size} bytes")
                self.doorbells += (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),)
        except BaseException:
            self.close()
            raise

    def ring_at(self, role: int) -> int:
        """Address of the ring that ``role`` sends into."""
        return self._segment.address + self._segment.payload_at + role * self._stride

    def end(self, role: int) -> WireEnd:
        """The end of ``role``, CORE or PEER; once for each, in the process that uses it."""
        return WireEnd(self, role)

    def close(self) -> None:
        """Unmap the rings and close the doorbells, in this process; its end must not be used any more."""
        for fd in self.doorbells:
            os.close(fd)
        self.doorbells = ()
        self._segment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def make_wire(mtu: int = 1500, slots: int = 1024) -> Wire:
    """A wire for datagrams of 1..``mtu`` bytes, ``slots`` packets (a power of two) each way; made before the fork.

    ValueError for sizes that make no sense, OSError when shared memory is short.
    """
    return Wire(mtu, slots)
