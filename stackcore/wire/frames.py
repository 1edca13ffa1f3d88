"""Vectors of packets, and counters where others can see them: what every host on a wire has."""

from __future__ import annotations

from typing import Any

import numpy as np

from stackcore.bundle import Bundle
from stackcore.tcp.state import HEADROOM, MAX_FRAME, REASONS, STATISTICS

FRAME = np.dtype([(name, "i8") for name in ("tx_first", "tx_used", "captures")])


class Frames(Bundle):
    """One stack's input and output vectors."""

    cfg: np.ndarray[Any, Any]
    """FRAME[1]: rows ``tx_first`` to ``tx_used`` of ``tx`` wait for the wire"""
    rx: np.ndarray[Any, Any]
    """uint8[MAX_FRAME, stride], the IP header at column HEADROOM"""
    rx_len: np.ndarray[Any, Any]
    """int32[MAX_FRAME]"""
    tx: np.ndarray[Any, Any]
    tx_len: np.ndarray[Any, Any]


def new_frames(mtu: int) -> Frames:
    """Empty frames for datagrams of up to ``mtu`` bytes."""
    stride = -(-(HEADROOM + mtu) // 64) * 64
    return Frames(
        cfg=np.zeros(1, FRAME),
        rx=np.zeros((MAX_FRAME, stride), "u1"),
        rx_len=np.zeros(MAX_FRAME, "i4"),
        tx=np.zeros((MAX_FRAME, stride), "u1"),
        tx_len=np.zeros(MAX_FRAME, "i4"),
    )


def shared_counters(telemetry: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The engine's counters, in the shared telemetry record."""
    words = STATISTICS.itemsize // 8
    assert words <= telemetry["tcp"].size and len(REASONS) <= telemetry["tcp_dropped"].size
    return {
        "stat": telemetry["tcp"][:words].view(STATISTICS),
        "dropped": telemetry["tcp_dropped"][: len(REASONS)],
        "queue_hist": telemetry["rxt_queue"],
        "close_hist": telemetry["close_to_free"],
    }
