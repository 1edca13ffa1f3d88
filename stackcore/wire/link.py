"""The link model: one direction of a wire, with a bottleneck, a distance, and everything that goes wrong on the way.

A packet meets, in this order,

1. the *queue*: it is dropped when ``queue`` packets are waiting or being transmitted (drop-tail, RFC 2309's term);
2. the *transmitter*: ``rate`` bytes per second, one packet after the other, exact over a busy period;
3. *burst loss* (the Gilbert-Elliott chain: before each packet a good state turns bad with ``burst_start``, a bad one good
   with ``burst_end``; in the bad state a packet is lost with ``burst_loss``), then independent *loss*: what is lost here has
   used the bottleneck all the same;
4. *duplication*: a second copy, which uses no bandwidth;
5. for each copy the *distance*: ``delay``, plus a uniform 0..``jitter``, plus, with probability ``reorder``,
   ``reorder_delay`` (negative: it overtakes; it never arrives before it left); then *corruption* of one random bit.

Packets arrive in the order of their times, equal times in the order sent. Jitter reorders, as in Linux's netem.

Promise: deterministic. The caller's clock (ns, never going back) and the seed decide everything, compiled or not, and each
feature draws from its own stream. Nothing is lost unaccounted:
``sent + duplicated = delivered + lost + burst + queue_full + bad_length + pool_full + in flight``.
Memory is bounded: ``capacity`` packets are in flight at most, the next one is dropped and counted as ``pool_full``, which in
an experiment means that the pool was chosen too small.

How. A packet is copied in at :func:`link_send` and out at :func:`link_deliver`. Buffers are taken last freed, first used,
so a short link lives in the cache, which costs less than handing frames of a long circular pool around without a copy.
Packets that arrive no earlier than all before them stand in a circular queue; only those that overtake go to a binary heap.
Not thread safe; one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stackcore.bundle import Bundle
from stackcore.kernel import kernel
from stackcore.native import memcpy
from stackcore.tcp.state import HEADROOM, S
from stackcore.wire.sfc32 import below, hit, new_streams, threshold

_LOSS, _BURST, _DUPLICATE, _REORDER, _JITTER, _CORRUPT = range(6)
_STREAMS = 6
_JITTER_BOUND = 1 << 31
"""2.1 s in ns: a 32-bit random number times it must fit into 63 bits."""
_FAR = 1 << 61
"""Bound of times, ns (73 years), and of counts: a sum of two still fits into 63 bits."""
_MOST = 1 << 24
"""Packets."""
_PROBABILITIES = ("loss", "burst_start", "burst_end", "burst_loss", "reorder", "duplicate", "corrupt")

CONFIG = np.dtype(
    [
        (name, "i8")
        for name in (
            "rate", "delay", "jitter", "loss", "burst_start", "burst_end", "burst_loss", "reorder", "reorder_delay",
            "duplicate", "corrupt", "queue", "mtu",
            # state
            "busy_until", "remainder", "bad", "seq", "last_seq",
            "departs_head", "departs_tail", "fifo_head", "fifo_tail", "heap_size", "free", "pool_at", "pool_stride",
        )
    ]
)  # fmt: skip
"""Probabilities as thresholds of 32 bits. ``remainder``: 1/rate ns that the transmitter's time has been rounded down by."""

PACKET = np.dtype([("due", "i8"), ("seq", "i8"), ("length", "i8")])

STATISTICS = np.dtype(
    [
        (name, "i8")
        for name in (
            "sent", "delivered", "lost", "burst", "duplicated", "corrupted", "reordered", "queue_full", "bad_length",
            "pool_full", "out_of_order", "bytes_sent", "bytes_delivered",
        )
    ]
)  # fmt: skip
"""``sent``: given to the link. ``lost``, ``burst``: taken by independent and by burst loss. ``reordered``: copies that got the
extra delay. ``out_of_order``: delivered after one that was sent later, for whatever reason."""


