"""The shared records of ``abi.h`` as numpy dtypes, built from what the native module says of itself.

Arrays of these dtypes have the C strides (records lie whole cache lines apart), so
``numpy.frombuffer(segment, WORKER, n, offset)`` is the C array. Nothing is written down twice: names, offsets,
types and writers come from the compiled header.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stackcore.abi import _abi


class Field(NamedTuple):
    """One field of a shared record.

    ``length``: elements of an array, 0 for a scalar. ``writer``: core, worker, sender, or once (at layout).
    """

    name: str
    typecode: str
    offset: int
    length: int
    writer: str
    meaning: str


RECORDS: dict[str, tuple[Field, ...]] = {
    name: tuple(Field(*field) for field in fields) for name, (_, _, fields) in _abi.records.items()
}
"""Record name -> fields, in the order of the header."""


def dtype_of(record: str) -> np.dtype[Any]:
    """The dtype of a record; its itemsize is the distance of two records in shared memory, bytes."""
    fields = RECORDS[record]
    return np.dtype(
        {
            "names": [f.name for f in fields],
            "formats": [(f"({f.length},){f.typecode}" if f.length else f.typecode) for f in fields],
            "offsets": [f.offset for f in fields],
            "itemsize": _abi.records[record][1],
        }
    )


STACK = dtype_of("sc_stack")
TELEMETRY = dtype_of("sc_telemetry")
WORKER = dtype_of("sc_worker")
LISTENER = dtype_of("sc_listener")
SESSION = dtype_of("sc_session")
EVENT = np.dtype([(f.name, f.typecode) for f in RECORDS["sc_event"]])
PENDING = np.dtype([(f.name, f.typecode) for f in RECORDS["sc_pending"]])
EPOLL_EVENT = np.dtype([(f.name, f.typecode) for f in RECORDS["sc_epoll_event"]])

_C = _abi.constants
ABI_VERSION: int = _C["ABI_VERSION"]
MAX_WORKERS: int = _C["MAX_WORKERS"]
MAX_LISTENERS: int = _C["MAX_LISTENERS"]
LINE: int = _C["LINE"]

EV_ACCEPTED: int = _C["EV_ACCEPTED"]
EV_RX: int = _C["EV_RX"]
EV_TX_ROOM: int = _C["EV_TX_ROOM"]
EV_DISCONNECTED: int = _C["EV_DISCONNECTED"]
EV_RESET: int = _C["EV_RESET"]
EV_ACCEPT_READY: int = _C["EV_ACCEPT_READY"]
EV_LISTEN: int = _C["EV_LISTEN"]
EV_UNLISTEN: int = _C["EV_UNLISTEN"]
EV_POLL: int = _C["EV_POLL"]
EV_UNPOLL: int = _C["EV_UNPOLL"]
EV_ACCEPTED_REPLY: int = _C["EV_ACCEPTED_REPLY"]
EV_TX: int = _C["EV_TX"]
EV_RX_ROOM: int = _C["EV_RX_ROOM"]
EV_CLOSE: int = _C["EV_CLOSE"]
WORKER_FREE: int = _C["WORKER_FREE"]
WORKER_ATTACHED: int = _C["WORKER_ATTACHED"]
WORKER_DEAD: int = _C["WORKER_DEAD"]
SESSION_FREE: int = _C["SESSION_FREE"]
SESSION_OPEN: int = _C["SESSION_OPEN"]
SESSION_PEER_CLOSED: int = _C["SESSION_PEER_CLOSED"]
SESSION_RESET: int = _C["SESSION_RESET"]
SESSION_APP_CLOSED: int = _C["SESSION_APP_CLOSED"]
SEEN_DELIVERED: int = _C["SEEN_DELIVERED"]
SEEN_STALE: int = _C["SEEN_STALE"]
LISTEN_PER_WORKER: int = _C["LISTEN_PER_WORKER"]
LISTEN_SHARED: int = _C["LISTEN_SHARED"]
PHASE_STARTING: int = _C["PHASE_STARTING"]
PHASE_SERVING: int = _C["PHASE_SERVING"]
PHASE_WARMUP: int = _C["PHASE_WARMUP"]
PHASE_MEASURE: int = _C["PHASE_MEASURE"]
PHASE_DRAIN: int = _C["PHASE_DRAIN"]
PHASE_DONE: int = _C["PHASE_DONE"]
PHASE_STOPPED: int = _C["PHASE_STOPPED"]
