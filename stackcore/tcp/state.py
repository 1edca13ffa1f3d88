"""TCP's private state: one connection's variables, the stack's, and the queues between the nodes, as arrays.

Names are those of RFC 9293 section 3.3.1 in lower case (``snd_una`` is SND.UNA). Sequence numbers are kept as 64-bit
numbers that never wrap: the wire's 32 bits are their low half, ``seq.py`` goes from one to the other, and everywhere
else an ordinary comparison is right. Times are nanoseconds of the caller's clock, sizes bytes.

A *connection* is the protocol's record. A *slot* is a pair of byte fifos with what the owner above (a socket, a session)
must be told; it outlives the connection until the owner has closed, too. Connection and slot name each other by index;
a connection's handle is (index, generation). Free connections are a stack (last freed, first used), as in VPP: a reference
that was kept too long soon meets a stranger, which is what D1 is about.

Notes are the only way up: a slot has a set of NOTE_* bits and stands at most once in the queue of slots with notes, so
the queue is bounded by the number of slots whatever happens. The owner takes them after each step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stackcore.bundle import Bundle

# ---- RFC 9293 section 3.3.2 ----
CLOSED, LISTEN, SYN_SENT, SYN_RCVD, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT, CLOSING, LAST_ACK, TIME_WAIT = range(11)
STATE_NAMES = (
    "CLOSED", "LISTEN", "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "CLOSING",
    "LAST-ACK", "TIME-WAIT",
)  # fmt: skip

# ---- header flags ----
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32

# ---- con["flags"] ----
F_PASSIVE = 1
"""Came from a listener."""
F_WSCALE = 2
F_TS = 4
F_SACK = 8
F_ACK_NOW = 16
"""An ACK is owed at once."""
F_RECONNECT = 32
"""Took over the ports of a connection in TIME-WAIT."""
F_FIN = 64
"""The owner sends no more: a FIN follows the last byte."""
F_FIN_SENT = 128
F_NODELAY = 256
F_KEEPALIVE = 512
F_NO_READER = 1024
"""The owner has closed: incoming data is answered by a reset (RFC 9293 section 3.6.1)."""
F_PROBE = 2048
"""Send a window probe (or a keep-alive) now."""
F_PROBED = 4096
"""The one octet beyond ``snd_una`` went into a closed window."""
F_RXT = 8192
"""Recovery mode ``flag``: retransmit when the output node comes by."""
F_QUEUED = 16384
"""Stands in the retransmit queue."""
F_HALF_OPEN = 32768
"""Counted as half open."""
F_RTT = 65536
"""A segment is being timed."""

# ---- con["recovery"] ----
OPEN, FAST, LOSS = range(3)
"""No recovery, fast recovery (RFC 6582, 6675), after a retransmission timeout (RFC 5681 section 3.1, 6675 section 5.1)."""

# ---- timers ----
T_RETRANSMIT, T_DELACK, T_KEEPALIVE, T_WAITCLOSE, T_PACE = range(5)
"""T_RETRANSMIT also probes a closed window; T_WAITCLOSE is TIME-WAIT and how long a closed socket's connection lingers."""
TIMERS = 5

# ---- notes to the owner of a slot ----
NOTE_ACCEPT = 1
"""A connection came to a listener and is established."""
NOTE_CONNECTED = 2
NOTE_RX = 4
NOTE_TX_ROOM = 8
"""Bytes of the tx fifo were acknowledged; the owner had asked (``shmq_fifo_want``)."""
NOTE_FIN = 16
"""The peer sends no more."""
NOTE_ERROR = 32
"""The connection is gone for good, ``slot["error"]`` says why (a positive errno)."""
NOTE_DONE = 64
"""The transport has let go of the slot: nothing is read from its fifos or written to them any more."""

MAX_SACK = 4
RANGES = 32
"""Disjoint ranges a scoreboard holds; the peer's further blocks are ignored (RFC 2018: they are advice)."""
BOARD_WORDS = 1 + 2 * RANGES
"""int64 words of a scoreboard: count, then left and right edges in ascending order."""
WHEEL_SLOTS = 8192
TICK_SHIFT = 17
"""A tick of the timer wheel is 2**17 ns, 0.13 ms: an eighth of the shortest time that TCP cares about here."""
HEADROOM = 64
"""Bytes in front of each packet in a frame buffer, for what a wire puts before the IP header."""
MAX_FRAME = 256

MS, S = 1_000_000, 1_000_000_000