class Link(Bundle):
    """One direction of a wire, for kernels. All arrays are one-dimensional unless said otherwise."""

    cfg: np.ndarray[Any, Any]
    """CONFIG[1]"""
    stat: np.ndarray[Any, Any]
    """STATISTICS[1]"""
    rng: np.ndarray[Any, Any]
    """int64[streams, 4]"""
    pool: np.ndarray[Any, Any]
    """uint8[capacity, stride]: the packets in flight"""
    packets: np.ndarray[Any, Any]
    """PACKET[capacity]: one for each row of the pool"""
    free: np.ndarray[Any, Any]
    """int32[capacity]: a stack of unused rows, ``cfg["free"]`` of them"""
    fifo: np.ndarray[Any, Any]
    """int32[power of two]: rows whose times do not go back"""
    heap: np.ndarray[Any, Any]
    """int32[capacity]: rows that overtake, earliest first"""
    departs: np.ndarray[Any, Any]
    """int64[power of two]: when the packets in queue and transmitter will have left, ns"""


@dataclass(frozen=True)
class LinkConfig:
    """What a link does. Times in ns, probabilities 0..1. ValueError when a value makes no sense."""

    rate: int = 0
    """Bytes per second; 0: no bottleneck, and then no queue."""
    delay: int = 0
    jitter: int = 0
    loss: float = 0.0
    burst_start: float = 0.0
    burst_end: float = 1.0
    burst_loss: float = 1.0
    reorder: float = 0.0
    reorder_delay: int = 0
    duplicate: float = 0.0
    corrupt: float = 0.0
    queue: int = 0
    """Packets waiting or being transmitted; 0: no limit but the capacity."""
    capacity: int = 8192
    """Packets in flight, for memory's sake."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"a link's {name} is a probability, 0..1, not {getattr(self, name)}")
        bounds = {"rate": _FAR, "delay": _FAR, "jitter": _JITTER_BOUND, "queue": _MOST + 1}
        for name, bound in bounds.items():
            if not 0 <= getattr(self, name) < bound:
                raise ValueError(f"a link's {name} is 0..{bound - 1}, not {getattr(self, name)}")
        if not -_FAR < self.reorder_delay < _FAR:
            raise ValueError(f"a link's reorder_delay is less than {_FAR} ns either way, not {self.reorder_delay}")
        if not 1 <= self.capacity <= _MOST:
            raise ValueError(f"a link's capacity is 1..{_MOST} packets, not {self.capacity}")


def new_link(config: LinkConfig, mtu: int = 1500) -> Link:
    """An empty link for datagrams of 1..``mtu`` bytes; ``capacity`` times that much memory."""
    if not 1 <= mtu <= 65535:
        raise ValueError(f"a datagram has 1..65535 bytes, the MTU cannot be {mtu}")
    cfg = np.zeros(1, CONFIG)
    for name in ("rate", "delay", "jitter", "reorder_delay", "queue"):
        cfg[name] = getattr(config, name)
    for name in _PROBABILITIES:
        cfg[name] = threshold(getattr(config, name))
    pool = np.zeros((config.capacity, -(-mtu // 64) * 64), "u1")
    cfg["mtu"], cfg["free"] = mtu, config.capacity
    cfg["pool_at"], cfg["pool_stride"] = pool.ctypes.data, pool.shape[1]
    return Link(
        cfg=cfg,
        stat=np.zeros(1, STATISTICS),
        rng=new_streams(config.seed, _STREAMS),
        pool=pool,
        packets=np.zeros(config.capacity, PACKET),
        free=np.arange(config.capacity - 1, -1, -1, dtype="i4"),
        fifo=np.zeros(_power_of_two(config.capacity), "i4"),
        heap=np.zeros(config.capacity, "i4"),
        departs=np.zeros(_power_of_two(config.queue + 1), "i8"),
    )


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def link_statistics(link: Link) -> dict[str, int]:
    """The counters by name, and ``in_flight``."""
    counts = {name: int(link.stat[0][name]) for name in STATISTICS.names or ()}
    return counts | {"in_flight": len(link.free) - int(link.cfg[0]["free"])}


# ---- in ----


@kernel
def link_send(link, buf, i, length, now):
    """Give the datagram in row ``i`` of ``buf`` (uint8[rows, stride], in C order, IP header at column HEADROOM) to the link.

    1 when at least one copy is under way, 0 when it was dropped; the reason is counted. The row can be used again at once.
    """
    cfg, stat = link.cfg[0], link.stat[0]
    stat["sent"] += 1
    if length < 1 or length > cfg["mtu"]:
        stat["bad_length"] += 1
        return 0
    stat["bytes_sent"] += length
    left = int(now)
    if cfg["rate"] > 0:
        left = transmit(link, length, now)
        if left < 0:
            stat["queue_full"] += 1
            return 0
    if is_lost(link):
        return 0
    at = buf.ctypes.data + i * buf.shape[1] + HEADROOM
    copies = launch(link, at, length, left)
    if hit(link.rng, _DUPLICATE, cfg["duplicate"]):
        stat["duplicated"] += 1
        copies += launch(link, at, length, left)
    return 1 if copies > 0 else 0


@kernel
def transmit(link, length, now):
    """When the packet's last byte will have left, or -1 when the queue is full."""
    cfg = link.cfg[0]
    mask = len(link.departs) - 1
    if cfg["queue"] > 0:
        while cfg["departs_head"] != cfg["departs_tail"] and link.departs[cfg["departs_head"] & mask] <= now:
            cfg["departs_head"] += 1
        if cfg["departs_tail"] - cfg["departs_head"] >= cfg["queue"]:
            return -1
    start = int(cfg["busy_until"])
    work = length * S
    if start < now:
        start = int(now)
    else:
        work += int(cfg["remainder"])
    left = start + work // int(cfg["rate"])
    cfg["remainder"] = work % int(cfg["rate"])
    cfg["busy_until"] = left
    if cfg["queue"] > 0:
        link.departs[cfg["departs_tail"] & mask] = left
        cfg["departs_tail"] += 1
    return left


