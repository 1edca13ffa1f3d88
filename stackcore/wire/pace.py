"""Whose turn it is: when clients that are ready may send, whatever transport carries their requests.

Closed loop: at once. Open loop: when the schedule says so, and latency counts from that time, however late the request
went out. Storm: all that are ready together, when the answers of the last storm are in.

Kernels over any bundle ``st`` with ``cfg``, ``ready``, ``gaps`` and ``cli``, whose records have the fields used here.
"""

from __future__ import annotations

import stackcore.native  # noqa: F401  (kernels need the native library first)
from stackcore.kernel import kernel
from stackcore.session.state import CLIENT_READY

STORM_STALL_NS = 2_000_000
"""A storm is over when nothing has come for so long: what is missing then is not waited for."""
NOT_YET = -1


@kernel
def make_ready(cfg, cli, ready, c):
    """Client ``c`` may send its next request."""
    cli[c]["state"] = CLIENT_READY
    ready[cfg[0]["ready_tail"] % len(ready)] = c
    cfg[0]["ready_tail"] += 1


@kernel
def due(st):
    """How many clients may send now, as far as that does not depend on the schedule."""
    cfg = st.cfg[0]
    waiting = cfg["ready_tail"] - cfg["ready_head"]
    if cfg["storm"] == 0:
        return waiting
    if cfg["storm_left"] == 0 and waiting > 0:
        if cfg["outstanding"] == 0 or cfg["now"] - cfg["last_progress"] > STORM_STALL_NS:
            cfg["storm_left"] = waiting
            cfg["last_progress"] = cfg["now"]
    return cfg["storm_left"]


@kernel
def take_intended(st):
    """From when the next request's latency counts, ns, or NOT_YET."""
    cfg = st.cfg[0]
    if cfg["open_loop"] == 0:
        return cfg["now"]
    intended = cfg["next_due"]
    if intended > cfg["now"]:
        return NOT_YET
    cfg["next_due"] += st.gaps[cfg["gap_index"] % len(st.gaps)]
    cfg["gap_index"] += 1
    return intended
