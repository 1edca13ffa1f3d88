"""The memory of one stack: every array of :class:`~stackcore.tcp.state.Tcp` with its initial contents.

All of it is allocated here, once; no kernel allocates. What grows with the number of connections is kept small and is
not touched until used: an idle connection costs its record, its timers, its slot and its places in the queues (a test
counts them). Scoreboards and fifos are only paid for by connections that move data.

Fifos may belong to somebody else (the core's lie in the segment it shares with its workers); without, they are private
memory. Either way the layout per slot is that of the session layer: two headers, the rx bytes, the tx bytes.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from stackcore.abi import abi
from stackcore.histogram import BUCKETS
from stackcore.tcp import retransmit as _modes  # noqa: F401  (registers its choices)
from stackcore.tcp.config import HostConfig, nanoseconds, packed_address
from stackcore.tcp.congestion import CC
from stackcore.tcp.retransmit import policy as _policies  # noqa: F401  (registers its choices)
from stackcore.tcp.retransmit.switches import POLICY, RECOVERY
from stackcore.tcp.state import (
    BOARD_WORDS,
    CONFIG,
    CONNECTION,
    ENTRY,
    LISTENER,
    MAX_FRAME,
    REASONS,
    SEGMENT,
    SLOT,
    STATISTICS,
    STRAY,
    TIMER,
    TIMERS,
    WHEEL_SLOTS,
    Tcp,
)

END_WORDS = 5
"""int64 words of a ``shmq_fifo_end``."""
HEADERS = 4 * abi.LINE
"""Bytes in front of a slot's data: the headers of its rx and tx fifos, two lines each."""
STRAYS = 256
MAX_BOARDS = 8192
"""Each connection may need one as a sender and one as a receiver; so many at the same moment, by far most do not."""
FIRST_PORT, PORTS = 49152, 16384
"""Ephemeral ports, RFC 6335 section 6."""


@dataclass(frozen=True)
class FifoMemory:
    """Fifos that somebody else allocated. Addresses are this process's; sizes in bytes.

    ``at``: the first slot's rx header; the next slot's is ``stride`` further. ``size``: of each fifo's data.
    ``ends_at``: two ``shmq_fifo_end`` per slot, the stack's rx writer and tx reader, private to the stack.
    """

    at: int
    stride: int
    size: int
    ends_at: int


def ring_size(entries: int) -> int:
    """Power of two that holds at least ``entries``."""
    return 1 << max(0, entries - 1).bit_length()


