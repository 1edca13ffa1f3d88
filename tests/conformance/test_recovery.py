"""D1, one suite over all recovery modes and queue policies: what the retransmit pass does about connections that are gone.

First dispatch by dispatch on one host, where each way a queued connection can be freed, and each thing that can become of its
index before the pass comes round, is made by hand. Then whole runs under the simulator, where the same happens by chance.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stackcore.native  # noqa: F401  (before any module with kernels)
from stackcore.result import Result
from stackcore.tcp.retransmit.switches import POLICY, RECOVERY
from stackcore.tcp.state import F_QUEUED, OPEN
from tests.conformance.dispatching import MSS, WINDOW, Core, Sent
from tests.stackcore.simulated import simulated
from tests.tcp.pair import Faults, Pair, Talker

MODES = [mode.name for mode in RECOVERY]
POLICIES = [policy.name for policy in POLICY]
CHECKED = [mode for mode in MODES if mode != "unchecked"]
QUEUED = [mode for mode in MODES if mode != "flag"]
NEVER_STRAY = ("generation", "purge", "flag")
VICTIM, HEIR = 1000, 2000
CROWD = range(3000, 3008)
CLIENTS = 80

modes = pytest.mark.parametrize("recovery", MODES)
policies = pytest.mark.parametrize("policy", POLICIES)


def first_again(port: int) -> Sent:
    """The retransmission of the first segment."""
    return Sent(port, ".", 0)


def data(sent: list[Sent], port: int) -> list[int]:
    return [s.segment for s in sent if s.port == port and s.segment >= 0]


def test_every_choice_is_covered() -> None:
    assert set(MODES) == {"unchecked", "state-aware", "generation", "purge", "flag"}
    assert set(POLICIES) == {"fifo", "drop-front", "earliest-deadline"}


# ---- what frees a queued connection ----


def by_reset(core: Core, socket: Any) -> None:
    core.reset(VICTIM)


def by_close_with_unread_data(core: Core, socket: Any) -> None:
    core.arrive(VICTIM, ".", ack=1, payload=b"more")
    socket.close()


def by_abort(core: Core, socket: Any) -> None:
    socket.abort()


def by_last_ack(core: Core, socket: Any) -> None:
    """The peer had closed, then the owner: what was queued arrives after all, and the FIN with it."""
    core.arrive(VICTIM, ".", ack=1 + WINDOW * MSS + 1, seq=2)


def by_close_timer(core: Core, socket: Any) -> None:
    """The patience with a closed connection ends in the very dispatch in which it would have been served."""
    core.wait(0.1)


FREES: dict[str, Callable[[Core, Any], None]] = {
    "reset": by_reset, "close with unread data": by_close_with_unread_data, "abort": by_abort, "last ack": by_last_ack,
    "close timer": by_close_timer,
}  # fmt: skip


def queued_victim(core: Core, how: str = "reset") -> Any:
    """A connection in recovery that stands in the queue, or with ``flag`` is marked, and will be freed ``how``."""
    socket = core.open(VICTIM)
    if how == "last ack":
        core.arrive(VICTIM, "F.", ack=1)
        core.output()
    if how in ("last ack", "close timer"):
        socket.close()
        core.output()
        core.wait(0.0999 if how == "close timer" else 0.0)
    core.lose(VICTIM, seq=2 if how == "last ack" else 1)
    assert core["fast_recoveries"] == 1
    return socket


@modes
@policies
@pytest.mark.parametrize("how", FREES)
def test_a_connection_freed_in_the_queue(recovery: str, policy: str, how: str) -> None:
    """Only ``unchecked`` touches what is gone. ``purge`` has taken the entry out, the others find out and drop it."""
    core = Core(recovery=recovery, policy=policy, close_timeout=0.1)
    socket = queued_victim(core, how)
    FREES[how](core, socket)
    sent = core.dispatch()
    assert core["closed"] == 1 and data(sent, VICTIM) == []
    assert core["crashes"] == int(recovery == "unchecked") and core["strangers"] == 0
    assert core["rxt_sent"] == 0 and core.depth == 0
    assert core["freed_queued"] == core["rxt_queued"] == int(recovery != "flag")
    assert core["purges"] == int(recovery == "purge")
    assert core["rxt_dropped"] == int(recovery in ("state-aware", "generation"))


@modes
@policies
def test_an_heir_that_recovers_nothing(recovery: str, policy: str) -> None:
    """The index belongs to a healthy connection by now: ``unchecked`` has it send what nobody asked for."""
    core = Core(recovery=recovery, policy=policy)
    queued_victim(core)
    index = core.index(VICTIM)
    core.reset(VICTIM)
    core.open(HEIR)
    assert core.index(HEIR) == index
    sent = core.dispatch()
    assert core["crashes"] == 0
    assert core["strangers"] == len(data(sent, HEIR)) == int(recovery == "unchecked")
    assert core["rxt_dropped"] == int(recovery in ("state-aware", "generation"))


@modes
@policies
def test_an_heir_in_recovery(recovery: str, policy: str) -> None:
    """The one case in which ``state-aware`` strays. The victim's entry waits behind others, over budget; the heir of its
    index loses a segment, too, and is served by the victim's entry. What is sent is what the heir needed anyway, and its own
    entry then does no harm; the others send it by the heir's own entry, once."""
    core = Core(recovery=recovery, policy=policy, budget=1, queue_limit=64)
    for port in CROWD:
        core.open(port)
        core.lose(port)
    core.wait(0.01)  # with earliest-deadline, the victim's is later
    socket = core.open(VICTIM)
    core.lose(VICTIM)
    index = core.index(VICTIM)
    core.dispatch()
    if recovery != "flag":  # which has no queue to wait in
        assert VICTIM not in {s.port for s in core.dispatch()}
        assert index in core.entries()
    core.reset(VICTIM)
    assert socket.poll()
    core.open(HEIR)
    core.lose(HEIR)
    assert core.index(HEIR) == index
    sent = [s for _ in range(4 * len(CROWD)) for s in core.dispatch()]
    assert data(sent, HEIR) == [0]
    assert core["strangers"] == int(recovery in ("unchecked", "state-aware"))
    assert core["crashes"] == 0 and core.depth == 0
    core.acknowledge(HEIR, WINDOW)
    assert core.host.tcp.con[index]["snd_una"] == core.host.tcp.con[index]["snd_nxt"]