CONFIG = np.dtype(
    [
        (name, "i8")
        for name in (
            "now", "addr", "mask", "frame", "mtu", "connections", "slots", "listeners",
            # memory
            "fifos_at", "fifo_stride", "fifo_size", "ends_at", "boards_at",
            # queues
            "con_free", "slot_head", "slot_tail", "slot_mask", "note_head", "note_tail", "ready_head", "ready_tail",
            "con_mask", "hash_mask", "stray_head", "stray_tail", "board_free", "reserved",
            "wheel_tick", "half_open", "half_open_limit", "next_port", "ip_id",
            # constants of the protocol, each changeable
            "rto_init", "rto_min", "rto_max", "retries", "syn_retries", "delack", "msl", "close_timeout",
            "keep_idle", "keep_interval", "keep_probes", "nagle", "sack", "timestamps", "wscale", "pacing", "cc",
            "initial_window", "challenge_limit", "challenge_left", "challenge_until", "checksum", "ttl",
            "secret0", "secret1",
            # D1
            "recovery", "policy", "budget", "queue_head", "queue_tail", "queue_mask", "queue_limit", "heap_size",
            "trap",
        )
    ]
)  # fmt: skip
"""One record. ``trap`` 1: an access to a freed connection is counted instead of made (the simulator)."""

CONNECTION = np.dtype(
    [
        (name, "i8")
        for name in (
            "local_addr", "remote_addr", "iss", "snd_una", "snd_nxt", "snd_wnd", "snd_wl1", "snd_wl2", "max_wnd",
            "fin_seq", "irs", "rcv_nxt", "rcv_adv", "rcv_fin", "last_ack", "last_ooo",
            "ts_recent", "ts_recent_at", "ts_offset",
            "srtt", "rttvar", "rto", "rtt_seq", "rtt_at",
            "cwnd", "ssthresh", "cc0", "cc1", "cc2", "cc3", "cc4", "cc5",
            "recover", "high_rxt", "rescue", "sacked", "pipe", "progress_at", "heard_at", "sent_at", "closed_at",
            "pace_at",
        )
    ]
    + [
        (name, "i4")
        for name in (
            "state", "generation", "slot", "flags", "local_port", "remote_port", "hash_next", "listener", "mss",
            "snd_scale", "rcv_scale", "recovery", "dupacks", "board", "backoff", "probes", "error",
            "queue_at", "retransmits", "in_ready", "limited", "tos",
        )
    ]
)  # fmt: skip
"""``fin_seq``, ``rcv_fin``: the number of our FIN and the peer's, 0: not known yet. ``last_ack``: the ACK we sent last.
``rescue``: RFC 6675's RescueRxt. ``progress_at``: when the peer last acknowledged something, ``heard_at``: when it last
sent anything. ``in_ready`` belongs to the index, not to the connection: it survives a free, so that an index stands at
most once in the queue of connections with something to send. ``cc0..5`` belong to the congestion control. ``tos`` is
the IP header's byte with the Diffserv field. The 32-bit fields are even in number: so records begin at multiples of 8."""

SLOT = np.dtype([(n, "i4") for n in ("con", "generation", "note", "queued", "error", "used", "listener", "closed", "pieces")])
"""``con`` is -1 when the transport has let go; ``generation`` that of the connection; ``used`` 0 when
free; ``closed`` when the owner has no more interest: the slot is free as soon as the transport has let go, too; ``pieces``
the board that lists what arrived ahead of the stream, -1: none."""

TIMER = np.dtype([("expiry", "i8"), ("due", "i8"), ("next", "i4"), ("prev", "i4")])
"""``expiry`` ns, 0: stopped. ``due`` the tick at which it is linked into the wheel, -1: it is not."""

LISTENER = np.dtype([(n, "i8") for n in ("port", "addr", "backlog", "waiting", "half_open")])
"""``port`` 0: unused. ``addr`` 0: any. ``waiting`` connections the owner has not taken yet, at most ``backlog``."""

SEGMENT = np.dtype(
    [
        (name, "i8")
        for name in (
            "src", "dst", "sport", "dport", "seq", "ack", "flags", "wnd", "data", "len",
            "mss", "wscale", "sack_ok", "has_ts", "tsval", "tsecr", "sacks",
            "l0", "r0", "l1", "r1", "l2", "r2", "l3", "r3",
        )
    ]
)  # fmt: skip
"""A parsed segment. ``seq`` and ``ack`` as on the wire (32 bits); ``data`` is the column of the payload in its frame row;
``mss`` 0 and ``wscale`` -1 when the option is absent; SACK edges as on the wire."""

STRAY = np.dtype([(n, "i8") for n in ("src", "dst", "sport", "dport", "seq", "ack", "flags")])
"""A segment that belongs to no connection: resets."""

ENTRY = np.dtype([("con", "i4"), ("generation", "i4"), ("at", "i8"), ("deadline", "i8")])
"""The retransmit queue's entry: who, since when, and until when it is of use (ns). ``con`` -1: purged."""

