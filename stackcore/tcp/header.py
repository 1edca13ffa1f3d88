"""IPv4 and TCP headers: a datagram in a frame row becomes a SEGMENT record, and the other way round.

Promise: whatever the bytes are, nothing outside the datagram is read and nothing outside its row is written; a datagram
that :func:`parse` accepts is whole, unfragmented, for us, from a possible sender, and its two checksums and every option
length were right. A frame is ``u1[rows, stride]`` with the IP header at column HEADROOM; ``stride`` is a multiple of 4,
so that headers, which are made of 32-bit words, lie on word boundaries when the frame does.

The checksum adds 32-bit words in the machine's byte order and swaps the two bytes of the folded sum once (RFC 1071
section 2 (B)): the compiler makes vector additions of it. Bytes are loaded as signed 64-bit numbers, because Numba takes
``int()`` of an unsigned byte for unsigned, and unsigned with signed for a float.

Doubtful: IP options are skipped, not obeyed (a source route is not followed, nor answered along its reverse), and the
urgent pointer is neither delivered nor sent.
"""

from __future__ import annotations

import sys

import numpy as np

import stackcore.native  # noqa: F401  (kernels below)
from stackcore.kernel import kernel
from stackcore.tcp.state import (
    D_FRAGMENT,
    D_IP_CHECKSUM,
    D_LENGTH,
    D_NOT_OURS,
    D_OPTIONS,
    D_PROTOCOL,
    D_SHORT,
    D_SOURCE,
    D_TCP_CHECKSUM,
    D_VERSION,
    HEADROOM,
    MAX_SACK,
    SYN,
)

IP_BYTES, TCP_BYTES = 20, 20
IP_AT, TCP_AT = HEADROOM, HEADROOM + IP_BYTES
"""Columns of the two headers in a datagram that we send."""
PROTOCOL_TCP = 6
DONT_FRAGMENT = 0x4000
OPTION_END, OPTION_NOP, OPTION_MSS, OPTION_WSCALE, OPTION_SACK_OK, OPTION_SACK, OPTION_TS = 0, 1, 2, 3, 4, 5, 8
MAX_WSCALE = 14
"""RFC 7323 section 2.3: a larger shift count is taken for this one."""
MAX_OPTIONS = 40

_SWAP = sys.byteorder == "little"


@kernel
def get8(buf, i, at):
    return int(np.int64(buf[i, at]))


@kernel
def get16(buf, i, at):
    return int(np.int64(buf[i, at]) << 8 | np.int64(buf[i, at + 1]))


@kernel
def get32(buf, i, at):
    return get16(buf, i, at) << 16 | get16(buf, i, at + 2)


@kernel
def put8(buf, i, at, value):
    buf[i, at] = value & 0xFF


@kernel
def put16(buf, i, at, value):
    buf[i, at] = (value >> 8) & 0xFF
    buf[i, at + 1] = value & 0xFF


@kernel
def put32(buf, i, at, value):
    put16(buf, i, at, value >> 16)
    put16(buf, i, at + 2, value)


@kernel
def checksum(buf, i, at, n, start):
    """The Internet checksum (RFC 1071) of ``n`` bytes from column ``at`` of row ``i``: what goes into a header's field.

    ``start`` is a sum of 16-bit numbers that are not in the row (the pseudo header's). Bytes that hold their own right
    checksum give 0. The caller answers for ``0 <= at`` and ``at + n <= stride``.
    """
    whole = n & -4
    total = int(np.int64(buf[i, at : at + whole].view(np.uint32).sum()))
    total = (total & 0xFFFF) + ((total >> 16) & 0xFFFF) + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    if _SWAP:
        total = (total & 0xFF) << 8 | total >> 8
    total += start
    at += whole
    if n & 2:
        total += get16(buf, i, at)
        at += 2
    if n & 1:
        total += get8(buf, i, at) << 8
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@kernel
def pseudo(src, dst, length):
    """Sum of the pseudo header (RFC 9293 section 3.1) for ``length`` bytes of TCP header and data."""
    return (src >> 16) + (src & 0xFFFF) + (dst >> 16) + (dst & 0xFFFF) + PROTOCOL_TCP + length


@kernel
def possible_sender(cfg, src, dst):
    """1 unless ``src`` can be no single other host's address (RFC 1122 section 3.2.1.3, RFC 9293 MUST-63).

    Not "this" network, multicast, or broadcast; nor our own address, which a stranger uses to have us answer
    ourselves; from a loopback address to itself is a host that talks to itself.
    """
    if src >> 24 == 0 or src >= 0xE0000000:
        return 0
    if src == dst and src >> 24 != 127:
        return 0
    host = ~int(cfg["mask"]) & 0xFFFFFFFF
    if int(cfg["addr"]) != 0 and host > 1 and (src ^ int(cfg["addr"])) & ~host == 0:
        return 1 if src & host != host and src & host != 0 else 0  # a broadcast on our own net, today's or 4.2BSD's
    return 1


