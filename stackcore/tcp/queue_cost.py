"""``python -m stackcore.tcp.queue_cost``: what each recovery mode adds per retransmission that is queued, looked at, or dropped
because its connection is freed (D1).

The queue's own kernels run on a stack whose connections stand in it in random order, more of them than caches hold, without
packets and without a clock: ``program`` puts a connection in, ``look`` takes an entry out and asks the mode whether to serve it,
``stale`` the same when the connection was freed and its index given to another one, ``free`` is what a mode does when a queued
connection is freed. The cost of a mode's check is its ``look`` less that of ``unchecked``, which believes everything.

Mode ``flag`` has no queue: its entry is in the output node's queue of connections, its ``look`` is the test of the flag there.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click
import numpy as np

from stackcore.kernel import kernel
from stackcore.native import now_ns
from stackcore.tcp.config import HostConfig
from stackcore.tcp.memory import new_tcp
from stackcore.tcp.retransmit import check, forget, program
from stackcore.tcp.retransmit.policy import begin, take
from stackcore.tcp.retransmit.queue import unmark
from stackcore.tcp.retransmit.switches import POLICY, RECOVERY
from stackcore.tcp.state import CLOSED, ESTABLISHED, F_RXT, FAST

CONNECTIONS = 16384
STEPS = ("program", "look", "stale", "free")
MODE_FLAG = "flag"
_FIFO = POLICY["fifo"].value


@kernel
def put_in(mode, t, order):
    for i in range(len(order)):
        program(mode, t, int(order[i]))


@kernel
def look_at_queue(mode, policy, t):
    """Everything in the queue once, as the retransmit pass does; how many it would serve."""
    served = 0
    for _ in range(begin(policy, t)):
        entry = t.queue[take(policy, t)]
        c, generation = int(entry["con"]), int(entry["generation"])
        if c < 0:
            continue
        unmark(t, c, generation)
        served += check(mode, t, c, generation)
    return served


@kernel
def look_at_ready(t):
    """Mode ``flag``: the part of the output node that finds it."""
    cfg = t.cfg[0]
    served = 0
    while cfg["ready_head"] != cfg["ready_tail"]:
        con = t.con[int(t.ready[cfg["ready_head"] & cfg["con_mask"]])]
        cfg["ready_head"] += 1
        con["in_ready"] = 0
        if con["state"] != CLOSED and con["flags"] & F_RXT:
            con["flags"] &= ~F_RXT
            served += 1
    return served


@kernel
def look(mode, policy, t, queued):
    return look_at_queue(mode, policy, t) if queued else look_at_ready(t)


@kernel
def free_all(mode, t, order):
    for i in range(len(order)):
        forget(mode, t, int(order[i]))


@kernel
def reuse_all(t):
    """Every index belongs to another connection now, which is not in recovery."""
    for c in range(len(t.con)):
        con = t.con[c]
        con["generation"] += 1
        con["flags"] = 0
        con["recovery"] = 0


@kernel
def recover_all(t):
    for c in range(len(t.con)):
        con = t.con[c]
        con["state"] = ESTABLISHED
        con["recovery"] = FAST
        con["flags"] = 0


@kernel
def round_of(mode, policy, t, order, queued, ns):
    """One time through all steps; adds to ``ns`` (int64[4], the order of STEPS). How many entries were served alive, and
    how many stale ones."""
    recover_all(t)
    t0 = now_ns()
    put_in(mode, t, order)
    t1 = now_ns()
    alive = look(mode, policy, t, queued)
    t2 = now_ns()
    put_in(mode, t, order)
    reuse_all(t)
    t3 = now_ns()
    stale = look(mode, policy, t, queued)
    t4 = now_ns()
    recover_all(t)
    put_in(mode, t, order)
    t5 = now_ns()
    free_all(mode, t, order)
    t6 = now_ns()
    reuse_all(t)
    look(mode, policy, t, queued)
    ns[0] += t1 - t0
    ns[1] += t2 - t1
    ns[2] += t4 - t3
    ns[3] += t6 - t5
    return alive, stale


def measure(mode: str, seconds: float, connections: int = CONNECTIONS) -> dict[str, Any]:
    """ns per connection of each step. ``served`` says what became of the entries, per round."""
    t, _keep = new_tcp(HostConfig(connections=connections, fifo=256, seed=1, recovery=mode))
    value, queued = RECOVERY[mode].value, int(mode != MODE_FLAG)
    order = np.random.default_rng(1).permutation(connections).astype("i4")
    ns = np.zeros(len(STEPS), "i8")
    round_of(value, _FIFO, t, order, queued, ns)
    ns[:] = 0
    rounds, until = 0, time.monotonic() + seconds
    while rounds == 0 or time.monotonic() < until:
        alive, stale = round_of(value, _FIFO, t, order, queued, ns)
        rounds += 1
    each = ns / (rounds * connections)
    return {
        "mode": mode, "connections": connections, "rounds": rounds, "ns": dict(zip(STEPS, map(float, each), strict=True)),
        "served": {"alive": int(alive), "stale": int(stale)},
    }  # fmt: skip


@click.command()
@click.option("--seconds", type=click.FloatRange(0.01, 60), default=0.1, show_default=True, help="Per mode.")
@click.option("--connections", type=click.IntRange(2, 1 << 20), default=CONNECTIONS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(seconds: float, connections: int, as_json: bool) -> None:
    """Time the retransmit queue's steps under each recovery mode."""
    found = {choice.name: measure(choice.name, seconds, connections) for choice in RECOVERY}
    if as_json:
        print(json.dumps({"connections": connections, "modes": found}))
        return
    print(f"{'ns per connection':18}" + "".join(f"{step:>10}" for step in STEPS))
    for mode, one in found.items():
        print(f"{mode:18}" + "".join(f"{one['ns'][step]:10.1f}" for step in STEPS))


if __name__ == "__main__":
    main()