@kernel
def is_lost(link):
    """Whether the air takes the packet; counted."""
    cfg, stat = link.cfg[0], link.stat[0]
    if cfg["burst_start"] > 0:
        if hit(link.rng, _BURST, cfg["burst_end"] if cfg["bad"] != 0 else cfg["burst_start"]):
            cfg["bad"] = 1 - cfg["bad"]
        if cfg["bad"] != 0 and hit(link.rng, _BURST, cfg["burst_loss"]):
            stat["burst"] += 1
            return True
    if hit(link.rng, _LOSS, cfg["loss"]):
        stat["lost"] += 1
        return True
    return False


@kernel
def launch(link, at, length, left):
    """One copy of the packet at address ``at`` goes on its way; 0 when the pool has no room for it."""
    cfg, stat = link.cfg[0], link.stat[0]
    due = left + int(cfg["delay"])
    if cfg["jitter"] > 0:
        due += below(link.rng, _JITTER, int(cfg["jitter"]) + 1)
    late = hit(link.rng, _REORDER, cfg["reorder"])
    if late:
        due = max(due + int(cfg["reorder_delay"]), left)
    if cfg["free"] == 0:
        stat["pool_full"] += 1
        return 0
    cfg["free"] -= 1
    row = int(link.free[cfg["free"]])
    memcpy(cfg["pool_at"] + row * cfg["pool_stride"], at, length)
    if late:
        stat["reordered"] += 1
    if hit(link.rng, _CORRUPT, cfg["corrupt"]):
        stat["corrupted"] += 1
        bit = below(link.rng, _CORRUPT, 8 * length)
        link.pool[row, bit >> 3] ^= 1 << (bit & 7)
    packet = link.packets[row]
    packet["due"] = due
    packet["seq"] = cfg["seq"]
    packet["length"] = length
    cfg["seq"] += 1
    enqueue(link, row, due)
    return 1