# ---- the oracle ----

PLANTED = """
import stackcore.native
from stackcore.tcp import retransmit
from tests.conformance.dispatching import Core
from tests.conformance.test_recovery import HEIR, VICTIM, queued_victim
from stackcore.tcp.retransmit.switches import RECOVERY
place = f"choice_{{RECOVERY['generation'].value}}"
names = retransmit.check.__globals__
assert names[place].__module__ == "stackcore.tcp.retransmit.generation"
names[place] = {check}
core = Core(recovery="generation")
queued_victim(core)
core.reset(VICTIM)
if {heir}:
    core.open(HEIR)
core.dispatch()
print(core["strangers"], core["crashes"])
"""


@pytest.mark.parametrize(
    ("check", "heir", "found"),
    [("lambda t, c, generation: 1", True, "1 0"), ("lambda t, c, generation: 1", False, "0 1"), ("names[place]", True, "0 0")],
    ids=["stranger", "crash", "right"],
)
def test_a_wrong_check_is_seen(check: str, heir: bool, found: str) -> None:
    """The oracle stands outside of the modes: a ``generation`` that forgets to compare is found out by it."""
    done = subprocess.run(
        [sys.executable, "-c", PLANTED.format(check=check, heir=heir)], env=os.environ | {"STACKCORE_JIT": "0"},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.stderr == "" and done.stdout.strip() == found


# ---- the pass ----


@pytest.mark.parametrize("recovery", QUEUED)
@policies
@pytest.mark.parametrize("budget", [1, 7, 64])
def test_the_budget_of_a_pass(recovery: str, policy: str, budget: int) -> None:
    """No pass sends more, and what is over waits for the next; everybody's turn comes."""
    core = Core(recovery=recovery, policy=policy, budget=budget, queue_limit=64)
    ports = range(1000, 1024)
    for port in ports:
        core.open(port)
        core.lose(port)
    per_pass = []
    while core.depth:
        before = core["rxt_sent"]
        sent = core.dispatch()
        per_pass.append(core["rxt_sent"] - before)
        assert per_pass[-1] == len([s for s in sent if s.segment >= 0])
        assert len(per_pass) <= 2 * len(ports)
    assert max(per_pass) == min(budget, len(ports))
    assert sum(per_pass) == len(ports) == core["retransmits"]


@pytest.mark.parametrize("recovery", QUEUED)
def test_the_budget_is_shared(recovery: str) -> None:
    """A connection that has lost much does not take the pass for itself: eight that miss four segments each get two a pass."""
    core = Core(recovery=recovery, budget=16)
    for port in CROWD:
        core.open(port, sack=True)
        core.lose(port, sack=((4, 10),))
    sent = core.dispatch()
    assert [data(sent, port)[:2] for port in CROWD] == [[0, 1]] * len(CROWD)
    assert core["rxt_sent"] <= 16


@pytest.mark.parametrize("recovery", QUEUED)
def test_drop_front_drops_the_oldest(recovery: str) -> None:
    """Over the limit (four budgets) the oldest are dropped. They are not lost: their timers programme them again."""
    core = Core(recovery=recovery, policy="drop-front", budget=2)
    ports = list(range(1000, 1020))
    for port in ports:
        core.open(port)
        core.lose(port)
    assert core.depth == 20
    served = [s.port for _ in range(8) for s in core.dispatch() if s.segment >= 0]
    assert core["rxt_dropped"] == 12
    assert served == ports[12:]
    for port in ports[12:]:
        core.acknowledge(port, WINDOW)
    again = []
    for _ in range(4000):
        sent = [s for s in core.dispatch(later=0.001) if s.segment >= 0]
        for s in sent:
            core.acknowledge(s.port, WINDOW)
        again += sent
        if len(again) == 12:
            break
    assert sorted(again) == [first_again(port) for port in ports[:12]]
    assert core["timeouts"] >= 12 and core["gave_up"] == 0


@pytest.mark.parametrize("recovery", QUEUED)
def test_earliest_deadline_first(recovery: str) -> None:
    """The shortest remaining lifetime first: those that their owner has closed, by the time of their last progress; then the
    others, likewise."""
    core = Core(recovery=recovery, policy="earliest-deadline", budget=1, close_timeout=60.0, rto_init=60.0, rto_min=50.0)
    closed, living = [1003, 1001, 1002], [2002, 2001, 2003]
    for port in (2002, 1003, 1001, 2001, 1002, 2003):
        socket = core.open(port)
        if port in closed:
            socket.close()
            core.output()
        core.wait(1.0)
    for port in (1001, 1002, 1003, 2001, 2002, 2003):
        core.lose(port)
    served = [s.port for _ in range(6) for s in core.dispatch() if s.segment >= 0]
    assert served == closed + living


@policies
@pytest.mark.parametrize("waiting", [False, True], ids=["before a pass", "after a pass"])
def test_purge_takes_the_entry_out(policy: str, waiting: bool) -> None:
    """From the ring, and from the heap, where ``earliest-deadline`` has moved it in a pass that had no budget for it."""
    core = Core(recovery="purge", policy=policy, budget=1, queue_limit=64)
    if waiting:
        for port in CROWD:
            core.open(port)
            core.lose(port)
    core.open(VICTIM)
    core.lose(VICTIM)
    index = core.index(VICTIM)
    if waiting:
        core.dispatch()
        assert (index in core.host.tcp.heap["con"][: core.host.tcp.cfg[0]["heap_size"]]) == (policy == "earliest-deadline")
    assert core.entries().count(index) == 1
    core.reset(VICTIM)
    assert index not in core.entries() and core["purges"] == 1
    checks, rest = core["rxt_checks"], len([c for c in core.entries() if c >= 0])
    while core.depth:
        core.dispatch()
    assert core["rxt_checks"] - checks == rest and core["strangers"] == core["crashes"] == core["rxt_dropped"] == 0


@pytest.mark.parametrize("recovery", QUEUED)
@policies
def test_the_queue_never_exceeds_its_size(recovery: str, policy: str) -> None:
    """However long no pass comes round: what does not fit is refused, counted, and recovered by its timer."""
    core = Core(recovery=recovery, policy=policy, connections=4, budget=64, queue_limit=64)
    size = len(core.host.tcp.queue)
    for port in range(1000, 1000 + 2 * size):
        socket = core.open(port)
        core.lose(port)
        core.reset(port)
        socket.close()
        assert core.depth <= size
    assert core.depth == size == core["rxt_dropped"] == core["freed_queued"]
    core.open(VICTIM)
    core.lose(VICTIM)
    victim = core.host.tcp.con[core.index(VICTIM)]
    assert core.depth == size and victim["recovery"] != OPEN and not victim["flags"] & F_QUEUED
    core.dispatch()
    served = [s for _ in range(400) for s in core.dispatch(later=0.001)]
    assert first_again(VICTIM) in served and core["timeouts"] == 1
    assert core["crashes"] + core["strangers"] == 0 or recovery in ("unchecked", "state-aware")


# ---- what matters in the end ----


@modes
@policies
def test_every_byte_arrives(recovery: str, policy: str) -> None:
    """Six connections over one lossy link, two retransmissions a pass."""
    modes = {"recovery": recovery, "policy": policy, "budget": 2, "queue_limit": 4, "trap": True}
    pair = Pair(seed=5, faults=Faults(loss=0.08), fifo=16384, **modes)
    connected = [pair.connect(port=80 + k) for k in range(6)]
    streams = [bytes((i * (k + 7) >> 3) & 0xFF for i in range(40_000)) for k in range(6)]
    talkers = []
    for (client, server), stream in zip(connected, streams, strict=True):
        talkers += [Talker(client, b"", [1], [65536]), Talker(server, stream, [4096], [1])]
    pair.drive(lambda: [t.pump() for t in talkers] and all(t.finished for t in talkers))
    assert [bytes(t.got) for t in talkers[::2]] == streams and not any(t.error for t in talkers)
    stats = pair.right.stats()
    assert stats["retransmits"] > 20 and stats["strangers"] == 0
    assert stats["crashes"] == 0 or recovery == "unchecked"
    assert stats["rxt_sent"] > 20


# ---- whole runs ----


def transfer(recovery: str, seed: int = 1, **given: Any) -> Result:
    """A run under the simulator that provokes what D1 is about: little budget, much loss, clients that are cut."""
    settings: dict[str, Any] = {
        "clients": CLIENTS, "size": 60_000, "loss": 0.1, "unread": 0.5, "abort": 0.3, "budget": 1, "fifo": 16384,
    }  # fmt: skip
    return simulated("transfer", recovery=recovery, seed=seed, **settings | given)


@pytest.mark.parametrize("recovery", CHECKED)
@policies
def test_a_checked_mode_neither_crashes_nor_strays(recovery: str, policy: str) -> None:
    result = transfer(recovery, retransmit_policy=policy)
    found = result.data["recovery"]
    assert result.ok, result.problems
    assert found["crashes"] == 0 and found["retransmits"] >= found["sent"] > 100
    assert found["strangers"] == 0 or recovery == "state-aware"
    assert result.data["transfers"]["completed"] == result.data["requests"] == CLIENTS
    assert result.data["transfers"]["cut_by_reset"] > 0 and result.data["transfers"]["cut_by_abort"] > 0
    assert found["freed_queued"] > 0 or recovery == "flag"
    assert found["max_depth"] > 4 or recovery == "flag"


@policies
def test_unchecked_crashes_or_strays(policy: str) -> None:
    """The negative control: for some seed what the others avoid does happen, and the run says so."""
    results = [transfer("unchecked", seed, retransmit_policy=policy) for seed in (1, 2)]
    found = [result.data["recovery"]["crashes"] + result.data["recovery"]["strangers"] for result in results]
    assert sum(found) > 0
    assert [result.ok for result in results] == [count == 0 for count in found]
    assert any("freed connection" in problem or "stranger" in problem for result in results for problem in result.problems)
    assert all(result.data["transfers"]["completed"] == CLIENTS for result in results)


def test_generation_and_purge_send_the_same() -> None:
    """A stale entry costs neither of them a segment of anybody's budget, so the same seed is the same run."""
    dropped, purged = (transfer(mode).data for mode in ("generation", "purge"))
    for name in ("requests", "duration_s", "transfers", "connections", "latency_ns"):
        assert dropped[name] == purged[name]
    assert dropped["recovery"]["dropped"] == purged["recovery"]["purges"] == purged["recovery"]["freed_queued"] > 0