@kernel
def parse_sack(buf, i, at, length, seg):
    """The blocks of a SACK option whose kind is at ``at`` (RFC 2018 section 3); not whole blocks: no option."""
    if length & 7 != 2 or length < 10:
        return
    n = min((length - 2) >> 3, MAX_SACK)
    seg["sacks"] = n
    seg["l0"] = get32(buf, i, at + 2)
    seg["r0"] = get32(buf, i, at + 6)
    if n > 1:
        seg["l1"] = get32(buf, i, at + 10)
        seg["r1"] = get32(buf, i, at + 14)
    if n > 2:
        seg["l2"] = get32(buf, i, at + 18)
        seg["r2"] = get32(buf, i, at + 22)
    if n > 3:
        seg["l3"] = get32(buf, i, at + 26)
        seg["r3"] = get32(buf, i, at + 30)


@kernel
def parse_options(buf, i, at, end, seg):
    """-1 when every option between the columns ``at`` and ``end`` has a possible length, else D_OPTIONS (MUST-7).

    Unknown options are skipped (MUST-6), and so are known ones of another length than theirs. MSS, window scale and
    SACK-permitted count only on a SYN (RFC 9293 section 3.2, 7323 section 2.2, 2018 section 2).
    """
    syn = int(seg["flags"]) & SYN
    while at < end:
        kind = get8(buf, i, at)
        if kind == OPTION_END:
            return -1
        if kind == OPTION_NOP:
            at += 1
            continue
        if at + 1 >= end:
            return D_OPTIONS
        length = get8(buf, i, at + 1)
        if length < 2 or at + length > end:
            return D_OPTIONS
        if kind == OPTION_TS and length == 10:
            seg["has_ts"] = 1
            seg["tsval"] = get32(buf, i, at + 2)
            seg["tsecr"] = get32(buf, i, at + 6)
        elif kind == OPTION_SACK:
            parse_sack(buf, i, at, length, seg)
        elif syn != 0:
            if kind == OPTION_MSS and length == 4:
                seg["mss"] = get16(buf, i, at + 2)
            elif kind == OPTION_WSCALE and length == 3:
                seg["wscale"] = min(get8(buf, i, at + 2), MAX_WSCALE)
            elif kind == OPTION_SACK_OK and length == 2:
                seg["sack_ok"] = 1
        at += length
    return -1


@kernel
def parse_ip(cfg, buf, i, length, seg):
    """The IP header (RFC 791): bytes of its header, or a negative number, the reason D_* being ``-1 - it``."""
    at = HEADROOM
    if length < IP_BYTES:
        return -1 - D_SHORT
    if get8(buf, i, at) >> 4 != 4:
        return -1 - D_VERSION
    header = (get8(buf, i, at) & 15) << 2
    total = get16(buf, i, at + 2)
    if header < IP_BYTES or header > total or total > length or HEADROOM + total > buf.shape[1]:
        return -1 - D_LENGTH
    if checksum(buf, i, at, header, 0) != 0:
        return -1 - D_IP_CHECKSUM
    if get16(buf, i, at + 6) & 0x3FFF != 0:  # more fragments, or not the first
        return -1 - D_FRAGMENT
    if get8(buf, i, at + 9) != PROTOCOL_TCP:
        return -1 - D_PROTOCOL
    src = get32(buf, i, at + 12)
    dst = get32(buf, i, at + 16)
    if dst >= 0xE0000000 or dst == 0 or (int(cfg["addr"]) != 0 and dst != int(cfg["addr"])):
        return -1 - D_NOT_OURS
    if possible_sender(cfg, src, dst) == 0:
        return -1 - D_SOURCE
    seg["src"] = src
    seg["dst"] = dst
    return header


@kernel
def parse(cfg, buf, i, length, seg):
    """Row ``i`` holds a datagram of ``length`` bytes (what follows its total length is padding). Fill ``seg``.

    -1 when it is a good TCP segment, else why not (D_*); ``seg`` is then of no use. ``cfg`` is a CONFIG record: ``addr``
    (0: any), ``mask`` (of our net, 0: unknown), ``checksum`` (0: somebody else has verified TCP's).
    """
    header = parse_ip(cfg, buf, i, length, seg)
    if header < 0:
        return -1 - header
    at = HEADROOM + header
    size = get16(buf, i, HEADROOM + 2) - header
    if size < TCP_BYTES:
        return D_SHORT
    offset = (get8(buf, i, at + 12) >> 4) << 2
    if offset < TCP_BYTES or offset > size:
        return D_LENGTH
    if cfg["checksum"] != 0 and checksum(buf, i, at, size, pseudo(int(seg["src"]), int(seg["dst"]), size)) != 0:
        return D_TCP_CHECKSUM
    seg["sport"] = get16(buf, i, at)
    seg["dport"] = get16(buf, i, at + 2)
    seg["seq"] = get32(buf, i, at + 4)
    seg["ack"] = get32(buf, i, at + 8)
    seg["flags"] = get8(buf, i, at + 13) & 0x3F
    seg["wnd"] = get16(buf, i, at + 14)
    seg["data"] = at + offset
    seg["len"] = size - offset
    seg["mss"] = 0
    seg["wscale"] = -1
    seg["sack_ok"] = 0
    seg["has_ts"] = 0
    seg["tsval"] = 0
    seg["tsecr"] = 0
    seg["sacks"] = 0
    if offset == TCP_BYTES:
        return -1
    return parse_options(buf, i, at + TCP_BYTES, at + offset, seg)


