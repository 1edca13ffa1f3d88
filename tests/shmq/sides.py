"""The two processes of a model test: `Here`, the test's own, and `There`, forked once, commanded over a pipe.

A rule of a state machine says what a side does, gets the answer, and compares it with a plain model. Both sides have the
same face, so a model draws anew for every example which end lives where. A shared object is opened by name in each
process; what lives there (ends, queues, locks) is called through a `Thing`, and only bytes and numbers come back. A call
that must wait for the other side is begun there, and its answer is fetched after that side did its part here: whatever
the scheduler does in between, the answer is the same.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from shmq import RoleTaken
from tests.shmq.helpers import PATIENCE_S, Child

WAIT_S = 10.0  # of a call that is begun there: longer than any machine needs, shorter than PATIENCE_S


class Side:
    """A process with things in it."""

    def do(self, work: Callable[..., Any], *args: Any) -> Any:
        """Call work(things, *args) in that process; raises here what it raises there."""
        raise NotImplementedError

    def attach(self, cls: type, name: str, key: str = "shared") -> "Thing":
        """Open a shared object by name, to be the process's thing of this key."""
        self.do(_attach, key, cls, name)
        return Thing(self, key)

    def take(self, role: str, *args: Any) -> "Thing":
        """Take an end of the shared object: `role` is the method that makes it, and the thing's name."""
        self.do(_keep, role, *args)
        return Thing(self, role)

    def clear(self) -> None:
        """Close everything, latest first."""
        self.do(_clear)


class Here(Side):
    def __init__(self) -> None:
        self._things: dict[str, Any] = {}

    def do(self, work: Callable[..., Any], *args: Any) -> Any:
        return work(self._things, *args)

    def __repr__(self) -> str:
        return "here"


class There(Side):
    """A forked process. Make it before anything that it shall not inherit."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._pipe, far = Pipe()
        self._waiting = False
        self._child = Child(lambda: _serve(far, self._pipe))
        far.close()

    def die(self) -> None:
        """kill -9, and a new process that has nothing."""
        self._child.kill()
        self._pipe.close()
        self._start()

    def do(self, work: Callable[..., Any], *args: Any) -> Any:
        self.begin(work, *args)
        return self.answer()

    def begin(self, work: Callable[..., Any], *args: Any) -> None:
        assert not self._waiting
        self._pipe.send((work, args))
        self._waiting = True

    def answer(self) -> Any:
        if not self._pipe.poll(PATIENCE_S):
            raise TimeoutError("the other process does not answer")
        self._waiting = False
        result, error = self._pipe.recv()
        if error is not None:
            raise error
        return result

    def settle(self) -> None:
        """Let a call end whose rule has failed."""
        if self._waiting:
            with contextlib.suppress(Exception):
                self.answer()

    def clear(self) -> None:
        self.settle()
        super().clear()

    def close(self) -> None:
        self._pipe.close()
        self._child.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self._child.kill()

    def __repr__(self) -> str:
        return "there"


class Thing:
    """A thing that lives on one of the two sides; its methods are called there."""

    def __init__(self, side: Side, key: str) -> None:
        self.side = side
        self._key = key

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(self.side.do, _call, self._key, method)

    def run(self, work: Callable[..., Any], *args: Any) -> Any:
        """Call work(thing, *args) there."""
        return self.side.do(_work, self._key, work, *args)

    def begin(self, method: str, *args: Any) -> None:
        """Let a call begin there that is expected to wait; `answer` of the side gets its result."""
        assert isinstance(self.side, There)
        self.side.begin(_call, self._key, method, *args)

    def answer(self) -> Any:
        """Return what the call that was begun returned."""
        assert isinstance(self.side, There)
        return self.side.answer()

    def drop(self) -> None:
        """Close the thing and forget it."""
        self.side.do(_drop, self._key)


# ---- what the processes do


def _serve(pipe: Connection, unused: Connection) -> None:
    unused.close()  # or this process would not see its parent's death
    things: dict[str, Any] = {}
    while True:
        try:
            work, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = work(things, *args), None
        except Exception as error:
            answer = None, error
        pipe.send(answer)


def _attach(things: dict[str, Any], key: str, cls: Any, name: str) -> None:
    things[key] = cls.attach(name)


def _keep(things: dict[str, Any], role: str, *args: Any) -> None:
    things[role] = getattr(things["shared"], role)(*args)


def _call(things: dict[str, Any], key: str, method: str, *args: Any) -> Any:
    return getattr(things[key], method)(*args)


def _work(things: dict[str, Any], key: str, work: Callable[..., Any], *args: Any) -> Any:
    return work(things[key], *args)


def _drop(things: dict[str, Any], key: str) -> None:
    things.pop(key).close()


def _clear(things: dict[str, Any]) -> None:
    for key in list(things)[::-1]:
        _drop(things, key)


# ---- models


class TwoProcesses(RuleBasedStateMachine):
    """A state machine over objects of two processes; a subclass's rules do the rest."""

    here: Side
    there: There

    def name(self) -> str:
        """Return a name that no other example uses."""
        return f"shmq-test-{os.getpid()}-model-{next(_numbers)}"

    def side(self, far: bool) -> Side:
        return self.there if far else self.here

    def teardown(self) -> None:
        self.here.clear()
        self.there.clear()


