"""The core's private state: configuration, sessions, workers and queues, as arrays that kernels take.

Everything here belongs to the core process alone. What workers may see lies in the shared records (``abi.h``); a
private copy of every fact that a decision depends on is kept here, so that a worker that scribbles over its shared
memory can only harm itself.

Pending events: each session has a set of PEND_* bits and stands at most once in its worker's queue, so queues are
bounded by the number of sessions whatever happens, and an event is never allocated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stackcore.abi import abi
from stackcore.bundle import Bundle

# In the order in which they are sent when several wait for the same session.
PEND_ACCEPTED = 1
PEND_RX = 2
PEND_TX_ROOM = 4
PEND_DISCONNECTED = 8
PEND_RESET = 16

CORRUPT = -74
"""-EBADMSG: a cursor in shared memory that no correct peer writes."""
BROKEN = -1
"""Private worker state: its ring is corrupt, the process layer cuts it off."""

NODE_TIME, NODE_INPUT, NODE_FLUSH, NODE_DRAIN, NODE_OUTPUT = range(5)
NODE_NAMES = {
    "null": ("time", "null-input", "session-flush", "ring-drain", "null-output"),
    "tcp": ("tcp-time", "tcp-input", "session-flush", "ring-drain", "tcp-output"),
}

CONFIG = np.dtype(
    [
        (name, "i8")
        for name in (
            # dispatch
            "frame", "idle_limit", "yield_idle", "phase", "now", "next_scan",
            # session layer
            "workers", "sessions", "listeners", "queue_mask", "ring_full", "accept_policy",
            "sessions_at", "session_stride", "workers_at", "worker_stride",
            "ends_at", "handles_at", "event_at", "pending_at",
            "fifos_at", "fifo_stride", "fifo_size", "accept_at", "accept_stride",
            "free_head", "free_tail", "open_sessions",
            "new_head", "new_tail", "old_head", "old_tail",
            # null transport
            "clients", "request_at", "request_len", "reply_at", "reply_len", "verify_full", "requests_per_connection",
            "port", "open_loop", "next_due", "gap_index", "storm", "storm_left", "last_progress", "outstanding",
            "timeout_ns", "next_port", "retry_at", "ready_head", "ready_tail",
        )
    ]
)  # fmt: skip

SESSION = np.dtype(
    [
        (name, "i4")
        for name in (
            "state", "generation", "owner", "listener", "client", "seq", "pend", "queued", "io_queued", "accepted",
            "told", "ring_pos", "dropped", "room",
        )
    ]
)  # fmt: skip

WORKER = np.dtype(
    [(name, "i8") for name in ("state", "generation", "pid", "head", "tail", "sent", "dropped", "full", "congested")]
)

CLIENT = np.dtype([(name, "i8") for name in ("state", "session", "intended", "asked", "got", "served", "connects")])
CLIENT_READY, CLIENT_WAITING = 0, 1

END_WORDS = 5
"""int64 words of a ``shmq_fifo_end``."""
HANDLE_WORDS = 8
"""int64 words reserved for a ``shmq_producer`` or ``shmq_consumer``."""
END_BYTES = 8 * END_WORDS
HANDLE_BYTES = 8 * HANDLE_WORDS


class Core(Bundle):
    """What every kernel of the core gets. All arrays are one-dimensional unless said otherwise."""

    cfg: np.ndarray[Any, Any]
    """CONFIG[1]"""
    tel: np.ndarray[Any, Any]
    """shared sc_telemetry[1]"""
    ses: np.ndarray[Any, Any]
    """SESSION[sessions]"""
    shs: np.ndarray[Any, Any]
    """shared sc_session[sessions]"""
    wrk: np.ndarray[Any, Any]
    """WORKER[workers]"""
    shw: np.ndarray[Any, Any]
    """shared sc_worker[workers]"""
    lis: np.ndarray[Any, Any]
    """sc_listener[listeners], private: the shared records are a copy for onlookers"""
    cli: np.ndarray[Any, Any]
    """CLIENT[clients]"""
    pend: np.ndarray[Any, Any]
    """int32[workers, queue]: sessions with pending events, a circular queue per worker"""
    free: np.ndarray[Any, Any]
    """int32[queue]: free sessions, oldest first"""
    new_io: np.ndarray[Any, Any]
    """int32[queue]: sessions with bytes to send, told in this cycle"""
    old_io: np.ndarray[Any, Any]
    """int32[queue]: left over from earlier cycles"""
    ready: np.ndarray[Any, Any]
    """int32[power of two >= clients + 1]: clients that may send their next request"""
    gaps: np.ndarray[Any, Any]
    """int64[n]: open-loop gaps between requests, ns, used round and round"""
    event: np.ndarray[Any, Any]
    """EVENT[1]: scratch"""
    pending: np.ndarray[Any, Any]
    """PENDING[1]: scratch"""
    nodes: np.ndarray[Any, Any]
    """int64[3, SC_NODES]: calls, vectors, ns (views of the telemetry)"""
    latency: np.ndarray[Any, Any]
    """int64[SC_LATENCY_BUCKETS] (view of the telemetry)"""


def new_core(view: Any, layout: Any, clients: int, gaps: np.ndarray[Any, Any]) -> tuple[Core, list[Any]]:
    """Allocate the private arrays over a laid-out segment. The second value keeps raw memory alive."""
    queue = 1 << layout.sessions.bit_length()
    ready = 1 << max(1, clients).bit_length()
    ends = np.zeros((layout.sessions, 2, END_WORDS), "i8")
    handles = np.zeros((layout.workers + layout.listeners, 2, HANDLE_WORDS), "i8")
    event, pending = np.zeros(1, abi.EVENT), np.zeros(1, abi.PENDING)
    telemetry = view.telemetry[0]
    core = Core(
        cfg=np.zeros(1, CONFIG),
        tel=view.telemetry,
        ses=np.zeros(layout.sessions, SESSION),
        shs=view.sessions,
        wrk=np.zeros(layout.workers, WORKER),
        shw=view.workers,
        lis=np.zeros(layout.listeners, abi.LISTENER),
        cli=np.zeros(max(1, clients), CLIENT),
        pend=np.zeros((layout.workers, queue), "i4"),
        free=np.zeros(queue, "i4"),
        new_io=np.zeros(queue, "i4"),
        old_io=np.zeros(queue, "i4"),
        ready=np.zeros(ready, "i4"),
        gaps=gaps,
        event=event,
        pending=pending,
        nodes=_nodes_of(telemetry),
        latency=telemetry["latency"],
    )
    cfg, offsets = core.cfg[0], layout.offsets
    for name in ("fifos_at", "fifo_stride", "accept_at", "accept_stride", "sessions_at", "workers_at"):
        cfg[name] = offsets[name] + (view.address if name.endswith("_at") else 0)
    cfg["session_stride"], cfg["worker_stride"] = abi.SESSION.itemsize, abi.WORKER.itemsize
    cfg["workers"], cfg["sessions"], cfg["listeners"] = layout.workers, layout.sessions, layout.listeners
    cfg["fifo_size"], cfg["queue_mask"] = layout.fifo_size, queue - 1
    cfg["ends_at"], cfg["handles_at"] = ends.ctypes.data, handles.ctypes.data
    cfg["event_at"], cfg["pending_at"] = event.ctypes.data, pending.ctypes.data
    core.ses["owner"] = core.ses["client"] = -1
    core.shs["owner"] = -1
    core.free[: layout.sessions] = np.arange(layout.sessions)
    cfg["free_tail"] = layout.sessions
    core.cli["session"] = -1
    return core, [ends, handles]


def _nodes_of(telemetry: Any) -> np.ndarray[Any, Any]:
    """The three per-node arrays as one view: they follow each other in the record."""
    calls, ns = telemetry["node_calls"], telemetry["node_ns"]
    assert ns.ctypes.data - calls.ctypes.data == 2 * calls.nbytes, "node counters lie one after another"
    return np.lib.stride_tricks.as_strided(calls, (3, calls.size), (calls.nbytes, calls.itemsize))