def aligned(count: int, align: int = abi.LINE) -> tuple[np.ndarray[Any, Any], int]:
    """Zeroed bytes and the address of the first aligned one; pages that are never touched are never there."""
    block = np.zeros(count + align, "u1")
    return block, -(-block.ctypes.data // align) * align


def private_fifos(config: HostConfig) -> tuple[FifoMemory, list[Any]]:
    """Fifos and ends of all slots in private memory; the second value keeps it alive."""
    slots, stride = config.slot_count, HEADERS + 2 * config.fifo
    stride = -(-stride // abi.LINE) * abi.LINE
    arena, at = aligned(slots * stride)
    ends = np.zeros((slots, 2, END_WORDS), "i8")
    return FifoMemory(at, stride, config.fifo, ends.ctypes.data), [arena, ends]


def new_tcp(
    config: HostConfig, fifos: FifoMemory | None = None, shared: dict[str, np.ndarray[Any, Any]] | None = None
) -> tuple[Tcp, list[Any]]:
    """A stack with everything free. The second value must live as long as the first: kernels know raw addresses.

    ``shared``: arrays of :class:`Tcp` that the caller has already, such as counters that others may look at.

    ValueError when the fifos are not of the configured size; UnknownMode (a ValueError) for a policy name that nobody registered.
    """
    keep: list[Any] = []
    if fifos is None:
        fifos, keep = private_fifos(config)
    if fifos.size != config.fifo:
        raise ValueError(f"the fifos have {fifos.size} bytes, the configuration says {config.fifo}")
    connections, slots = config.connections, config.slot_count
    con_ring, slot_ring = ring_size(connections), ring_size(slots)
    boards = max(16, min(2 * connections, MAX_BOARDS))
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "cfg": np.zeros(1, CONFIG),
        "con": np.zeros(connections, CONNECTION),
        "slot": np.zeros(slots, SLOT),
        "tmr": np.zeros(connections * TIMERS, TIMER),
        "wheel": np.full(WHEEL_SLOTS, -1, "i4"),
        "wheel_map": np.zeros(WHEEL_SLOTS // 32, "i8"),
        "hash": np.full(con_ring, -1, "i4"),
        "free": np.arange(connections - 1, -1, -1, dtype="i4"),
        "slots_free": np.zeros(slot_ring, "i4"),
        "notes": np.zeros(slot_ring, "i4"),
        "ready": np.zeros(con_ring, "i4"),
        "boards": np.zeros((boards, BOARD_WORDS), "i8"),
        "boards_free": np.arange(boards - 1, -1, -1, dtype="i4"),
        "lis": np.zeros(config.listeners, LISTENER),
        "queue": np.zeros(2 * con_ring, ENTRY),
        "heap": np.zeros(2 * con_ring, ENTRY),
        "stray": np.zeros(STRAYS, STRAY),
        "look": np.zeros(MAX_FRAME, "i4"),
        "seg": np.zeros(1, SEGMENT),
        "stat": np.zeros(1, STATISTICS),
        "dropped": np.zeros(len(REASONS), "i8"),
        "queue_hist": np.zeros(BUCKETS, "i8"),
        "close_hist": np.zeros(BUCKETS, "i8"),
    }
    t = Tcp(**arrays | (shared or {}))
    _fill(t)
    _set_queues(t, fifos)
    _set_constants(t.cfg[0], config)
    return t, keep


def _fill(t: Tcp) -> None:
    """Initial contents other than zero."""
    for name in ("slot", "board", "hash_next", "listener", "queue_at"):
        t.con[name] = -1
    for name in ("due", "next", "prev"):
        t.tmr[name] = -1
    for name in ("con", "listener", "pieces"):
        t.slot[name] = -1
    t.slots_free[: len(t.slot)] = np.arange(len(t.slot))


def _set_queues(t: Tcp, fifos: FifoMemory) -> None:
    """Sizes, masks and addresses."""
    values = {
        "connections": len(t.con), "slots": len(t.slot), "listeners": len(t.lis),
        "fifos_at": fifos.at, "fifo_stride": fifos.stride, "fifo_size": fifos.size,
        "ends_at": fifos.ends_at, "boards_at": t.boards.ctypes.data,
        "con_free": len(t.free), "slot_tail": len(t.slot), "slot_mask": len(t.slots_free) - 1,
        "con_mask": len(t.ready) - 1, "hash_mask": len(t.hash) - 1, "board_free": len(t.boards),
        "queue_mask": len(t.queue) - 1,
    }  # fmt: skip
    for name, value in values.items():
        t.cfg[0][name] = value


def _set_constants(cfg: Any, config: HostConfig) -> None:
    cfg["addr"], cfg["mask"] = packed_address(config.addr), packed_address(config.mask)
    for name in (
        "rto_init", "rto_min", "rto_max", "delack", "msl", "close_timeout", "keep_idle", "keep_interval",
    ):  # fmt: skip
        cfg[name] = nanoseconds(getattr(config, name))
    for name in (
        "mtu", "frame", "retries", "syn_retries", "keep_probes", "nagle", "sack", "timestamps", "pacing", "checksum", "ttl",
        "initial_window", "challenge_limit", "half_open_limit", "budget", "queue_limit", "trap",
    ):  # fmt: skip
        cfg[name] = getattr(config, name)
    cfg["wscale"] = config.offered_scale
    cfg["challenge_left"] = config.challenge_limit
    for field, switch in (("cc", CC), ("recovery", RECOVERY), ("policy", POLICY)):
        cfg[field] = switch[getattr(config, field)].value
    secret = hashlib.sha256(os.urandom(32) if config.seed is None else b"stackcore.tcp %d" % config.seed).digest()
    cfg["secret0"] = int.from_bytes(secret[:4], "little")
    cfg["secret1"] = int.from_bytes(secret[4:8], "little")
    cfg["next_port"] = FIRST_PORT + int.from_bytes(secret[8:10], "little") % PORTS
    cfg["ip_id"] = int.from_bytes(secret[10:12], "little")