_numbers: Iterator[int] = itertools.count()
WAITS = st.sampled_from(["adaptive", "park", "spin"])
FAR = st.booleans()  # which side an end lives on


class TwoEnds(TwoProcesses):
    """What the models of Ring, Channel and ByteFifo share: two ends, each of them on either side, and moving."""

    ROLES = ("producer", "consumer")
    shared: Any = None

    def open(self, shared: Any, tx_far: bool, rx_far: bool, wait: str) -> None:
        """Begin an example with a shared object that has a name."""
        self.shared = shared
        for side in (self.here, self.there):
            side.attach(type(shared), shared.name)
        self._take(tx_far, rx_far, wait)

    def _take(self, tx_far: bool, rx_far: bool, wait: str) -> None:
        self.tx, self.rx = (self.side(far).take(role, wait) for far, role in zip((tx_far, rx_far), self.ROLES, strict=True))

    @rule(tx_far=FAR, rx_far=FAR, wait=WAITS)
    def hand_the_roles_on(self, tx_far: bool, rx_far: bool, wait: str) -> None:
        self.tx.drop()
        self.rx.drop()
        self._take(tx_far, rx_far, wait)

    @rule(far=FAR, role=st.integers(0, 1))
    def nobody_else_gets_a_role(self, far: bool, role: int) -> None:
        with pytest.raises(RoleTaken):
            self.side(far).take(self.ROLES[role])

    @property
    def rx_can_wait(self) -> bool:
        return isinstance(self.rx.side, There) and self.tx.side is self.here

    @property
    def tx_can_wait(self) -> bool:
        return isinstance(self.tx.side, There) and self.rx.side is self.here

    def teardown(self) -> None:
        super().teardown()
        if self.shared is not None:
            self.shared.close()


def play(model: type[TwoProcesses], examples: int, steps: int = 40) -> None:
    """Run a model's examples with one process `There` for all of them; the same examples each time, unless the environment
    variable SHMQ_TEST_EXAMPLES asks for that many new ones."""
    with There() as there:

        def factory() -> TwoProcesses:
            machine = model()
            machine.here, machine.there = Here(), there
            return machine

        run_state_machine_as_test(factory, settings=_settings(examples, steps))


def _settings(examples: int, steps: int) -> settings:
    more = int(os.environ.get("SHMQ_TEST_EXAMPLES", 0))
    return settings(
        max_examples=more or examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=not more,
        suppress_health_check=list(HealthCheck),
        phases=set(Phase) - {Phase.explain},
    )
