"""The ring against a deque: any sequence of calls, at capacities so small that everything wraps."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shmq import Ring


class RingModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ring: Ring | None = None
        self.model: deque[bytes] = deque()
        self.number = 0

    @initialize(power=st.integers(0, 3), slot_size=st.sampled_from([1, 2, 3, 8, 32, 33, 64, 100]))
    def make(self, power: int, slot_size: int) -> None:
        self.ring = Ring.create(1 << power, slot_size)
        self.capacity, self.slot_size = 1 << power, slot_size
        self.tx, self.rx = self.ring.producer(), self.ring.consumer()

    def fresh(self, n: int) -> list[bytes]:
        first, self.number = self.number, self.number + n
        return [(first + i).to_bytes(8, "little").ljust(self.slot_size, b"#")[: self.slot_size] for i in range(n)]

    @property
    def room(self) -> int:
        return self.capacity - len(self.model)

    @rule()
    def try_push(self) -> None:
        (record,) = self.fresh(1)
        assert self.tx.try_push(record) == (self.room > 0)
        if self.room:
            self.model.append(record)

    @rule(n=st.integers(0, 20))
    def push_many(self, n: int) -> None:
        records = self.fresh(n)
        done = self.tx.push_many(records)
        assert done == min(n, self.room)
        self.model.extend(records[:done])

    @rule(n=st.integers(0, 20))
    def push_array(self, n: int) -> None:
        records = self.fresh(n)
        done = self.tx.push_array(bytearray(b"".join(records)))
        assert done == min(n, self.room)
        self.model.extend(records[:done])

    @rule(n=st.integers(1, 20), part=st.floats(0, 1))
    def reserve_commit(self, n: int, part: float) -> None:
        with self.tx.reserve(n) as view:
            got = len(view) // self.slot_size
            assert got <= min(n, self.room)
            assert got > 0 or self.room == 0
            done = round(got * part)
            records = self.fresh(done)
            view[: done * self.slot_size] = b"".join(records)
        self.tx.commit(done)
        self.model.extend(records)

    @rule()
    def try_pop(self) -> None:
        assert self.rx.try_pop() == (self.model.popleft() if self.model else None)

    @rule(n=st.integers(0, 20))
    def pop_many(self, n: int) -> None:
        records = self.rx.pop_many(n)
        assert records == [self.model.popleft() for _ in range(min(n, len(self.model)))]

    @rule(n=st.integers(0, 20))
    def pop_array(self, n: int) -> None:
        out = bytearray(n * self.slot_size)
        done = self.rx.pop_array(out)
        assert done == min(n, len(self.model))
        assert out[: done * self.slot_size] == b"".join(self.model.popleft() for _ in range(done))

    @rule(n=st.integers(1, 20), part=st.floats(0, 1))
    def peek_release(self, n: int, part: float) -> None:
        with self.rx.peek(n) as view:
            got = len(view) // self.slot_size
            assert got <= min(n, len(self.model))
            assert got > 0 or not self.model
            assert bytes(view) == b"".join(list(self.model)[:got])
        done = round(got * part)
        self.rx.release(done)
        for _ in range(done):
            self.model.popleft()

    @precondition(lambda self: self.ring is not None)
    @rule()
    def hand_the_roles_on(self) -> None:
        assert self.ring is not None
        self.tx.close()
        self.rx.close()
        self.tx, self.rx = self.ring.producer(), self.ring.consumer()

    @invariant()
    def counters_agree(self) -> None:
        if self.ring is not None:
            stats = self.ring.stats()
            assert stats["used"] == len(self.model)
            assert stats["high_water"] <= self.capacity

    def teardown(self) -> None:
        if self.ring is not None:
            self.tx.close()
            self.rx.close()
            self.ring.close()


TestRing = RingModel.TestCase
TestRing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