@kernel
def enqueue(link, row, due):
    """Behind the last of the circular queue when that keeps its order, else into the heap."""
    cfg = link.cfg[0]
    mask = len(link.fifo) - 1
    tail = int(cfg["fifo_tail"])
    if tail == cfg["fifo_head"] or due >= link.packets[link.fifo[(tail - 1) & mask]]["due"]:
        link.fifo[tail & mask] = row
        cfg["fifo_tail"] = tail + 1
        return
    hole = int(cfg["heap_size"])
    cfg["heap_size"] = hole + 1
    while hole > 0 and precedes(link.packets, row, link.heap[(hole - 1) >> 1]):
        link.heap[hole] = link.heap[(hole - 1) >> 1]
        hole = (hole - 1) >> 1
    link.heap[hole] = row


@kernel
def precedes(packets, a, b):
    """Whether row ``a`` arrives before row ``b``."""
    if packets[a]["due"] != packets[b]["due"]:
        return packets[a]["due"] < packets[b]["due"]
    return packets[a]["seq"] < packets[b]["seq"]


# ---- out ----


@kernel
def first(link):
    """The row that arrives next, -1: nothing is under way."""
    cfg = link.cfg[0]
    row = -1
    if cfg["fifo_head"] != cfg["fifo_tail"]:
        row = int(link.fifo[cfg["fifo_head"] & (len(link.fifo) - 1)])
    if cfg["heap_size"] > 0 and (row < 0 or precedes(link.packets, link.heap[0], row)):
        row = int(link.heap[0])
    return row


@kernel
def pop_heap(link):
    """Take the heap's first row out: its last one sinks from the top to where it belongs."""
    cfg, heap = link.cfg[0], link.heap
    size = int(cfg["heap_size"]) - 1
    cfg["heap_size"] = size
    row = int(heap[size])
    hole = 0
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        if child + 1 < size and precedes(link.packets, heap[child + 1], heap[child]):
            child += 1
        if not precedes(link.packets, heap[child], row):
            break
        heap[hole] = heap[child]
        hole = child
    heap[hole] = row


@kernel
def link_soonest(link):
    """When :func:`link_deliver` has something to do next, ns; -1: never, nothing is under way."""
    row = first(link)
    return int(link.packets[row]["due"]) if row >= 0 else -1


@kernel
def link_deliver(link, buf, lengths, used, limit, now):
    """Move what has arrived until ``now`` into rows ``used``, ``used`` + 1, ... of ``buf`` and ``lengths``, below ``limit``.

    Returns the new ``used``. Call again when that is ``limit``: there may be more. ``buf`` as in :func:`link_send`, its rows
    have room for HEADROOM and the link's MTU.
    """
    cfg, stat = link.cfg[0], link.stat[0]
    base = buf.ctypes.data + HEADROOM
    stride = buf.shape[1]
    while used < limit:
        row = first(link)
        if row < 0 or link.packets[row]["due"] > now:
            break
        if cfg["heap_size"] > 0 and row == link.heap[0]:
            pop_heap(link)
        else:
            cfg["fifo_head"] += 1
        packet = link.packets[row]
        length = int(packet["length"])
        memcpy(base + used * stride, cfg["pool_at"] + row * cfg["pool_stride"], length)
        lengths[used] = length
        used += 1
        link.free[cfg["free"]] = row
        cfg["free"] += 1
        stat["delivered"] += 1
        stat["bytes_delivered"] += length
        if packet["seq"] < cfg["last_seq"]:
            stat["out_of_order"] += 1
        else:
            cfg["last_seq"] = packet["seq"]
    return used
