"""IPv4 TCP packets made and read with `struct` alone: the tests' own idea of RFC 791 and RFC 9293 section 3.1."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

FLAGS = "FSRPAUEC"
"""Bit i of the flags byte is letter i, as tcpdump and packetdrill write them; an ACK is "."."""


def flag_bits(text: str) -> int:
    """``"S."`` is SYN and ACK."""
    return sum(1 << FLAGS.index(letter) for letter in text.replace(".", "A"))


def flag_text(bits: int) -> str:
    """The letters in the customary order, ACK last: ``"P."``, ``"FP."``, ``"S"``."""
    return "".join(letter for i, letter in enumerate(FLAGS) if bits >> i & 1 and letter != "A") + ("." if bits & 16 else "")


def internet_checksum(data: bytes) -> int:
    """RFC 1071, as it is written there: 16-bit numbers, end-around carry, complement."""
    data += b"\0" * (len(data) % 2)
    total = 0
    for (word,) in struct.iter_unpack("!H", data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True)
class Options:
    """A segment's options; None (False, empty) is one that is absent."""

    mss: int | None = None
    wscale: int | None = None
    sack_ok: bool = False
    ts: tuple[int, int] | None = None
    sack: tuple[tuple[int, int], ...] = ()
    raw: bytes = b""
    """Appended as they are, before the padding."""

    def pack(self) -> bytes:
        out = b""
        if self.mss is not None:
            out += struct.pack("!BBH", 2, 4, self.mss)
        if self.wscale is not None:
            out += struct.pack("!BBBB", 1, 3, 3, self.wscale)
        if self.sack_ok:
            out += b"\1\1\4\2"
        if self.ts is not None:
            out += struct.pack("!BBBBII", 1, 1, 8, 10, *self.ts)
        if self.sack:
            out += struct.pack("!BBBB", 1, 1, 5, 2 + 8 * len(self.sack))
            out += b"".join(struct.pack("!II", left & 0xFFFFFFFF, right & 0xFFFFFFFF) for left, right in self.sack)
        out += self.raw
        return out + b"\0" * (-len(out) % 4)


def read_options(data: bytes) -> Options:
    """Raises ValueError when one overruns the header."""
    options = Options()
    at = 0
    while at < len(data) and data[at] != 0:
        if data[at] == 1:
            at += 1
            continue
        kind, length = data[at], data[at + 1]
        body = data[at + 2 : at + length]
        if length < 2 or len(body) != length - 2:
            raise ValueError(f"option {kind} of length {length} at {at} overruns")
        if kind == 2:
            options = replace(options, mss=struct.unpack("!H", body)[0])
        elif kind == 3:
            options = replace(options, wscale=body[0])
        elif kind == 4:
            options = replace(options, sack_ok=True)
        elif kind == 5:
            options = replace(options, sack=tuple(struct.iter_unpack("!II", body)))
        elif kind == 8:
            options = replace(options, ts=struct.unpack("!II", body))
        else:
            options = replace(options, raw=options.raw + data[at : at + length])
        at += length
    return options


@dataclass(frozen=True)
class Segment:
    """A TCP segment in an IPv4 datagram. Addresses are numbers in host order, ``flags`` the byte."""

    src: int
    dst: int
    sport: int
    dport: int
    seq: int = 0
    ack: int = 0
    flags: int = 16
    wnd: int = 65535
    options: Options = Options()
    payload: bytes = b""
    urgent: int = 0
    ttl: int = 64
    tos: int = 0

    def pack(self) -> bytes:
        options = self.options.pack()
        tcp = struct.pack(
            "!HHIIBBHHH", self.sport, self.dport, self.seq & 0xFFFFFFFF, self.ack & 0xFFFFFFFF,
            (20 + len(options)) // 4 << 4, self.flags, self.wnd, 0, self.urgent,
        )  # fmt: skip
        whole = with_checksum(self.src, self.dst, tcp + options + self.payload)
        return ip_datagram(self.src, self.dst, whole, self.ttl, tos=self.tos)

    def __str__(self) -> str:
        text = f"{flag_text(self.flags)} {self.seq}:{self.seq + len(self.payload)}({len(self.payload)}) ack {self.ack}"
        return f"{text} win {self.wnd} {self.options}"


def with_checksum(src: int, dst: int, tcp: bytes) -> bytes:
    """A TCP header and data with the right checksum in its place."""
    tcp = tcp[:16] + b"\0\0" + tcp[18:]
    right = internet_checksum(struct.pack("!IIBBH", src, dst, 0, 6, len(tcp)) + tcp)
    return tcp[:16] + struct.pack("!H", right) + tcp[18:]


def ip_datagram(
    src: int,
    dst: int,
    body: bytes,
    ttl: int = 64,
    *,
    tos: int = 0,
    protocol: int = 6,
    fragment: int = 0x4000,
    version: int = 4,
    options: bytes = b"",
    total: int | None = None,
    ihl: int | None = None,
) -> bytes:
    """An IPv4 datagram; what is given by name may lie, the header's checksum is right all the same."""
    first = version << 4 | (5 + len(options) // 4 if ihl is None else ihl)
    length = 20 + len(options) + len(body) if total is None else total
    header = struct.pack("!BBHHHBBHII", first, tos, length, 0, fragment, ttl, protocol, 0, src, dst) + options
    return header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:] + body


def read(packet: bytes) -> Segment:
    """The segment in a datagram that must be perfect: lengths and checksums right, no padding. Raises ValueError."""
    if len(packet) < 40 or packet[0] != 0x45 or struct.unpack_from("!H", packet, 2)[0] != len(packet):
        raise ValueError(f"not a whole IPv4 datagram without options: {packet[:20].hex()}, {len(packet)} bytes")
    if internet_checksum(packet[:20]) != 0 or packet[9] != 6:
        raise ValueError("wrong IP checksum or protocol")
    src, dst = struct.unpack_from("!II", packet, 12)
    tcp = packet[20:]
    if with_checksum(src, dst, tcp) != tcp:
        raise ValueError("wrong TCP checksum")
    sport, dport, seq, ack, offset, flags, wnd, _, urgent = struct.unpack_from("!HHIIBBHHH", tcp)
    header = offset >> 4 << 2
    if offset & 15 or not 20 <= header <= len(tcp):
        raise ValueError(f"data offset byte {offset:#x} in {len(tcp)} bytes")
    options = read_options(tcp[20:header])
    return Segment(src, dst, sport, dport, seq, ack, flags, wnd, options, tcp[header:], urgent, packet[8], packet[1])