@kernel
def put_header(buf, i, src, dst, sport, dport, seq, ack, flags, wnd, ip_id):
    """Write both headers but for what :func:`finish` knows. Numbers are cut to their fields (``seq``: low 32 bits)."""
    put32(buf, i, IP_AT, 0x45000000)
    put16(buf, i, IP_AT + 4, ip_id)
    put16(buf, i, IP_AT + 6, DONT_FRAGMENT)
    put8(buf, i, IP_AT + 9, PROTOCOL_TCP)
    put16(buf, i, IP_AT + 10, 0)
    put32(buf, i, IP_AT + 12, src)
    put32(buf, i, IP_AT + 16, dst)
    put16(buf, i, TCP_AT, sport)
    put16(buf, i, TCP_AT + 2, dport)
    put32(buf, i, TCP_AT + 4, seq)
    put32(buf, i, TCP_AT + 8, ack)
    put8(buf, i, TCP_AT + 13, flags)
    put16(buf, i, TCP_AT + 14, wnd)
    put32(buf, i, TCP_AT + 16, 0)  # checksum; urgent pointer


# Options: each writer appends to the ``options`` bytes that are there (a multiple of 4, as is its result).


@kernel
def option_mss(buf, i, options, mss):
    put32(buf, i, TCP_AT + TCP_BYTES + options, OPTION_MSS << 24 | 4 << 16 | mss & 0xFFFF)
    return options + 4


@kernel
def option_wscale(buf, i, options, shift):
    put32(buf, i, TCP_AT + TCP_BYTES + options, OPTION_NOP << 24 | OPTION_WSCALE << 16 | 3 << 8 | shift & 0xFF)
    return options + 4


@kernel
def option_sack_ok(buf, i, options):
    put32(buf, i, TCP_AT + TCP_BYTES + options, OPTION_NOP << 24 | OPTION_NOP << 16 | OPTION_SACK_OK << 8 | 2)
    return options + 4


@kernel
def option_ts(buf, i, options, tsval, tsecr):
    at = TCP_AT + TCP_BYTES + options
    put32(buf, i, at, OPTION_NOP << 24 | OPTION_NOP << 16 | OPTION_TS << 8 | 10)
    put32(buf, i, at + 4, tsval)
    put32(buf, i, at + 8, tsecr)
    return options + 12


@kernel
def option_sack(buf, i, options, blocks):
    """The head of a SACK option; ``blocks`` calls of :func:`option_block` must follow (3 fit beside timestamps, else 4)."""
    put32(buf, i, TCP_AT + TCP_BYTES + options, OPTION_NOP << 24 | OPTION_NOP << 16 | OPTION_SACK << 8 | 2 + 8 * blocks)
    return options + 4


@kernel
def option_block(buf, i, options, left, right):
    at = TCP_AT + TCP_BYTES + options
    put32(buf, i, at, left)
    put32(buf, i, at + 4, right)
    return options + 8


@kernel
def options_syn(buf, i, mss, wscale, sack_ok, has_ts, tsval, tsecr):
    """A SYN's options: MSS, then window scale unless ``wscale`` is -1, SACK-permitted and timestamps if nonzero."""
    options = option_mss(buf, i, 0, mss)
    if wscale >= 0:
        options = option_wscale(buf, i, options, wscale)
    if sack_ok != 0:
        options = option_sack_ok(buf, i, options)
    if has_ts != 0:
        options = option_ts(buf, i, options, tsval, tsecr)
    return options


@kernel
def finish(cfg, buf, i, options, payload):
    """Complete the datagram in row ``i``: bytes of the whole.

    The ``payload`` bytes are in place behind ``options`` bytes of options. Writes lengths, data offset, time to live and
    checksums; with ``cfg["checksum"]`` 0 TCP's is left to the wire, and 0.
    """
    size = TCP_BYTES + options + payload
    put16(buf, i, IP_AT + 2, IP_BYTES + size)
    put8(buf, i, IP_AT + 8, int(cfg["ttl"]))
    put16(buf, i, IP_AT + 10, checksum(buf, i, IP_AT, IP_BYTES, 0))
    put8(buf, i, TCP_AT + 12, ((TCP_BYTES + options) >> 2) << 4)
    if cfg["checksum"] != 0:
        start = pseudo(get32(buf, i, IP_AT + 12), get32(buf, i, IP_AT + 16), size)
        put16(buf, i, TCP_AT + 16, checksum(buf, i, TCP_AT, size, start))
    return IP_BYTES + size
