"""What one TCP stack is configured with; checked when it is made, so that nobody behind it meets an impossible value.

Every constant of the protocol stands here once, with its source, and can be changed per stack. Times are seconds here
and nanoseconds inside; sizes are bytes. Names of policies (``cc``, ``recovery``, ``policy``) are looked up in
:mod:`stackcore.registry` when the stack is made, because plug-ins may add to them until then.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

from stackcore.tcp.state import MAX_FRAME, S

MAX_CONNECTIONS = 1 << 22
MIN_MTU, MAX_MTU = 128, 65535
"""The IP and TCP headers take up to 80 bytes with all options, and the total length is a 16-bit field (RFC 791)."""
MIN_FIFO, MAX_FIFO = 256, 1 << 30
"""A window of 2**30 - 1 is the most that RFC 7323 section 2.3 allows."""
MAX_SCALE = 14
CONNECTIONS_DEFAULT = 64


def packed_address(text: str) -> int:
    """An IPv4 address in dotted form as a number; ValueError otherwise.

    >>> hex(packed_address("10.0.0.1"))
    '0xa000001'
    """
    return int(ipaddress.IPv4Address(text))


def dotted_address(number: int) -> str:
    """The other way round."""
    return str(ipaddress.IPv4Address(number))


def nanoseconds(seconds: float) -> int:
    """A time of the caller's clock as the stack keeps it, rounded to the nearest nanosecond."""
    return round(seconds * S)


