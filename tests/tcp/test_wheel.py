"""The timer wheel against a plain dictionary of times, and its structure after every step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stackcore.tcp import wheel
from stackcore.tcp.config import HostConfig
from stackcore.tcp.memory import new_tcp
from stackcore.tcp.state import MS, TICK_SHIFT, TIMERS, WHEEL_SLOTS, S, Tcp
from stackcore.tcp.wheel import timer_next, timer_running, timer_set, timer_soonest, timer_stop

TICK = 1 << TICK_SHIFT
ROUND = WHEEL_SLOTS * TICK
CONNECTIONS = 8


def stack(connections: int = CONNECTIONS) -> Tcp:
    return new_tcp(HostConfig(connections=connections, slots=1, seed=1))[0]


@pytest.fixture
def t() -> Tcp:
    return stack()


def ceil_tick(at: int) -> int:
    return -(-at // TICK)


def due(t: Tcp, now: int) -> list[int]:
    """All timers that are due at ``now``, in the order in which they come."""
    found = []
    while (i := timer_next(t, now)) >= 0:
        found.append(i)
    return found


def check_structure(t: Tcp) -> None:
    """Lists, bit map and each timer's own idea of where it is agree; a slot holds timers of one tick."""
    first = int(t.cfg[0]["wheel_tick"])
    linked = set()
    bits = (t.wheel_map[:, None] >> np.arange(32)) & 1
    assert np.array_equal(bits.ravel() == 1, t.wheel >= 0)
    assert not (t.wheel_map >> 32).any()
    for slot in np.flatnonzero(t.wheel >= 0):
        i, before = int(t.wheel[slot]), -1
        while i >= 0:
            assert i not in linked
            linked.add(i)
            assert t.tmr[i]["prev"] == before
            assert t.tmr[i]["due"] % WHEEL_SLOTS == slot
            assert first <= t.tmr[i]["due"] < first + WHEEL_SLOTS
            if t.tmr[i]["expiry"] != 0:
                assert t.tmr[i]["due"] <= max(ceil_tick(int(t.tmr[i]["expiry"])), first)
            i, before = int(t.tmr[i]["next"]), i
    assert linked == set(np.flatnonzero(t.tmr["due"] >= 0))
    assert linked >= set(np.flatnonzero(t.tmr["expiry"] != 0))


