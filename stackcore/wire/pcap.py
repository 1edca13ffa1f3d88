"""Capture files: what crossed a wire, in the format that Wireshark, tcpdump and everybody else reads.

Promise: a kernel records a packet without the interpreter, a system call or an allocation; the same packets at the same
times make the same file, byte for byte, on every machine (the file is little-endian, whatever the machine is). A packet for
which there is no room is counted as missed, never half recorded.

The format is the classic one with nanoseconds (magic 0xA1B23C4D), version 2.4, link type LINKTYPE_RAW: the packet begins
with its IP header. Source: draft-ietf-opsawg-pcap. Times are those of the caller's clock plus ``epoch``; under a virtual
clock a capture begins in 1970, which is right: it did not happen at any time of ours.

How. :func:`pcap_put` writes finished records into a buffer, :meth:`PcapWriter.drain` writes the buffer to the file and
empties it. Both happen in the one thread that runs the loop, so the buffer needs no second end; who owns the loop drains
whenever he is in Python anyway. ``buffer`` bytes must hold what comes between two drains: at 1 GB/s and a drain each
millisecond 1 MB.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from stackcore.bundle import Bundle
from stackcore.kernel import kernel
from stackcore.native import memcpy
from stackcore.tcp.state import HEADROOM, S

MAGIC_NANOSECONDS = 0xA1B23C4D
LINKTYPE_RAW = 101
RECORD_HEADER = 16
MAX_SNAPLEN = 65535

CONFIG = np.dtype([(name, "i8") for name in ("used", "data_at", "snaplen", "epoch", "captured", "missed")])


class Capture(Bundle):
    """A capture buffer, for kernels."""

    cfg: np.ndarray[Any, Any]
    """CONFIG[1]"""
    data: np.ndarray[Any, Any]
    """uint8[buffer]: records, ``cfg["used"]`` bytes"""


@kernel
def put32(data, at, value):
    """The low 32 bits, little-endian."""
    for k in range(4):
        data[at + k] = (value >> (8 * k)) & 255


@kernel
def pcap_put(cap, buf, i, length, now):
    """Record the datagram in row ``i`` of ``buf`` (uint8[rows, stride], in C order, IP header at column HEADROOM).

    ``now`` in ns, ``now`` + epoch not negative. 1, or 0 when there was no room: it is counted as missed.
    """
    cfg = cap.cfg[0]
    kept = min(int(length), int(cfg["snaplen"]))
    used = int(cfg["used"])
    if kept < 0 or kept > buf.shape[1] - HEADROOM or used + RECORD_HEADER + kept > len(cap.data):
        cfg["missed"] += 1
        return 0
    time = int(now) + int(cfg["epoch"])
    put32(cap.data, used, time // S)
    put32(cap.data, used + 4, time % S)
    put32(cap.data, used + 8, kept)
    put32(cap.data, used + 12, length)
    memcpy(cfg["data_at"] + used + RECORD_HEADER, buf.ctypes.data + i * buf.shape[1] + HEADROOM, kept)
    cfg["used"] = used + RECORD_HEADER + kept
    cfg["captured"] += 1
    return 1


def no_capture() -> Capture:
    """What a loop takes that records nothing."""
    return Capture(cfg=np.zeros(1, CONFIG), data=np.zeros(1, "u1"))


class PcapWriter:
    """A capture file and the buffer in front of it; a context manager, which drains and closes.

    An existing file is replaced. ``epoch``: ns to add to every time; for a wire on the monotonic clock
    ``time.time_ns() - time.monotonic_ns()``. ``snaplen``: bytes kept of each packet; its true length is noted beside them.
    OSError when the file cannot be made or written, ValueError for sizes that make no sense. Not thread safe; after a fork
    only one of the processes may go on with it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, epoch: int = 0, snaplen: int = MAX_SNAPLEN, buffer: int = 4 << 20
    ) -> None:
        if not 1 <= snaplen <= MAX_SNAPLEN:
            raise ValueError(f"a capture keeps 1..{MAX_SNAPLEN} bytes of a packet, not {snaplen}")
        if buffer < RECORD_HEADER + snaplen:
            raise ValueError(f"a capture buffer holds at least one packet: {RECORD_HEADER + snaplen} bytes, not {buffer}")
        self.path = Path(path)
        data = np.zeros(buffer, "u1")
        cfg = np.zeros(1, CONFIG)
        cfg["data_at"], cfg["snaplen"], cfg["epoch"] = data.ctypes.data, snaplen, epoch
        self.capture = Capture(cfg=cfg, data=data)
        """What :func:`pcap_put` takes."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            self._to_file(struct.pack("<IHHiIII", MAGIC_NANOSECONDS, 2, 4, 0, 0, snaplen, LINKTYPE_RAW))
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def captured(self) -> int:
        """Packets recorded."""
        return int(self.capture.cfg[0]["captured"])

    @property
    def missed(self) -> int:
        """Packets for which there was no room: drain more often, or take a larger ``buffer``."""
        return int(self.capture.cfg[0]["missed"])

    def put(self, packet: bytes, now: int) -> None:
        """Record one datagram from Python; drains by itself."""
        cfg = self.capture.cfg[0]
        if int(cfg["used"]) + RECORD_HEADER + len(packet) > len(self.capture.data):
            self.drain()
        frame = np.zeros((1, HEADROOM + len(packet)), "u1")
        frame[0, HEADROOM:] = np.frombuffer(packet, "u1")
        pcap_put(self.capture, frame, 0, len(packet), now)

    def drain(self) -> int:
        """Write everything recorded so far to the file, empty the buffer; how many bytes that were."""
        cfg = self.capture.cfg[0]
        used = int(cfg["used"])
        cfg["used"] = 0
        self._to_file(self.capture.data[:used].tobytes())
        return used

    def _to_file(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise OSError(error.errno, f"the capture could not be written ({error.strerror})", str(self.path)) from error

    def close(self) -> None:
        """Drain and close the file; a second call does nothing."""
        if self._fd < 0:
            return
        try:
            self.drain()
        finally:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