@dataclass(frozen=True)
class HostConfig:
    """One stack. Raises ValueError naming the field, what is wrong with it and what would be right."""

    addr: str = "10.0.0.1"
    """Own address; ``0.0.0.0`` accepts packets for any (a listener then answers for the address it was asked at)."""
    mask: str = "255.255.255.0"
    mtu: int = 1500
    """Largest IP datagram, bytes; the MSS that is announced follows (RFC 6691)."""
    connections: int = CONNECTIONS_DEFAULT
    """Records of the protocol: every state but CLOSED and LISTEN, TIME-WAIT included."""
    slots: int = 0
    """Pairs of byte fifos, one per connection that an owner above has or will accept; 0: as many as connections."""
    listeners: int = 16
    fifo: int = 65536
    """Bytes of each of a slot's two fifos, a power of two; the receive window is never larger."""
    seed: int | None = None
    """What initial sequence numbers, the hash table's key and ephemeral ports are derived from (RFC 6528 section 3, RFC
    6056). None: from the operating system, as on any real wire; a number makes a run repeatable, and its numbers
    predictable."""

    rto_init: float = 1.0
    """RFC 6298 section 2, rule 2.1."""
    rto_min: float = 0.2
    """RFC 6298 rule 2.4 says 1 s, SHOULD; every stack in use has 0.2 s or less, and so has the delayed ACK below."""
    rto_max: float = 60.0
    """RFC 6298 rule 2.5: at least 60 s."""
    retries: int = 8
    """Retransmission timeouts in a row until the connection is given up; with the doubling RTO about the 100 s that RFC
    9293 section 3.8.3 (R2) asks for."""
    syn_retries: int = 5
    """The same for a SYN or SYN-ACK. RFC 9293 section 3.8.3 asks for 3 minutes; 5 give 63 s, as most stacks do."""
    delack: float = 0.040
    """RFC 9293 section 3.8.6.3: below 0.5 s, and at least every second full-sized segment."""
    msl: float = 5.0
    """TIME-WAIT lasts two of these. RFC 9293 section 3.4.2 says 2 minutes; VPP waits 10 s, and so does this."""
    close_timeout: float = 60.0
    """How long a connection may linger that its owner has closed and whose peer does not finish (FIN-WAIT-2 above all)."""
    keep_idle: float = 7200.0
    """RFC 9293 section 3.8.4: no less than two hours by default; keep-alive itself is off until asked for."""
    keep_interval: float = 75.0
    keep_probes: int = 9
    initial_window: int = 10
    """Segments, RFC 6928."""
    challenge_limit: int = 100
    """Challenge ACKs per second, RFC 5961 section 7."""
    half_open_limit: int = 256
    """Connections in SYN-RECEIVED; a further SYN is dropped (RFC 4987 section 3, the bounded table)."""

    nagle: bool = True
    """RFC 9293 section 3.7.4; a socket turns it off with TCP_NODELAY."""
    sack: bool = True
    """RFC 2018 and 6675."""
    timestamps: bool = True
    """RFC 7323 section 3, and with it PAWS."""
    wscale: int | None = -1
    """Window scale to offer, 0..14 (RFC 7323 section 2); -1: the smallest that can announce the whole fifo; None: the
    option is not offered."""
    pacing: bool = False
    ttl: int = 64
    """IP time to live of what is sent (RFC 9293 section 3.9.2, MUST-49; 64 is RFC 1700's default)."""
    checksum: bool = True
    """Verify checksums of what comes in; False only where a wire vouches for them."""
    cc: str = "cubic"
    """Congestion control, RFC 9438 or ``newreno`` (RFC 5681, 6582)."""

    frame: int = MAX_FRAME
    """Packets per step of each node at most."""
    budget: int = MAX_FRAME
    """Segments that one retransmit pass sends at most."""
    recovery: str = "generation"
    """What the retransmit pass does about entries whose connection is gone (D1)."""
    policy: str = "fifo"
    """Order of the retransmit queue."""
    queue_limit: int = 0
    """Entries in the retransmit queue; 0: no limit but its size."""
    trap: bool = False
    """Count an access to a freed connection instead of making it; for simulations."""

    def __post_init__(self) -> None:
        self._check_addresses()
        self._check_ranges()
        if self.fifo & (self.fifo - 1):
            raise ValueError(f"fifo must be a power of two, not {self.fifo}")
        if not self.rto_min <= self.rto_init <= self.rto_max:
            raise ValueError(
                f"rto_min <= rto_init <= rto_max must hold, not {self.rto_min:g}, {self.rto_init:g}, {self.rto_max:g}"
            )
        if self.wscale is not None and not -1 <= self.wscale <= MAX_SCALE:
            raise ValueError(f"wscale must be 0..{MAX_SCALE}, -1 (by the fifo's size) or None (not offered), not {self.wscale}")

    def _check_addresses(self) -> None:
        for name in ("addr", "mask"):
            try:
                packed_address(getattr(self, name))
            except ValueError:
                raise ValueError(f"{name} must be an IPv4 address such as 10.0.0.1, not {getattr(self, name)!r}") from None
        inverse = ~packed_address(self.mask) & 0xFFFFFFFF
        if inverse & (inverse + 1):
            raise ValueError(f"mask must be ones followed by zeros such as 255.255.255.0, not {self.mask}")
        if packed_address(self.addr) >= packed_address("224.0.0.0"):
            raise ValueError(f"addr must be a unicast address, not {self.addr}")

    def _check_ranges(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{name} must be {low:g}..{high:g}, not {value!r}")
            if name not in _TIMES and not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number, not {value!r}")

    @property
    def slot_count(self) -> int:
        """``slots``, or as many as there are connections."""
        return self.slots or self.connections

    @property
    def offered_scale(self) -> int:
        """The window scale that a SYN offers, -1: none."""
        if self.wscale is None:
            return -1
        if self.wscale >= 0:
            return self.wscale
        scale = 0
        while 65535 << scale < self.fifo and scale < MAX_SCALE:
            scale += 1
        return scale


_TIMES = ("rto_init", "rto_min", "rto_max", "delack", "msl", "close_timeout", "keep_idle", "keep_interval")
_DAY = 86400.0
_RANGES: dict[str, tuple[float, float]] = {
    "mtu": (MIN_MTU, MAX_MTU),
    "ttl": (1, 255),
    "connections": (1, MAX_CONNECTIONS),
    "slots": (0, MAX_CONNECTIONS),
    "listeners": (1, 65536),
    "fifo": (MIN_FIFO, MAX_FIFO),
    "rto_init": (0.001, _DAY),
    "rto_min": (0.001, _DAY),
    "rto_max": (0.001, _DAY),
    "retries": (1, 64),
    "syn_retries": (1, 64),
    "delack": (0.0, 0.5),
    "msl": (0.001, _DAY),
    "close_timeout": (0.001, _DAY),
    "keep_idle": (0.001, 365 * _DAY),
    "keep_interval": (0.001, _DAY),
    "keep_probes": (1, 64),
    "initial_window": (1, 1000),
    "challenge_limit": (0, 1 << 30),
    "half_open_limit": (1, MAX_CONNECTIONS),
    "frame": (1, MAX_FRAME),
    "budget": (1, MAX_FRAME),
    "queue_limit": (0, 1 << 30),
}