REASONS = (
    "short", "version", "ip-checksum", "fragment", "protocol", "not-ours", "length", "tcp-checksum", "options", "source",
    "no-listener", "half-open-full", "backlog-full", "no-connection-left", "no-slot-left", "bad-ack", "out-of-window", "paws",
    "old-duplicate", "blind-reset", "blind-syn", "no-ack-flag", "after-close", "rx-full", "pieces-full", "stray-full",
)  # fmt: skip
"""Why a segment was dropped; ``stat["dropped"]`` counts each."""
(
    D_SHORT, D_VERSION, D_IP_CHECKSUM, D_FRAGMENT, D_PROTOCOL, D_NOT_OURS, D_LENGTH, D_TCP_CHECKSUM, D_OPTIONS, D_SOURCE,
    D_NO_LISTENER, D_HALF_OPEN, D_BACKLOG, D_NO_CONNECTION, D_NO_SLOT, D_BAD_ACK, D_WINDOW, D_PAWS,
    D_OLD, D_BLIND_RESET, D_BLIND_SYN, D_NO_ACK, D_AFTER_CLOSE, D_RX_FULL, D_PIECES, D_STRAY_FULL,
) = range(len(REASONS))  # fmt: skip

STATISTICS = np.dtype(
    [
        (name, "i8")
        for name in (
            "segments_in", "segments_out", "bytes_in", "bytes_out", "data_in", "acks_in", "pure_acks_out",
            "retransmits", "fast_recoveries", "timeouts", "tail_probes", "window_probes", "keepalives", "challenges",
            "resets_in", "resets_out", "opened_active", "opened_passive", "closed", "aborted", "gave_up",
            "syns_dropped", "out_of_order", "duplicates", "dupacks", "limited", "sack_ignored", "delayed_acks",
            # D1
            "rxt_queued", "rxt_sent", "rxt_dropped", "rxt_depth_max", "rxt_checks", "rxt_passes", "rxt_requeued",
            "strangers", "crashes", "purges", "freed_queued",
        )
    ]
)  # fmt: skip
"""Counters. ``rxt_*`` are the retransmit pass; ``freed_queued`` connections freed while they stood in its queue."""


class Tcp(Bundle):
    """One stack instance. All arrays are one-dimensional unless said otherwise."""

    cfg: np.ndarray[Any, Any]
    """CONFIG[1]"""
    con: np.ndarray[Any, Any]
    """CONNECTION[connections]"""
    slot: np.ndarray[Any, Any]
    """SLOT[slots]"""
    tmr: np.ndarray[Any, Any]
    """TIMER[connections * TIMERS]: timer ``kind`` of connection ``c`` is ``c * TIMERS + kind``"""
    wheel: np.ndarray[Any, Any]
    """int32[WHEEL_SLOTS]: first timer of each slot, -1: none"""
    wheel_map: np.ndarray[Any, Any]
    """int64[WHEEL_SLOTS // 32]: bit i of word w (i < 32): slot 32 w + i is not empty"""
    hash: np.ndarray[Any, Any]
    """int32[power of two]: first connection of each bucket, -1: none; the rest by ``hash_next``"""
    free: np.ndarray[Any, Any]
    """int32[connections]: a stack, ``cfg["con_free"]`` entries"""
    slots_free: np.ndarray[Any, Any]
    """int32[power of two]: free slots, oldest first"""
    notes: np.ndarray[Any, Any]
    """int32[power of two]: slots with notes"""
    ready: np.ndarray[Any, Any]
    """int32[power of two]: connections with something to send"""
    boards: np.ndarray[Any, Any]
    """int64[boards, BOARD_WORDS]: lists of ranges, lent to connections that need one"""
    boards_free: np.ndarray[Any, Any]
    """int32[boards]: a stack, ``cfg["board_free"]`` entries"""
    lis: np.ndarray[Any, Any]
    """LISTENER[listeners]"""
    queue: np.ndarray[Any, Any]
    """ENTRY[power of two >= 2 * connections]: D1's retransmit queue, in the order of arrival"""
    heap: np.ndarray[Any, Any]
    """ENTRY[as many]: the same entries by deadline, for the policy that wants them so"""
    stray: np.ndarray[Any, Any]
    """STRAY[256]"""
    look: np.ndarray[Any, Any]
    """int32[MAX_FRAME]: whose the packets of a vector seem to be, before they are parsed"""
    seg: np.ndarray[Any, Any]
    """SEGMENT[1]: the segment being processed"""
    stat: np.ndarray[Any, Any]
    """STATISTICS[1]"""
    dropped: np.ndarray[Any, Any]
    """int64[len(REASONS)]"""
    queue_hist: np.ndarray[Any, Any]
    """int64[SC_LATENCY_BUCKETS]: time in the retransmit queue, ns, by :func:`stackcore.histogram.bucket_of`"""
    close_hist: np.ndarray[Any, Any]
    """int64[SC_LATENCY_BUCKETS]: time from the owner's close to the connection's end, ns"""
