"""Listeners: who listens, who polls, and where a new connection goes.

Per-worker listeners (``LISTEN_PER_WORKER``) hand a connection to one registered worker at once. A shared listener
(``LISTEN_SHARED``) keeps it in the listener's accept ring, of which the core is the producer, and rings one of the
workers that poll it; who takes it says so with ACCEPTED_REPLY and becomes the owner then.
"""

from __future__ import annotations

from stackcore.abi import abi
from stackcore.kernel import kernel
from stackcore.native import event_publish, event_put, load64, ring_push, ring_tail
from stackcore.session.accept import choose
from stackcore.session.state import PEND_ACCEPTED
from stackcore.session.table import post, producer_of, set_owner

_HEAD_AT = 2 * abi.LINE  # of a ring's header
_SHARED, _ATTACHED = abi.LISTEN_SHARED, abi.WORKER_ATTACHED
_ACCEPT_READY = abi.EV_ACCEPT_READY
_EINVAL, _ENOSPC = -22, -28
SHARED_FLAG = 1 << 16
"""In the argument of EV_LISTEN, above the port: this is a shared listener."""


@kernel
def find_listener(lis, port):
    for i in range(len(lis)):
        if lis[i]["port"] == port:
            return i
    return -1


@kernel
def listen(lis, worker, arg):
    """Register ``worker`` on the port in ``arg``; the listener's index or a negative errno."""
    port = arg & 0xFFFF
    sharing = (arg // SHARED_FLAG) & 1
    if port == 0 or arg < 0 or arg >= 2 * SHARED_FLAG:
        return _EINVAL
    i = find_listener(lis, port)
    if i < 0:
        i = find_listener(lis, 0)
        if i < 0:
            return _ENOSPC
        lis[i]["port"] = port
        lis[i]["sharing"] = sharing
        lis[i]["listening"] = 0
        lis[i]["polling"] = 0
        lis[i]["rotor"] = 0
        lis[i]["owed"] = 0
    elif lis[i]["sharing"] != sharing:
        return _EINVAL
    lis[i]["listening"] |= 1 << worker
    return i


@kernel
def unlisten(lis, worker, i):
    """Take ``worker`` off listener ``i``; the port is free again when nobody is left. 0 or a negative errno."""
    if i < 0 or i >= len(lis) or lis[i]["port"] == 0:
        return _EINVAL
    lis[i]["listening"] &= ~(1 << worker)
    lis[i]["polling"] &= ~(1 << worker)
    if lis[i]["listening"] == 0 and lis[i]["polling"] == 0:
        lis[i]["port"] = 0
    return 0


@kernel
def forget_worker(lis, worker):
    """A dead worker neither listens nor polls."""
    for i in range(len(lis)):
        lis[i]["listening"] &= ~(1 << worker)
        lis[i]["polling"] &= ~(1 << worker)


@kernel
def set_polling(lis, worker, i, on):
    """1, or 0 when there is no such listener."""
    if i < 0 or i >= len(lis) or lis[i]["port"] == 0:
        return 0
    if on:
        lis[i]["polling"] |= 1 << worker
    else:
        lis[i]["polling"] &= ~(1 << worker)
    return 1


@kernel
def offer(cfg, pending, ses, shs, wrk, lis, pend, li, s, key):
    """Bring the new session ``s`` to a worker of listener ``li``. False when nobody can take it."""
    if lis[li]["sharing"] == _SHARED:
        return offer_shared(cfg, pending, ses, wrk, lis, li, s)
    worker = choose(cfg[0]["accept_policy"], lis, wrk, li, key)
    if worker < 0:
        return False
    set_owner(cfg, ses, shs, wrk, pend, s, worker)
    post(cfg, ses, wrk, pend, s, PEND_ACCEPTED)
    return True


@kernel
def offer_shared(cfg, pending, ses, wrk, lis, li, s):
    entry = pending[0]
    entry["session"] = s
    entry["generation"] = ses[s]["generation"]
    entry["seq"] = ses[s]["seq"]
    entry["listener"] = li
    ring = producer_of(cfg, cfg[0]["workers"] + li)
    ses[s]["ring_pos"] = ring_tail(ring)
    if ring_push(ring, cfg[0]["pending_at"]) != 0:
        return False
    ses[s]["told"] = 1
    lis[li]["owed"] += 1
    ring_workers(cfg, wrk, lis, li)
    return True


@kernel
def accept_head(cfg, li):
    """Connections that workers have taken from the shared listener's ring so far (the head of that ring)."""
    return load64(cfg[0]["accept_at"] + li * cfg[0]["accept_stride"] + _HEAD_AT)


@kernel
def accepts_waiting(cfg, li):
    waiting = ring_tail(producer_of(cfg, cfg[0]["workers"] + li)) - accept_head(cfg, li)
    return waiting if 0 <= waiting <= cfg[0]["sessions"] else 0


@kernel
def ring_workers(cfg, wrk, lis, li):
    """Ring once for each connection that nobody was rung for yet; what finds every ring full is owed until later."""
    while lis[li]["owed"] > 0 and ring_one(cfg, wrk, lis, li):
        lis[li]["owed"] -= 1


@kernel
def node_ring(cfg, wrk, lis):
    """Make good what is owed to shared listeners. Rings made."""
    n = 0
    for li in range(len(lis)):
        if lis[li]["owed"] > 0:
            before = int(lis[li]["owed"])
            ring_workers(cfg, wrk, lis, li)
            n += before - int(lis[li]["owed"])
    return n


@kernel
def ring_one(cfg, wrk, lis, li):
    """Tell the next polling worker that has room to look at the accept ring; False when none has."""
    last = int(lis[li]["rotor"])
    for step in range(1, len(wrk) + 1):
        i = (last + step) % len(wrk)
        if (lis[li]["polling"] >> i) & 1 == 1 and wrk[i]["state"] == _ATTACHED:
            if event_put(producer_of(cfg, i), 0, _ACCEPT_READY, i, -1, 0, 0, li) == 0:
                lis[li]["rotor"] = i
                wrk[i]["sent"] += 1
                event_publish(producer_of(cfg, i), 1)
                return True
    return False
