"""Initial sequence numbers (RFC 6528) and the connection table's hash, both keyed by the stack's secret.

Promise: ISN = M + F(4-tuple, secret), M a clock of 4 us ticks (RFC 9293 section 3.4.1). A later incarnation of a
connection starts above the earlier one; who does not know the secret cannot tell one connection's numbers from
another's, nor find 4-tuples that fall into one bucket. Nothing allocates, nothing depends on the machine's byte
order.

F is HalfSipHash-2-4 with a 64-bit key (Aumasson and Bernstein 2012; the 32-bit variant is in their reference code),
because 32-bit arithmetic is the same compiled and interpreted. One byte behind the tuple tells the two uses apart, so
that what a bucket's length may give away says nothing about sequence numbers. Doubtful: a key of 64 bits can be
searched by someone with a budget; RFC 6528 names MD5 with a key of any length. The secret lives as long as the
process.
"""

from __future__ import annotations

import stackcore.native  # noqa: F401  (before any kernel)
from stackcore.kernel import kernel

_FOR_ISN = 0
_FOR_TABLE = 1
_M32 = 0xFFFFFFFF


@kernel
def _round(v0, v1, v2, v3):
    v0 = (v0 + v1) & _M32
    v1 = ((v1 << 5) & _M32 | (v1 >> 27)) ^ v0
    v0 = (v0 << 16) & _M32 | (v0 >> 16)
    v2 = (v2 + v3) & _M32
    v3 = ((v3 << 8) & _M32 | (v3 >> 24)) ^ v2
    v0 = (v0 + v3) & _M32
    v3 = ((v3 << 7) & _M32 | (v3 >> 25)) ^ v0
    v2 = (v2 + v1) & _M32
    v1 = ((v1 << 13) & _M32 | (v1 >> 19)) ^ v2
    v2 = (v2 << 16) & _M32 | (v2 >> 16)
    return v0, v1, v2, v3


@kernel
def halfsiphash13(key0, key1, word0, word1, word2, last):
    """HalfSipHash-2-4, 32 bits, of the 13 bytes word0, word1, word2 (little-endian 32-bit words) and ``last`` (a byte)."""
    v0 = key0
    v1 = key1
    v2 = 0x6C796765 ^ key0
    v3 = 0x74656462 ^ key1
    for i in range(4):
        if i == 0:
            word = word0
        elif i == 1:
            word = word1
        elif i == 2:
            word = word2
        else:
            word = 13 << 24 | last
        v3 ^= word
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v1 ^ v3


@kernel
def _keyed(cfg, laddr, lport, raddr, rport, use):
    """Ports may come as a record's int32, in which a shift would overflow without the compiler."""
    ports = int(lport) << 16 | int(rport)
    return halfsiphash13(int(cfg["secret0"]), int(cfg["secret1"]), int(laddr), int(raddr), ports, use)


@kernel
def isn(cfg, laddr, lport, raddr, rport, now):
    """The 32-bit initial sequence number for this 4-tuple at ``now`` (ns)."""
    return (now // 4000 + _keyed(cfg, laddr, lport, raddr, rport, _FOR_ISN)) & _M32


@kernel
def flow_hash(cfg, laddr, lport, raddr, rport):
    """32 bits that choose the 4-tuple's bucket."""
    return _keyed(cfg, laddr, lport, raddr, rport, _FOR_TABLE)
