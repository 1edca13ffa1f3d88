"""The event against a flag, between two processes, with waits that begin before the set that ends them."""

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from shmq import Event
from tests.shmq.helpers import until
from tests.shmq.sides import FAR, WAIT_S, Thing, TwoProcesses, play


class EventModel(TwoProcesses):
    event: Event | None = None

    @initialize()
    def make(self) -> None:
        self.flag = False
        self.sets = 0
        self.event = Event.create(self.name())
        assert self.event.segment is not None
        name = str(self.event.segment.name)
        self.handles = [side.attach(Event, name) for side in (self.here, self.there)]

    def at(self, far: bool) -> Thing:
        return self.handles[far]

    @rule(far=FAR)
    def set(self, far: bool) -> None:
        self.at(far).set()
        self.sets += not self.flag
        self.flag = True

    @rule(far=FAR)
    def clear(self, far: bool) -> None:
        self.at(far).clear()
        self.flag = False

    @rule(far=FAR, timeout=st.sampled_from([0, 0.0, 1e-9]))
    def wait(self, far: bool, timeout: float) -> None:
        assert self.at(far).wait(timeout) is self.flag

    @precondition(lambda self: not self.flag)
    @rule(clear=st.booleans())
    def wait_ends_with_the_next_set(self, clear: bool) -> None:
        """Also when the flag is cleared before the waiter looks again."""
        event = self.event
        assert event is not None
        self.at(far=True).begin("wait", WAIT_S)
        until(lambda: event.stats()["waiters"] == 1)
        self.set(far=False)
        if clear:
            self.clear(far=False)
        assert self.at(far=True).answer() is True

    @precondition(lambda self: self.flag)
    @rule()
    def no_wait_while_set(self) -> None:
        assert self.at(far=True).wait(None) is True

    @invariant()
    def flags_agree(self) -> None:
        if self.event is not None:
            for far in (False, True):
                assert self.at(far).is_set() is self.flag
            stats = self.event.stats()
            assert (stats["sets"], stats["waiters"]) == (self.sets, 0)

    def teardown(self) -> None:
        super().teardown()
        if self.event is not None:
            self.event.close()


def test_event() -> None:
    play(EventModel, examples=40)
