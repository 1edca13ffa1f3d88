"""Node ring-drain: what the workers have to say, each message checked before it is believed.

A message is acted on only if its slot is whole (position and check word), its worker is the one whose ring it came
through, and its session exists, has that generation and belongs to that worker. Everything else is counted as
invalid and has no effect.
"""

from __future__ import annotations

from stackcore.abi import abi
from stackcore.kernel import kernel
from stackcore.native import event_read, prefetch_end, reply, ring_head, ring_ready, ring_release
from stackcore.session.listen import listen, set_polling, unlisten
from stackcore.session.state import BROKEN, PEND_RESET
from stackcore.session.table import consumer_of, post, set_owner, tx_end

_ATTACHED = abi.WORKER_ATTACHED
_FREE, _RESET, _APP_CLOSED = abi.SESSION_FREE, abi.SESSION_RESET, abi.SESSION_APP_CLOSED
_SHARED = abi.LISTEN_SHARED
_LISTEN, _UNLISTEN, _POLL, _UNPOLL = abi.EV_LISTEN, abi.EV_UNLISTEN, abi.EV_POLL, abi.EV_UNPOLL
_ACCEPTED_REPLY, _TX, _RX_ROOM, _CLOSE = abi.EV_ACCEPTED_REPLY, abi.EV_TX, abi.EV_RX_ROOM, abi.EV_CLOSE


@kernel
def new_io(cfg, ses, queue, s):
    """Have this cycle's output look at the session."""
    if ses[s]["io_queued"] == 0:
        ses[s]["io_queued"] = 1
        queue[cfg[0]["new_tail"] & cfg[0]["queue_mask"]] = s
        cfg[0]["new_tail"] += 1
        prefetch_end(tx_end(cfg, s), 0)


@kernel
def worker_message(cfg, shw, lis, worker, kind, arg):
    """A message that is about no session; 1 when it made sense."""
    if kind == _LISTEN:
        reply(cfg[0]["workers_at"] + worker * cfg[0]["worker_stride"], listen(lis, worker, arg))
    elif kind == _UNLISTEN:
        reply(cfg[0]["workers_at"] + worker * cfg[0]["worker_stride"], unlisten(lis, worker, arg))
    elif kind == _POLL or kind == _UNPOLL:
        return set_polling(lis, worker, arg, kind == _POLL)
    else:
        return 0
    return 1


@kernel
def accepted(cfg, ses, shs, wrk, lis, pend, queue, worker, s):
    """The app took the session. From a shared ring: whoever took it owns it from now on."""
    if ses[s]["accepted"] == 0:
        ses[s]["accepted"] = 1
        new_io(cfg, ses, queue, s)
        if ses[s]["owner"] < 0:
            set_owner(cfg, ses, shs, wrk, pend, s, worker)
    return 1


@kernel
def session_message(cfg, ses, shs, wrk, lis, pend, queue, worker, kind, s, generation):
    """A message about session ``s``; 1 when it made sense."""
    if s < 0 or s >= len(ses) or ses[s]["state"] == _FREE or ses[s]["generation"] != generation:
        # A session can be freed while the app's message is on its way (reset before accept, dead peer): not a lie.
        return 1 if 0 <= s < len(ses) and generation <= ses[s]["generation"] else 0
    owner = int(ses[s]["owner"])
    unowned_shared = owner < 0 and lis[ses[s]["listener"]]["sharing"] == _SHARED
    if owner != worker and not (unowned_shared and (kind == _ACCEPTED_REPLY or kind == _CLOSE)):
        return 0
    if kind == _TX:
        new_io(cfg, ses, queue, s)
    elif kind == _ACCEPTED_REPLY:
        return accepted(cfg, ses, shs, wrk, lis, pend, queue, worker, s)
    elif kind == _CLOSE:
        ses[s]["state"] = _APP_CLOSED
        shs[s]["state"] = _APP_CLOSED
        new_io(cfg, ses, queue, s)  # what was sent before the close is still delivered
    elif kind == _RX_ROOM:
        ses[s]["room"] = 1
        new_io(cfg, ses, queue, s)
    else:
        return 0
    return 1


@kernel
def drain_worker(cfg, tel, event, ses, shs, wrk, shw, lis, pend, queue, worker):
    """Everything that was in the ring at entry. Messages handled, or -1 when the ring's cursor is corrupt."""
    consumer = consumer_of(cfg, worker)
    ready = ring_ready(consumer, 1 << 62)
    if ready <= 0:
        return ready
    head = ring_head(consumer)
    at = cfg[0]["event_at"]
    e = event[0]
    for i in range(ready):
        good = event_read(consumer, head + i, at)
        if good == 1 and e["worker"] == worker:
            if e["session"] < 0:
                good = worker_message(cfg, shw, lis, worker, int(e["type"]), int(e["arg"]))
            else:
                good = session_message(
                    cfg, ses, shs, wrk, lis, pend, queue, worker, int(e["type"]), int(e["session"]), int(e["generation"])
                )
        else:
            good = 0
        if good == 0:
            tel[0]["invalid"] += 1
    ring_release(consumer, ready)
    return ready


@kernel
def node_drain(cfg, tel, event, ses, shs, wrk, shw, lis, pend, queue):
    """All workers' rings. Messages handled; a worker with a corrupt ring is marked BROKEN."""
    n = 0
    for worker in range(len(wrk)):
        if wrk[worker]["state"] != _ATTACHED:
            continue
        handled = drain_worker(cfg, tel, event, ses, shs, wrk, shw, lis, pend, queue, worker)
        if handled < 0:
            wrk[worker]["state"] = BROKEN
        else:
            n += handled
    return n


@kernel
def reset_session(cfg, ses, shs, wrk, pend, s):
    """The session is over for the peer; the app hears of it and closes."""
    ses[s]["state"] = _RESET
    shs[s]["state"] = _RESET
    ses[s]["client"] = -1
    post(cfg, ses, wrk, pend, s, PEND_RESET)
