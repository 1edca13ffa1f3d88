"""Kernels on the session table: open, post an event, free. Each takes only the arrays it touches.

A freed session goes to the *end* of the free list, so a stale handle of a slow or dead worker meets a free slot
long before it meets a stranger; the generation tells the two apart in any case.
"""

from __future__ import annotations

from stackcore.abi import abi
from stackcore.kernel import kernel
from stackcore.native import fifo_bind, fifo_reset
from stackcore.session.state import END_BYTES, HANDLE_BYTES

_FREE, _OPEN = abi.SESSION_FREE, abi.SESSION_OPEN
_FIFO = 2 * abi.LINE
LOCALHOST = 0x7F000001


@kernel
def rx_end(cfg, s):
    """Address of the core's writer end of session ``s``."""
    return cfg[0]["ends_at"] + 2 * s * END_BYTES


@kernel
def tx_end(cfg, s):
    """Address of the core's reader end of session ``s``."""
    return cfg[0]["ends_at"] + (2 * s + 1) * END_BYTES


@kernel
def producer_of(cfg, i):
    """Address of the handle of worker ``i``'s core->worker ring (or accept ring ``i - workers``)."""
    return cfg[0]["handles_at"] + 2 * i * HANDLE_BYTES


@kernel
def consumer_of(cfg, i):
    """Address of the handle of worker ``i``'s worker->core ring."""
    return cfg[0]["handles_at"] + (2 * i + 1) * HANDLE_BYTES


@kernel
def session_open(cfg, ses, shs, free, listener, client, port):
    """A fresh session with empty fifos, or -1 when the table is full. Nobody is told yet."""
    c = cfg[0]
    if c["free_head"] == c["free_tail"]:
        return -1
    s = int(free[c["free_head"] & c["queue_mask"]])
    c["free_head"] += 1
    fifos = c["fifos_at"] + s * c["fifo_stride"]
    fifo_reset(fifos)
    fifo_reset(fifos + _FIFO)
    fifo_bind(rx_end(cfg, s), fifos, fifos + 2 * _FIFO, c["fifo_size"])
    fifo_bind(tx_end(cfg, s), fifos + _FIFO, fifos + 2 * _FIFO + c["fifo_size"], c["fifo_size"])
    session_start(cfg, ses, shs, s, listener, client, LOCALHOST, port)
    return s


@kernel
def session_start(cfg, ses, shs, s, listener, client, addr, port):
    """A session in slot ``s``, whose fifos are empty and bound."""
    cfg[0]["open_sessions"] += 1
    rec = ses[s]
    rec["generation"] += 1
    rec["state"] = _OPEN
    rec["owner"] = -1
    rec["listener"] = listener
    rec["client"] = client
    rec["seq"] = 0
    rec["pend"] = 0
    rec["accepted"] = 0
    rec["told"] = 0
    rec["dropped"] = 0
    rec["room"] = 0
    shared = shs[s]
    shared["generation"] = rec["generation"]
    shared["owner"] = -1
    shared["listener"] = listener
    shared["seq"] = 0
    shared["peer_port"] = port
    shared["peer_addr"] = addr
    shared["state"] = _OPEN


@kernel
def session_free(cfg, ses, shs, free, s):
    """Give the slot back. A queue that still names it finds a free session or another generation."""
    c = cfg[0]
    session_end(cfg, ses, shs, s)
    free[c["free_tail"] & c["queue_mask"]] = s
    c["free_tail"] += 1


@kernel
def session_end(cfg, ses, shs, s):
    """The session is over; who gives its slot to the next is the transport's business."""
    ses[s]["state"] = _FREE
    ses[s]["client"] = -1
    ses[s]["pend"] = 0
    shs[s]["state"] = _FREE
    cfg[0]["open_sessions"] -= 1


@kernel
def set_owner(cfg, ses, shs, wrk, pend, s, worker):
    """Route the session's events to ``worker`` from now on; those that waited for an owner are queued."""
    ses[s]["owner"] = worker
    shs[s]["owner"] = worker
    if ses[s]["pend"] != 0:
        enqueue(cfg, ses, wrk, pend, s)


@kernel
def enqueue(cfg, ses, wrk, pend, s):
    owner = int(ses[s]["owner"])
    if ses[s]["queued"] == 0:
        pend[owner, wrk[owner]["tail"] & cfg[0]["queue_mask"]] = s
        wrk[owner]["tail"] += 1
        ses[s]["queued"] = 1


@kernel
def post(cfg, ses, wrk, pend, s, bits):
    """Let the owner of session ``s`` know of ``bits`` (PEND_*) at the next flush; kept while it has no owner."""
    ses[s]["pend"] |= bits
    if ses[s]["owner"] >= 0:
        enqueue(cfg, ses, wrk, pend, s)
