"""Sequence numbers: the wire's 32 bits and the 64-bit numbers used everywhere else.

Promise: inside the stack a sequence number never wraps, so ``<`` means "earlier". RFC 9293 section 3.4 compares
modulo 2**32 instead, which every comparison has to get right; here it is got right once. A connection starts at 2**32
plus its 32-bit initial number, so that the numbers just below it are positive, too; 2**63 bytes are out of reach.

Doubtful: a number more than 2**31 away from ``near`` is taken for its neighbour. That is RFC 9293's own limit:
windows are below 2**30 (RFC 7323 section 2.3), and timestamps tell older duplicates.
"""

from __future__ import annotations

import stackcore.native  # noqa: F401  (before any kernel)
from stackcore.kernel import kernel


@kernel
def wrap(x):
    """The 32 bits of ``x`` that go on the wire."""
    return x & 0xFFFFFFFF


@kernel
def unwrap(number, near):
    """The 64-bit number whose low 32 bits are ``number`` and which lies in [near - 2**31, near + 2**31)."""
    return near - 0x80000000 + ((number - near + 0x80000000) & 0xFFFFFFFF)
