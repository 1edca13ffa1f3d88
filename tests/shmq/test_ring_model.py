"""The ring against a deque, between two processes: any sequence of calls, at capacities so small that everything wraps."""

from collections import deque
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from shmq import Ring
from tests.shmq.sides import FAR, WAIT_S, WAITS, TwoEnds, play


def offer(end: Any, n: int, records: bytes, part: float) -> tuple[int, int]:
    """Reserve n slots, fill what came, commit a part of it; slots that came, slots that were committed."""
    with end.reserve(n) as view:
        view[:] = records[: len(view)]
        got = len(view) // end.slot_size
    done = round(got * part)
    end.commit(done)
    return got, done


def look(end: Any, n: int, part: float) -> tuple[bytes, int]:
    """Peek at n slots, release a part of them; what they held, slots that were released."""
    with end.peek(n) as view:
        seen = bytes(view)
    done = round(len(seen) // end.slot_size * part)
    end.release(done)
    return seen, done


def pop_array(end: Any, size: int) -> bytes:
    out = bytearray(size)
    return bytes(out[: end.pop_array(out) * end.slot_size])


class RingModel(TwoEnds):
    @initialize(
        power=st.integers(0, 3),
        slot_size=st.sampled_from([1, 2, 3, 8, 32, 33, 64, 100]),
        tx_far=FAR,
        rx_far=FAR,
        wait=WAITS,
    )
    def make(self, power: int, slot_size: int, tx_far: bool, rx_far: bool, wait: str) -> None:
        self.capacity, self.slot_size = 1 << power, slot_size
        self.model: deque[bytes] = deque()
        self.number = 0
        self.open(Ring.create(self.capacity, slot_size, self.name()), tx_far, rx_far, wait)

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
        records = self.fresh(n)
        got, done = self.tx.run(offer, n, b"".join(records), part)
        assert got <= min(n, self.room)
        assert got > 0 or self.room == 0
        self.model.extend(records[:done])

    @rule()
    def try_pop(self) -> None:
        assert self.rx.try_pop() == (self.model.popleft() if self.model else None)

    @rule(n=st.integers(0, 20))
    def pop_many(self, n: int) -> None:
        assert self.rx.pop_many(n) == [self.model.popleft() for _ in range(min(n, len(self.model)))]

    @rule(n=st.integers(0, 20))
    def pop_array(self, n: int) -> None:
        records = [self.model.popleft() for _ in range(min(n, len(self.model)))]
        assert self.rx.run(pop_array, n * self.slot_size) == b"".join(records)

    @rule(n=st.integers(1, 20), part=st.floats(0, 1))
    def peek_release(self, n: int, part: float) -> None:
        seen, done = self.rx.run(look, n, part)
        got = len(seen) // self.slot_size
        assert got <= min(n, len(self.model))
        assert got > 0 or not self.model
        assert seen == b"".join(list(self.model)[:got])
        for _ in range(done):
            self.model.popleft()

    @precondition(lambda self: self.rx_can_wait and not self.model)
    @rule()
    def pop_waits_for_a_push(self) -> None:
        (record,) = self.fresh(1)
        self.rx.begin("pop", WAIT_S)
        self.tx.push(record)
        assert self.rx.answer() == record

    @precondition(lambda self: self.tx_can_wait and not self.room)
    @rule()
    def push_waits_for_a_pop(self) -> None:
        (record,) = self.fresh(1)
        self.model.append(record)
        self.tx.begin("push", record, WAIT_S)
        assert self.rx.pop() == self.model.popleft()
        assert self.tx.answer() is None

    @invariant()
    def counters_agree(self) -> None:
        if self.shared is not None:
            stats = self.shared.stats()
            assert stats["used"] == len(self.model)
            assert stats["high_water"] <= self.capacity


def test_ring() -> None:
    play(RingModel, examples=50)
