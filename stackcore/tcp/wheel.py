"""Timers: a hashed wheel of WHEEL_SLOTS ticks (Varghese and Lauck 1987, scheme 6), re-armed lazily.

Promise, with tick(x) = x / 2**TICK_SHIFT ns:

* a timer set for ``at`` fires in the first :func:`timer_next` whose ``now`` has reached the tick ceil(tick(at)), or,
  when that tick has been served already, the first one not served: never before ``at``, and less than a tick after it
  if the caller comes by then. It fires once. A caller that sets timers for times after ``now`` only is never kept
  busy by one ``now``;
* setting, moving and stopping cost a few loads and stores. A timer that is moved later (the retransmission timer,
  with each acknowledgment) or stopped stays where it is linked; its slot's turn finds out and links it anew, or drops
  it;
* a slot's turn comes once per pass, however far ``now`` jumps, and empty slots are skipped 32 at a time.

A timer further away than the wheel goes round (1.07 s) is looked at once a round. Timers that are due in one call
fire in the order of their ticks if none was lazy; no order is promised. ``now`` must not go back. Zero is not a time:
0 is "stopped".

``cfg["wheel_tick"]`` is the first tick not served yet. While no pass is under way every linked timer's ``due`` is in
[wheel_tick, wheel_tick + WHEEL_SLOTS), so all timers of a slot have the same.
"""

from __future__ import annotations

import stackcore.native  # noqa: F401  (before any kernel)
from stackcore.kernel import kernel
from stackcore.tcp.state import TICK_SHIFT, TIMERS, WHEEL_SLOTS

_MASK = WHEEL_SLOTS - 1
_WORDS = WHEEL_SLOTS // 32
_ROUND_UP = (1 << TICK_SHIFT) - 1


@kernel
def _link(t, i, due):
    slot = due & _MASK
    first = int(t.wheel[slot])
    t.tmr[i]["due"] = due
    t.tmr[i]["next"] = first
    t.tmr[i]["prev"] = -1
    if first >= 0:
        t.tmr[first]["prev"] = i
    else:
        t.wheel_map[slot >> 5] |= 1 << (slot & 31)
    t.wheel[slot] = i


@kernel
def _unlink(t, i):
    slot = int(t.tmr[i]["due"]) & _MASK
    after = int(t.tmr[i]["next"])
    before = int(t.tmr[i]["prev"])
    if after >= 0:
        t.tmr[after]["prev"] = before
    if before >= 0:
        t.tmr[before]["next"] = after
    else:
        t.wheel[slot] = after
        if after < 0:
            t.wheel_map[slot >> 5] &= ~(1 << (slot & 31))
    t.tmr[i]["due"] = -1


@kernel
def _place(t, i):
    """Link timer ``i`` where its expiry belongs, or as far ahead as the wheel reaches."""
    first = int(t.cfg[0]["wheel_tick"])
    due = (int(t.tmr[i]["expiry"]) + _ROUND_UP) >> TICK_SHIFT
    _link(t, i, max(first, min(due, first + _MASK)))


@kernel
def _lowest_bit(word):
    """Position of the lowest bit set in a 32-bit word that is not 0."""
    place = 0
    for shift in (16, 8, 4, 2, 1):
        if word & ((1 << shift) - 1) == 0:
            word >>= shift
            place += shift
    return place


@kernel
def _next_used(t, tick):
    """The first tick from ``tick`` on, within one round, whose slot is not empty; -1: all are."""
    slot = tick & _MASK
    word = int(t.wheel_map[slot >> 5]) >> (slot & 31)
    if word != 0:
        return tick + _lowest_bit(word)
    base = tick - (slot & 31)
    for step in range(1, _WORDS + 1):  # the last is the first again: its bits below ``slot``
        word = int(t.wheel_map[((slot >> 5) + step) & (_WORDS - 1)])
        if word != 0:
            return base + 32 * step + _lowest_bit(word)
    return -1


@kernel
def timer_set(t, c, kind, at):
    """Let timer ``kind`` of connection ``c`` fire at ``at`` (ns, above 0); forgets what it was set for before."""
    i = c * TIMERS + kind
    t.tmr[i]["expiry"] = at
    linked = int(t.tmr[i]["due"])
    if linked >= 0:
        if linked <= (at + _ROUND_UP) >> TICK_SHIFT:
            return
        _unlink(t, i)
    _place(t, i)


@kernel
def timer_stop(t, c, kind):
    """The timer does not fire; nothing happens if it does not run."""
    t.tmr[c * TIMERS + kind]["expiry"] = 0


@kernel
def timer_running(t, c, kind):
    return t.tmr[c * TIMERS + kind]["expiry"] != 0


@kernel
def timer_next(t, now):
    """A timer that is due at ``now``, stopped: its index ``c * TIMERS + kind``. -1: no more, all of ``now`` is served."""
    cfg = t.cfg[0]
    target = now >> TICK_SHIFT
    tick = int(cfg["wheel_tick"])
    if tick > target:
        return -1
    tick = max(tick, target - _MASK)  # one round sees every slot
    while tick <= target:
        tick = _next_used(t, tick)
        if tick < 0 or tick > target:
            break
        cfg["wheel_tick"] = tick
        i = int(t.wheel[tick & _MASK])
        _unlink(t, i)
        expiry = int(t.tmr[i]["expiry"])
        if expiry == 0:
            continue
        if (expiry + _ROUND_UP) >> TICK_SHIFT <= target:
            t.tmr[i]["expiry"] = 0
            return i
        _place(t, i)  # not into this slot again: its tick is after ``target``, or it is a round less one ahead
    cfg["wheel_tick"] = target + 1
    return -1


@kernel
def timer_soonest(t):
    """The earliest time (ns) at which :func:`timer_next` may find something: no expiry is before it. -1: no timer is linked."""
    tick = _next_used(t, int(t.cfg[0]["wheel_tick"]))
    return tick << TICK_SHIFT if tick >= 0 else -1
