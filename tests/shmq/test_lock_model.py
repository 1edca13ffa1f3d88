"""Every lock against a plain account of who holds it: four handles in two processes, one of which is killed at times."""

import contextlib
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from shmq import FutexRwLock, Mutex, OwnerDied, PthreadRwLock, SpinLock, SpinRwLock
from tests.shmq.sides import WAIT_S, Thing, TwoProcesses, play

HANDLES = range(4)  # the first two are here, the others there
NEAR, FAR = HANDLES[:2], HANDLES[2:]
READ, WRITE = "_read", "_write"  # as in acquire_read; an exclusive lock only has one way

handles = st.sampled_from(HANDLES)
hows = st.sampled_from([READ, WRITE])


def held(lock: Any) -> bool:
    return lock.held


def let_go(lock: Any) -> None:
    """Release whatever a failed example left held."""
    for verb in ("release", "release_read", "release_write"):
        with contextlib.suppress(AttributeError, RuntimeError):
            getattr(lock, verb)()


class LockModel(TwoProcesses):
    """A subclass says which lock. An exclusive lock is one that everybody writes."""

    KIND: Any
    lock: Any = None

    @initialize()
    def make(self) -> None:
        self.lock = self.KIND.create(self.name())
        self.holds: dict[int, str] = {}
        self.things: dict[int, Thing] = {}
        for i in HANDLES:
            self.open(i)

    def open(self, i: int) -> None:
        self.things[i] = self.side(i in FAR).attach(self.KIND, self.lock.segment.name, f"handle {i}")

    @property
    def shared(self) -> bool:
        return hasattr(self.KIND, "read")

    def verb(self, verb: str, how: str) -> str:
        return verb + how if self.shared else verb

    def call(self, i: int, verb: str, how: str, *args: Any) -> Any:
        return getattr(self.things[i], self.verb(verb, how))(*args)

    def blockers(self, i: int, how: str) -> list[int]:
        """Return the handles that keep this one out."""
        return [k for k, held_as in self.holds.items() if k != i and WRITE in (how, held_as)]

    def effective(self, how: str) -> str:
        return how if self.shared else WRITE

    @rule(i=handles, how=hows, timeout=st.sampled_from([0, 1e-6]))
    def try_to_acquire(self, i: int, how: str, timeout: float) -> None:
        how = self.effective(how)
        if i in self.holds:
            with pytest.raises(RuntimeError, match="not recursive"):
                self.call(i, "acquire", how, timeout)
        else:
            free = not self.blockers(i, how)
            assert self.call(i, "acquire", how, timeout) is free
            if free:
                self.holds[i] = how

    @rule(i=handles, how=hows)
    def release(self, i: int, how: str) -> None:
        how = self.effective(how)
        if self.holds.get(i) == how:
            self.call(i, "release", how)
            del self.holds[i]
        else:
            with pytest.raises(RuntimeError):
                self.call(i, "release", how)

    @rule(i=st.sampled_from(FAR), how=hows)
    def wait_for_those_here(self, i: int, how: str) -> None:
        """Acquire there, and get the lock when those that were in the way have let go."""
        how = self.effective(how)
        blockers = self.blockers(i, how)
        if i in self.holds or not set(blockers) <= set(NEAR):
            return
        self.things[i].begin(self.verb("acquire", how), WAIT_S)
        for k in blockers:
            self.release(k, self.holds[k])
        assert self.things[i].answer() is True
        self.holds[i] = how

    @rule(i=handles)
    def reopen(self, i: int) -> None:
        if i in self.holds:
            with pytest.raises(RuntimeError, match="release it first"):
                self.things[i].close()
        else:
            self.things[i].drop()
            self.open(i)

    @invariant()
    def handles_agree(self) -> None:
        if self.lock is not None:
            assert {i for i in HANDLES if self.things[i].run(held)} == set(self.holds)

    def teardown(self) -> None:
        if self.lock is not None:
            self.there.settle()
            for thing in self.things.values():
                thing.run(let_go)
            super().teardown()
            self.lock.close()


class DeathModel(LockModel):
    """The locks that survive the death of a holder."""

    @precondition(lambda self: self.lock is not None and not set(self.holds) & set(NEAR))
    @rule(hows=st.lists(hows, max_size=3))
    def the_other_process_dies(self, hows: list[str]) -> None:
        """Everybody is told of a dead writer until another writer was; a dead reader is nobody's concern."""
        died = WRITE in self.holds.values()
        self.there.die()
        self.holds.clear()
        for i in FAR:
            self.open(i)
        for how in [*map(self.effective, hows), WRITE]:
            for i in (NEAR[0], FAR[0]):
                if died:
                    with pytest.raises(OwnerDied):
                        self.call(i, "acquire", how, WAIT_S)
                else:
                    assert self.call(i, "acquire", how, WAIT_S) is True
                self.call(i, "release", how)
                died = died and how == READ


@pytest.mark.parametrize("kind", [SpinLock, Mutex, SpinRwLock, FutexRwLock])
def test_lock(kind: type) -> None:
    play(type("Model", (DeathModel,), {"KIND": kind}), examples=15)


def test_pthread_lock() -> None:
    play(type("Model", (LockModel,), {"KIND": PthreadRwLock}), examples=15)
