"""The channel against a deque, between two processes: any sequence of calls, at capacities so small that everything wraps."""

from collections import deque
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from shmq import Channel
from tests.shmq.sides import FAR, WAIT_S, WAITS, TwoEnds, play

lengths = st.one_of(st.integers(0, 20), st.integers(0, 300))


def offer(end: Any, length: int, message: bytes) -> int | None:
    """Reserve `length` bytes and commit only the message; the bytes that came, None when there was no room."""
    view = end.reserve(length)
    if view is None:
        return None
    got = len(view)
    view[:] = b"\xff" * got
    view[: len(message)] = message
    end.commit(len(message))
    return got


def scribble(end: Any, length: int) -> None:
    """Reserve, fill, and take it all back."""
    view = end.reserve(length)
    if view is not None:
        view[:] = b"\xff" * len(view)
    end.cancel()


def look(end: Any, n: int, part: float) -> tuple[list[bytes], int]:
    """Peek at n messages, release a part of them; what they held, messages that were released."""
    views = end.peek(n)
    seen = [bytes(view) for view in views]
    done = round(len(seen) * part)
    end.release(done)
    return seen, done


def look_at_one(end: Any, done: int) -> bytes | None:
    view = end.peek()
    if view is None:
        return None
    seen = bytes(view)
    end.release(done)
    return seen


def pop_into(end: Any, room: int) -> bytes | None:
    """None when the message is longer than the buffer."""
    buffer = bytearray(room)
    try:
        return bytes(buffer[: end.pop_into(buffer)])
    except ValueError:
        return None


class ChannelModel(TwoEnds):
    @initialize(power=st.integers(4, 9), tx_far=FAR, rx_far=FAR, wait=WAITS)
    def make(self, power: int, tx_far: bool, rx_far: bool, wait: str) -> None:
        self.model: deque[bytes] = deque()
        self.number = 0
        self.open(Channel.create(1 << power, self.name()), tx_far, rx_far, wait)

    def fresh(self, length: int) -> bytes:
        """Return a message unlike all others of its length, as far as that goes, and not longer than allowed."""
        self.number += 1
        return (self.number.to_bytes(3, "little") * 100)[: min(length, self.shared.max_message)]

    @property
    def free(self) -> int:
        return self.shared.capacity - self.shared.stats()["used"]

    def surely_fits(self, length: int) -> bool:
        return 2 * length + 8 <= self.free or not self.model

    def surely_not(self, length: int) -> bool:
        return length + 8 > self.free

    @rule(length=lengths)
    def try_push(self, length: int) -> None:
        message = self.fresh(length)
        sure, never = self.surely_fits(len(message)), self.surely_not(len(message))
        done = self.tx.try_push(message)
        assert done >= sure
        assert not (done and never)
        if done:
            self.model.append(message)

    @rule(wanted=st.lists(lengths, max_size=20))
    def push_many(self, wanted: list[int]) -> None:
        messages = [self.fresh(length) for length in wanted]
        done = self.tx.push_many(messages)
        assert 0 <= done <= len(messages)
        self.model.extend(messages[:done])
        if done < len(messages):
            assert not self.tx.try_push(messages[done]), "a batch ends only where a single push would fail"

    @rule(length=lengths, part=st.floats(0, 1))
    def reserve_commit(self, length: int, part: float) -> None:
        length = min(length, self.shared.max_message)
        message = self.fresh(round(length * part))
        sure = self.surely_fits(length)
        got = self.tx.run(offer, length, message)
        assert got == length or (got is None and not sure)
        if got is not None:
            self.model.append(message)

    @rule(length=lengths)
    def reserve_cancel(self, length: int) -> None:
        self.tx.run(scribble, min(length, self.shared.max_message))

    @rule()
    def try_pop(self) -> None:
        assert self.rx.try_pop() == (self.model.popleft() if self.model else None)

    @rule(n=st.integers(0, 20))
    def pop_many(self, n: int) -> None:
        assert self.rx.pop_many(n) == [self.model.popleft() for _ in range(min(n, len(self.model)))]

    @precondition(lambda self: self.model)
    @rule(room=st.integers(0, 300))
    def pop_into(self, room: int) -> None:
        message = self.rx.run(pop_into, room)
        if len(self.model[0]) > room:
            assert message is None
        else:
            assert message == self.model.popleft()

    @rule(n=st.integers(2, 20), part=st.floats(0, 1))
    def peek_release(self, n: int, part: float) -> None:
        seen, done = self.rx.run(look, n, part)
        assert seen == list(self.model)[:n]
        for _ in range(done):
            self.model.popleft()

    @rule(done=st.integers(0, 1))
    def peek_one(self, done: int) -> None:
        assert self.rx.run(look_at_one, done) == (self.model[0] if self.model else None)
        if self.model and done:
            self.model.popleft()

    @precondition(lambda self: self.rx_can_wait and not self.model)
    @rule(length=lengths)
    def pop_waits_for_a_push(self, length: int) -> None:
        message = self.fresh(length)
        self.rx.begin("pop", WAIT_S)
        self.tx.push(message)
        assert self.rx.answer() == message

    @precondition(lambda self: self.tx_can_wait and self.model)
    @rule()
    def push_waits_for_room(self) -> None:
        message = self.fresh(self.shared.max_message)
        self.tx.begin("push", message, WAIT_S)
        for expected in self.model:
            assert self.rx.pop() == expected
        assert self.rx.pop() == message
        assert self.tx.answer() is None
        self.model.clear()

    @invariant()
    def counters_agree(self) -> None:
        if self.shared is not None:
            stats = self.shared.stats()
            assert stats["messages"] == len(self.model)
            assert (stats["used"] == 0) == (not self.model)
            assert stats["used"] % 8 == 0
            assert sum(len(message) + 8 for message in self.model) <= stats["used"] <= stats["capacity"]


def test_channel() -> None:
    play(ChannelModel, examples=60)
