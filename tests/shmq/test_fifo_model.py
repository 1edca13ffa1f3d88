"""The byte fifo against a bytearray, between two processes, with bytes written ahead of the stream."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from shmq import ByteFifo
from tests.shmq.sides import FAR, WAIT_S, WAITS, TwoEnds, play

amounts = st.integers(0, 140)
MOST_PIECES = 32  # that a writer keeps ahead of the stream


def offer(end: Any, data: bytes, part: float) -> tuple[int, int]:
    """Reserve room for the data and commit a part of what came; bytes that came, bytes that were committed."""
    with end.reserve(len(data)) as view:
        got = len(view)
        view[:] = data[:got]
    done = round(got * part)
    end.commit(done)
    return got, done


def look(end: Any, n: int, part: float) -> tuple[bytes, int]:
    """View n bytes and release a part of them; what they were, bytes that were released."""
    with end.view(n) as view:
        seen = bytes(view)
    done = round(len(seen) * part)
    end.release(done)
    return seen, done


def read_into(end: Any, n: int) -> bytes:
    out = bytearray(n)
    return bytes(out[: end.read_into(out)])


def held(end: Any) -> int:
    return end.held


class FifoModel(TwoEnds):
    """The visible stream as a bytearray, what is ahead as a dict from stream position to byte."""

    ROLES = ("writer", "reader")

    @initialize(power=st.integers(0, 7), tx_far=FAR, rx_far=FAR, wait=WAITS)
    def make(self, power: int, tx_far: bool, rx_far: bool, wait: str) -> None:
        self.visible = bytearray()
        self.ahead: dict[int, int] = {}
        self.tail = 0
        self.written = 0
        self.open(ByteFifo.create(1 << power, self.name()), tx_far, rx_far, wait)

    def _take(self, tx_far: bool, rx_far: bool, wait: str) -> None:
        super()._take(tx_far, rx_far, wait)
        self.ahead.clear()  # what was ahead went with the last writer

    def fresh(self, n: int) -> bytes:
        self.written += n
        return bytes((self.written + i) * 7 & 255 for i in range(n))

    @property
    def room(self) -> int:
        return self.shared.capacity - len(self.visible)

    def expect(self, offset: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            self.ahead[self.tail + offset + i] = byte
        while self.tail in self.ahead:
            self.visible.append(self.ahead.pop(self.tail))
            self.tail += 1

    def pieces(self) -> int:
        return sum(position - 1 not in self.ahead for position in self.ahead)

    @rule(n=amounts)
    def try_write(self, n: int) -> None:
        data = self.fresh(n)
        done = self.tx.try_write(data)
        assert done == min(n, self.room)
        self.expect(0, data[:done])

    @rule(offset=amounts, n=st.integers(0, 40))
    def write_at(self, offset: int, n: int) -> None:
        data = self.fresh(n)
        done = self.tx.write_at(offset, data)
        if done or self.pieces() < MOST_PIECES:
            assert done == max(0, min(n, self.room - offset))
        self.expect(offset, data[:done])

    @precondition(lambda self: not self.ahead)
    @rule(n=st.integers(1, 140), part=st.floats(0, 1))
    def reserve_commit(self, n: int, part: float) -> None:
        data = self.fresh(n)
        got, done = self.tx.run(offer, data, part)
        assert got <= min(n, self.room)
        assert got or not self.room
        self.expect(0, data[:done])

    @rule(n=amounts)
    def try_read(self, n: int) -> None:
        assert self.rx.try_read(n) == self.visible[:n]
        del self.visible[:n]

    @precondition(lambda self: self.visible)
    @rule(n=amounts)
    def read_into(self, n: int) -> None:
        assert self.rx.run(read_into, n) == self.visible[:n]
        del self.visible[:n]

    @rule(offset=amounts, n=amounts)
    def peek(self, offset: int, n: int) -> None:
        assert self.rx.peek(offset, n) == self.visible[offset : offset + n]

    @rule(n=amounts)
    def skip(self, n: int) -> None:
        assert self.rx.skip(n) == min(n, len(self.visible))
        del self.visible[:n]

    @rule(n=st.integers(1, 140), part=st.floats(0, 1))
    def view_release(self, n: int, part: float) -> None:
        seen, done = self.rx.run(look, n, part)
        assert seen == self.visible[: len(seen)]
        assert seen or not self.visible
        del self.visible[:done]

    @precondition(lambda self: self.rx_can_wait and not self.visible and not self.ahead)
    @rule(n=st.integers(1, 140))
    def read_waits_for_a_write(self, n: int) -> None:
        data = self.fresh(n)
        self.rx.begin("read", n, WAIT_S)
        done = self.tx.try_write(data)
        assert done == min(n, self.room)
        self.expect(0, data[:done])
        assert self.rx.answer() == data[:done]
        self.visible.clear()

    @precondition(lambda self: self.tx_can_wait and not self.room)
    @rule(n=st.integers(1, 140))
    def write_waits_for_a_read(self, n: int) -> None:
        data = self.fresh(n)
        self.tx.begin("write", data, WAIT_S)
        assert self.rx.read(1) == self.visible[:1]
        del self.visible[:1]
        assert self.tx.answer() == 1, "as much as there is room for"
        self.expect(0, data[:1])

    @invariant()
    def counters_agree(self) -> None:
        if self.shared is not None:
            assert self.shared.stats()["used"] == len(self.visible)
            assert self.tx.run(held) == len(self.ahead)


def test_fifo() -> None:
    play(FifoModel, examples=60)
