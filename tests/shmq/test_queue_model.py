"""The queue against a deque, between two processes that both put and get: every answer compared, in order."""

import queue as stdlib_queue
from collections import deque

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from shmq import Queue
from tests.shmq.sides import FAR, WAIT_S, Thing, TwoProcesses, play

CAPACITY = 4096  # bytes: a message of more than an eighth of it is spilled to the file

things = st.one_of(
    st.integers(),
    st.binary(max_size=200),
    st.builds(bytes, st.integers(CAPACITY // 8 - 100, CAPACITY // 8 + 100)),
    st.builds(bytearray, st.integers(CAPACITY, 20_000)),
    st.lists(st.text(max_size=5), max_size=5),
)


class QueueModel(TwoProcesses):
    queue: Queue | None = None

    @initialize(maxsize=st.sampled_from([1, 2, 7, 64]))
    def make(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.model: deque[object] = deque()
        self.puts = 0
        self.queue = Queue(maxsize, capacity=CAPACITY, name=self.name())
        self.handles = [side.attach(Queue, str(self.queue.name)) for side in (self.here, self.there)]

    @property
    def full(self) -> bool:
        return len(self.model) == self.maxsize

    def at(self, far: bool) -> Thing:
        return self.handles[far]

    def expect(self, thing: object) -> None:
        self.model.append(thing)
        self.puts += 1

    @rule(thing=things, far=FAR)
    def put(self, thing: object, far: bool) -> None:
        if self.full:
            with pytest.raises(stdlib_queue.Full):
                self.at(far).put_nowait(thing)
        else:
            self.at(far).put_nowait(thing)
            self.expect(thing)

    @rule(some=st.lists(things, max_size=8), far=FAR)
    def put_some(self, some: list[object], far: bool) -> None:
        for thing in some:
            self.put(thing, far)

    @rule(far=FAR)
    def get(self, far: bool) -> None:
        if self.model:
            assert self.at(far).get_nowait() == self.model.popleft()
        else:
            with pytest.raises(stdlib_queue.Empty):
                self.at(far).get_nowait()

    @rule(far=FAR, n=st.integers(1, 80))
    def get_some(self, far: bool, n: int) -> None:
        for _ in range(min(n, len(self.model))):
            self.get(far)

    @precondition(lambda self: not self.model)
    @rule(thing=things)
    def get_waits_for_a_put(self, thing: object) -> None:
        self.at(far=True).begin("get", True, WAIT_S)
        self.at(far=False).put(thing)
        self.puts += 1
        assert self.at(far=True).answer() == thing

    @precondition(lambda self: self.full)
    @rule(thing=things)
    def put_waits_for_a_get(self, thing: object) -> None:
        self.at(far=True).begin("put", thing, True, WAIT_S)
        assert self.at(far=False).get() == self.model.popleft()
        assert self.at(far=True).answer() is None
        self.expect(thing)

    @rule(far=FAR)
    def reopen(self, far: bool) -> None:
        assert self.queue is not None
        self.at(far).drop()
        self.handles[far] = self.side(far).attach(Queue, str(self.queue.name))

    @invariant()
    def sizes_agree(self) -> None:
        if self.queue is not None:
            for far in (False, True):
                assert self.at(far).qsize() == len(self.model)
                assert self.at(far).empty() == (not self.model)
                assert self.at(far).full() == self.full
            stats = self.queue.stats()
            assert (stats["puts"], stats["gets"]) == (self.puts, self.puts - len(self.model))

    def teardown(self) -> None:
        super().teardown()
        if self.queue is not None:
            self.queue.close()


def test_queue() -> None:
    play(QueueModel, examples=30)
