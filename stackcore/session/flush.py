"""Node session-flush: pending events into the workers' rings, under the ring-full policy.

The core never waits for a worker. What does not fit stays pending (``block``, ``congest``) or is dropped and counted
(``drop``); the events of one session keep their order.
"""

from __future__ import annotations

from stackcore.abi import abi
from stackcore.kernel import kernel
from stackcore.native import event_publish, event_put
from stackcore.session.state import BROKEN, CORRUPT, PEND_ACCEPTED, PEND_DISCONNECTED, PEND_RESET, PEND_RX, PEND_TX_ROOM
from stackcore.session.switches import CONGEST, DROP
from stackcore.session.table import enqueue, producer_of

BATCH = 16
"""Events that become visible together: fewer would move the cursor's line for each, more would let the worker wait."""
_ATTACHED = abi.WORKER_ATTACHED
_FREE = abi.SESSION_FREE
_ACCEPTED, _RX, _TX_ROOM, _DISCONNECTED, _RESET = (
    abi.EV_ACCEPTED,
    abi.EV_RX,
    abi.EV_TX_ROOM,
    abi.EV_DISCONNECTED,
    abi.EV_RESET,
)


@kernel
def first_pending(bits):
    """(bit, event type) of the event that goes first."""
    if bits & PEND_ACCEPTED:
        return PEND_ACCEPTED, _ACCEPTED
    if bits & PEND_RX:
        return PEND_RX, _RX
    if bits & PEND_TX_ROOM:
        return PEND_TX_ROOM, _TX_ROOM
    if bits & PEND_DISCONNECTED:
        return PEND_DISCONNECTED, _DISCONNECTED
    return PEND_RESET, _RESET


@kernel
def put_events(ses, shs, wrk, producer, unpublished, worker, s, drop):
    """Write all pending events of ``s``; how many, or -1 - that number when the ring is full."""
    sent = 0
    while ses[s]["pend"] != 0:
        bit, kind = first_pending(ses[s]["pend"])
        seq = int(ses[s]["seq"]) + 1
        rc = event_put(producer, unpublished + sent, kind, worker, s, ses[s]["generation"], seq, ses[s]["listener"])
        if rc == CORRUPT:
            wrk[worker]["state"] = BROKEN
            return -1 - sent
        if rc != 0:
            if not drop:
                return -1 - sent
            ses[s]["dropped"] = 1
            wrk[worker]["dropped"] += 1
        else:
            sent += 1
            wrk[worker]["sent"] += 1
            if bit == PEND_ACCEPTED:
                ses[s]["told"] = 1
        ses[s]["seq"] = seq
        shs[s]["seq"] = seq
        ses[s]["pend"] &= ~bit
    return sent


@kernel
def flush_worker(cfg, ses, shs, wrk, pend, worker, limit):
    """Up to ``limit`` sessions' events into one worker's ring; events sent."""
    c = cfg[0]
    producer = producer_of(cfg, worker)
    drop = c["ring_full"] == DROP
    total = 0
    unpublished = 0
    full = False
    while limit > 0 and wrk[worker]["head"] != wrk[worker]["tail"]:
        s = int(pend[worker, wrk[worker]["head"] & c["queue_mask"]])
        if ses[s]["state"] == _FREE or ses[s]["owner"] != worker:
            # freed, or already another connection with another owner
            wrk[worker]["head"] += 1
            ses[s]["queued"] = 0
            if ses[s]["pend"] != 0 and ses[s]["owner"] >= 0:
                enqueue(cfg, ses, wrk, pend, s)
            continue
        sent = put_events(ses, shs, wrk, producer, unpublished, worker, s, drop)
        full = sent < 0
        if full:
            sent = -1 - sent
        total += sent
        unpublished += sent
        if full:
            break
        if unpublished >= BATCH:
            event_publish(producer, unpublished)
            unpublished = 0
        wrk[worker]["head"] += 1
        ses[s]["queued"] = 0
        limit -= 1
    wrk[worker]["full"] = 1 if full else 0
    wrk[worker]["congested"] = 1 if full and c["ring_full"] == CONGEST else 0
    if unpublished > 0:
        event_publish(producer, unpublished)
    return total


@kernel
def node_flush(cfg, ses, shs, wrk, pend):
    """One frame of sessions per worker. Events sent."""
    n = 0
    for worker in range(len(wrk)):
        if wrk[worker]["head"] != wrk[worker]["tail"] and wrk[worker]["state"] == _ATTACHED:
            n += flush_worker(cfg, ses, shs, wrk, pend, worker, cfg[0]["frame"])
    return n