class TestOne:
    @pytest.mark.parametrize("at", [1, TICK, TICK + 1, S, S + 5 * TICK - 1, ROUND, ROUND + 1, 7200 * S, 10 * 24 * 3600 * S])
    def test_fires_once_at_its_tick(self, t: Tcp, at: int) -> None:
        timer_set(t, 3, 2, at)
        reached = ceil_tick(at) * TICK
        assert at <= reached < at + TICK
        assert timer_running(t, 3, 2)
        assert due(t, reached - 1) == []
        assert due(t, reached) == [3 * TIMERS + 2]
        assert not timer_running(t, 3, 2)
        assert due(t, reached + 100 * S) == []

    def test_late_is_as_good(self, t: Tcp) -> None:
        timer_set(t, 0, 0, S)
        assert due(t, 3600 * S) == [0]

    def test_moved_later(self, t: Tcp) -> None:
        """What the retransmission timer does at each acknowledgment."""
        for k in range(1, 100):
            timer_set(t, 1, 0, k * 10 * MS + 200 * MS)
            assert due(t, k * 10 * MS) == []
        at = 99 * 10 * MS + 200 * MS
        assert due(t, at) == []
        assert due(t, at + TICK) == [TIMERS]

    def test_moved_earlier(self, t: Tcp) -> None:
        timer_set(t, 1, 0, 10 * S)
        timer_set(t, 1, 0, S)
        assert due(t, S + TICK) == [TIMERS]
        assert due(t, 20 * S) == []

    def test_stopped(self, t: Tcp) -> None:
        timer_set(t, 1, 0, S)
        timer_stop(t, 1, 0)
        assert not timer_running(t, 1, 0)
        assert due(t, 2 * S) == []

    def test_stopped_and_set_again(self, t: Tcp) -> None:
        timer_set(t, 1, 0, S)
        timer_stop(t, 1, 0)
        timer_set(t, 1, 0, 2 * S)
        assert due(t, S + TICK) == []
        assert due(t, 2 * S + TICK) == [TIMERS]

    def test_stopping_what_does_not_run(self, t: Tcp) -> None:
        timer_stop(t, 1, 0)
        assert due(t, S) == []

    def test_for_a_tick_that_was_served_is_for_the_next(self, t: Tcp) -> None:
        """So that no action can keep one ``now`` busy for ever."""
        assert due(t, S) == []
        timer_set(t, 1, 0, S // 2)
        assert due(t, S) == []
        assert due(t, (S // TICK + 1) * TICK) == [TIMERS]


class TestMany:
    def test_in_the_order_of_their_ticks(self, t: Tcp) -> None:
        for c in range(CONNECTIONS):
            timer_set(t, c, 0, S - c * TICK)
        assert due(t, S + TICK) == [c * TIMERS for c in reversed(range(CONNECTIONS))]

    def test_an_action_may_set_timers(self, t: Tcp) -> None:
        """What is set for a time after ``now`` does not fire in the same pass, whatever had to be skipped to get there."""
        now = 3600 * S
        for c in range(CONNECTIONS):
            timer_set(t, c, 0, S)
        fired = []
        while (i := timer_next(t, now)) >= 0:
            fired.append(i)
            timer_set(t, i // TIMERS, 1, now + 1)
        assert sorted(fired) == [c * TIMERS for c in range(CONNECTIONS)]
        assert sorted(due(t, now + TICK)) == [c * TIMERS + 1 for c in range(CONNECTIONS)]

    def test_an_action_may_stop_and_move_others(self, t: Tcp) -> None:
        timer_set(t, 0, 0, S)
        timer_set(t, 1, 0, S + TICK)
        timer_set(t, 2, 0, S + 2 * TICK)
        now = 2 * S
        assert timer_next(t, now) == 0
        timer_stop(t, 1, 0)
        timer_set(t, 2, 0, 3 * S)
        assert timer_next(t, now) == -1
        assert due(t, 3 * S + TICK) == [2 * TIMERS]

    def test_hours_cost_one_look_per_timer(self, t: Tcp, monkeypatch: pytest.MonkeyPatch) -> None:
        """Timers that are further away than the wheel goes round are linked anew once for a jump, not once a round."""
        looks = 0
        place = wheel._place

        def counted(t: Tcp, i: int) -> None:
            nonlocal looks
            looks += 1
            place(t, i)

        for c in range(CONNECTIONS):
            timer_set(t, c, 0, 7200 * S + c)
        monkeypatch.setattr(wheel, "_place", counted)
        assert getattr(timer_next, "py_func", timer_next)(t, 3600 * S) == -1
        assert CONNECTIONS <= looks <= 2 * CONNECTIONS
        monkeypatch.undo()
        check_structure(t)


class TestSoonest:
    def test_nothing_set(self, t: Tcp) -> None:
        assert timer_soonest(t) == -1

    def test_is_the_tick_of_the_next_one(self, t: Tcp) -> None:
        timer_set(t, 0, 0, 2 * S)
        timer_set(t, 1, 0, S)
        soonest = timer_soonest(t)
        assert soonest == ceil_tick(S) * TICK
        assert due(t, soonest) == [TIMERS]

    def test_leads_to_a_far_timer_in_a_step_per_round(self, t: Tcp) -> None:
        """A virtual clock that always goes to the soonest time gets there, without passing it."""
        at = 60 * S
        timer_set(t, 0, 0, at)
        steps = 0
        while not due(t, now := timer_soonest(t)):
            assert 0 <= now < at
            steps += 1
        assert now == ceil_tick(at) * TICK
        assert steps <= at // ROUND + 1

    def test_stopped_timers_are_forgotten_when_their_slot_comes(self, t: Tcp) -> None:
        timer_set(t, 0, 0, S)
        timer_stop(t, 0, 0)
        assert due(t, timer_soonest(t)) == []
        assert timer_soonest(t) == -1

    @pytest.mark.parametrize("slot", [0, 31, 32, 63, 4095, WHEEL_SLOTS - 1])
    @pytest.mark.parametrize("from_tick", [1, 31, 32, 33, 5000])
    def test_finds_any_slot_from_any_tick(self, t: Tcp, slot: int, from_tick: int) -> None:
        due(t, (from_tick - 1) * TICK)
        tick = WHEEL_SLOTS + slot
        timer_set(t, 0, 0, tick * TICK)
        assert timer_soonest(t) == min(tick, from_tick + WHEEL_SLOTS - 1) * TICK


times = st.one_of(
    st.integers(0, 20 * TICK),
    st.integers(0, 4 * ROUND),
    st.sampled_from([k * TICK + d for k in (1, 31, 32, 33, WHEEL_SLOTS - 1, WHEEL_SLOTS, WHEEL_SLOTS + 1) for d in (-1, 0, 1)]),
    st.integers(0, 7200 * S),
)
which = st.integers(0, CONNECTIONS * TIMERS - 1)


class WheelModel(RuleBasedStateMachine):
    """``due_at[i]``: the tick at which timer i fires, by the promise in the module's head."""

    @initialize(now=st.one_of(st.just(0), times, st.just(1_700_000_000 * S)))
    def begin(self, now: int) -> None:
        self.t = stack()
        self.now = now
        self.due_at: dict[int, int] = {}
        self.expiry: dict[int, int] = {}
        self.unserved = 0

    def set(self, i: int, at: int) -> None:
        timer_set(self.t, i // TIMERS, i % TIMERS, at)
        self.due_at[i] = max(ceil_tick(at), self.unserved)
        self.expiry[i] = at

    def stop(self, i: int) -> None:
        timer_stop(self.t, i // TIMERS, i % TIMERS)
        self.due_at.pop(i, None)
        self.expiry.pop(i, None)

    @rule(i=which, ahead=times)
    def set_one(self, i: int, ahead: int) -> None:
        self.set(i, self.now + 1 + ahead)

    @rule(i=which, back=times)
    def set_in_the_past(self, i: int, back: int) -> None:
        self.set(i, max(1, self.now - back))

    @rule(i=which)
    def stop_one(self, i: int) -> None:
        self.stop(i)

    @rule(
        step=times,
        actions=st.lists(st.one_of(st.none(), st.tuples(which, times), which), max_size=6),
    )
    def go(self, step: int, actions: list[tuple[int, int] | int | None]) -> None:
        """Time passes; what fires may set (for later than now) and stop any others."""
        self.now += step
        target = self.now // TICK
        todo = list(actions)
        while (i := timer_next(self.t, self.now)) >= 0:
            assert self.due_at[i] <= target, "fired early"
            assert self.expiry[i] <= self.now
            del self.due_at[i], self.expiry[i]
            action = todo.pop() if todo else None
            if isinstance(action, tuple):
                self.set(action[0], self.now + 1 + action[1])
            elif action is not None:
                self.stop(action)
        self.unserved = max(self.unserved, target + 1)
        assert all(tick > target for tick in self.due_at.values()), "did not fire"

    @invariant()
    def soonest_is_not_late(self) -> None:
        soonest = timer_soonest(self.t)
        assert soonest >= 0 or not self.due_at
        assert all(soonest <= tick * TICK for tick in self.due_at.values())

    @invariant()
    def running_is_known(self) -> None:
        for i in range(CONNECTIONS * TIMERS):
            assert timer_running(self.t, i // TIMERS, i % TIMERS) == (i in self.due_at)

    @invariant()
    def structure(self) -> None:
        check_structure(self.t)


TestWheelModel = WheelModel.TestCase
TestWheelModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
