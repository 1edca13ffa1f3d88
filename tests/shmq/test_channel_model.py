"""The channel against a deque: any sequence of calls, at capacities so small that everything wraps."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shmq import Channel

lengths = st.one_of(st.integers(0, 20), st.integers(0, 300))


class ChannelModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.channel: Channel | None = None
        self.model: deque[bytes] = deque()
        self.number = 0

    @initialize(power=st.integers(4, 9))
    def make(self, power: int) -> None:
        self.channel = Channel.create(1 << power)
        self.tx, self.rx = self.channel.producer(), self.channel.consumer()

    def fresh(self, length: int) -> bytes:
        """Return a message unlike all others of its length, as far as that goes, and not longer than allowed."""
        self.number += 1
        return (self.number.to_bytes(3, "little") * 100)[: min(length, self.tx.max_message)]

    @property
    def free(self) -> int:
        return self.tx.capacity - self.tx.stats()["used"]

    def surely_fits(self, length: int) -> bool:
        return 2 * length + 8 <= self.free

    def surely_not(self, length: int) -> bool:
        return length + 8 > self.free

    @rule(length=lengths)
    def try_push(self, length: int) -> None:
        message = self.fresh(length)
        sure, never = self.surely_fits(len(message)), self.surely_not(len(message))
        done = self.tx.try_push(message)
        assert done >= (sure or not self.model)
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
        length = min(length, self.tx.max_message)
        sure = self.surely_fits(length) or not self.model
        view = self.tx.reserve(length)
        assert view is not None or not sure
        if view is not None:
            assert len(view) == length
            view[:] = b"\xff" * length
            message = self.fresh(round(length * part))
            view[: len(message)] = message
            self.tx.commit(len(message))
            self.model.append(message)

    @rule(length=lengths)
    def reserve_cancel(self, length: int) -> None:
        view = self.tx.reserve(min(length, self.tx.max_message))
        if view is not None:
            view[:] = b"\xff" * len(view)
        self.tx.cancel()

    @rule()
    def try_pop(self) -> None:
        assert self.rx.try_pop() == (self.model.popleft() if self.model else None)

    @rule(n=st.integers(0, 20))
    def pop_many(self, n: int) -> None:
        assert self.rx.pop_many(n) == [self.model.popleft() for _ in range(min(n, len(self.model)))]

    @precondition(lambda self: self.model)
    @rule(room=st.integers(0, 300))
    def pop_into(self, room: int) -> None:
        buffer = bytearray(room)
        try:
            length = self.rx.pop_into(buffer)
        except ValueError:
            assert len(self.model[0]) > room
        else:
            assert buffer[:length] == self.model.popleft()

    @rule(n=st.integers(2, 20), part=st.floats(0, 1))
    def peek_release(self, n: int, part: float) -> None:
        views = self.rx.peek(n)
        assert [bytes(view) for view in views] == list(self.model)[:n]
        done = round(len(views) * part)
        self.rx.release(done)
        for _ in range(done):
            self.model.popleft()

    @rule(done=st.integers(0, 1))
    def peek_one(self, done: int) -> None:
        view = self.rx.peek()
        assert (view is None) == (not self.model)
        if view is not None:
            assert bytes(view) == self.model[0]
            self.rx.release(done)
            if done:
                self.model.popleft()

    @precondition(lambda self: self.channel is not None)
    @rule()
    def hand_the_roles_on(self) -> None:
        assert self.channel is not None
        self.tx.close()
        self.rx.close()
        self.tx, self.rx = self.channel.producer(), self.channel.consumer()

    @invariant()
    def counters_agree(self) -> None:
        if self.channel is not None:
            stats = self.channel.stats()
            assert stats["messages"] == len(self.model)
            assert (stats["used"] == 0) == (not self.model)
            assert stats["used"] % 8 == 0
            assert sum(len(message) + 8 for message in self.model) <= stats["used"] <= stats["capacity"]

    def teardown(self) -> None:
        if self.channel is not None:
            self.tx.close()
            self.rx.close()
            self.channel.close()


TestChannel = ChannelModel.TestCase
TestChannel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
