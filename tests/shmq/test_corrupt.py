"""Hostile memory: whatever stands in a ring's header, a call reports CorruptSegment or works, and never crashes.

Crashes are looked for under AddressSanitizer as well, in test_native. Here each case runs in a forked child, so that a
crash is a failed test, not the end of the run.
"""

import random
import struct
from collections.abc import Callable

import pytest

from shmq import CorruptSegment, Ring, RoleTaken, Segment, _native
from tests.shmq.helpers import Child

Fork = Callable[[Callable[[], None]], Child]
RING_BYTES, FIELDS = _native.layout()["ring"]
CAPACITY, SLOT = 8, 16
TOP = (1 << 64) - 1
BOUNDARIES = sorted({(base + d) & TOP for base in (0, CAPACITY, 1 << 31, 1 << 32, 1 << 63, TOP) for d in range(-2, 3)})


class Target:
    """A ring with some records in it whose header can be overwritten field by field."""

    def __init__(self) -> None:
        self.ring = Ring.create(CAPACITY, SLOT)
        self.tx, self.rx = self.ring.producer(), self.ring.consumer()
        for i in range(11):  # wrapped once, three records inside
            self.tx.push(bytes([i]) * SLOT)
            if i < 8:
                self.rx.pop()

    def write(self, field: str, value: int) -> None:
        offset, size = FIELDS[field]
        self.ring.segment.buf[offset : offset + size] = value.to_bytes(size, "little")

    def use(self, producer: bool = True, consumer: bool = True) -> int:
        """Call everything; return how many calls reported corruption."""
        calls: list[Callable[[], object]] = [self.ring.stats]
        if producer:
            calls += [
                lambda: self.tx.try_push(bytes(SLOT)),
                lambda: self.tx.push_many([bytes(SLOT)] * 40),
                lambda: self.tx.push_array(bytes(SLOT) * 40),
                self.scribble,
            ]
        if consumer:
            calls += [
                self.rx.try_pop,
                lambda: self.rx.pop_many(1000),
                lambda: self.rx.pop_array(bytearray(SLOT * 1000)),
                lambda: (bytes(self.rx.peek(1000)), self.rx.release(0)),
            ]
        raised = 0
        for call in calls * 3:
            try:
                call()
            except CorruptSegment:
                raised += 1
        return raised

    def scribble(self) -> None:
        view = self.tx.reserve(40)
        view[:] = b"\xff" * len(view)
        self.tx.commit(min(1, len(view)))


@pytest.mark.parametrize("value", BOUNDARIES)
@pytest.mark.parametrize("field", ["head", "tail"])
def test_cursor_at_every_boundary(field: str, value: int, fork: Fork) -> None:
    def attack() -> None:
        target = Target()
        target.write(field, value)
        # head tells the producer what it may reuse, tail tells the consumer what it may read
        raised = target.use(producer=field == "head", consumer=field == "tail")
        believable = 0 <= (11 - value if field == "head" else value - 8) <= CAPACITY
        assert (raised == 0) == believable

    fork(attack).join()


@pytest.mark.parametrize("value", BOUNDARIES)
@pytest.mark.parametrize("field", ["head", "tail"])
def test_cursor_at_every_boundary_before_the_roles_are_taken(field: str, value: int) -> None:
    target = Target()
    target.tx.close()
    target.rx.close()
    target.write(field, value)
    head, tail = (value, 11) if field == "head" else (8, value)
    for take in (target.ring.producer, target.ring.consumer):
        if 0 <= tail - head <= CAPACITY:
            take().close()
        else:
            with pytest.raises(CorruptSegment, match="impossible"):
                take()
            with pytest.raises(CorruptSegment):  # and the role was given back
                take()


@pytest.mark.parametrize("value", BOUNDARIES)
@pytest.mark.parametrize("field", ["capacity", "slot_size", "slots_at", "magic"])
def test_geometry_at_every_boundary(field: str, value: int) -> None:
    with Ring.create(CAPACITY, SLOT) as ring:
        offset, size = FIELDS[field]
        value &= (1 << 8 * size) - 1
        old = int.from_bytes(ring.segment.buf[offset : offset + size], "little")
        ring.segment.buf[offset : offset + size] = value.to_bytes(size, "little")
        fits = {
            "capacity": 0 < value <= CAPACITY and value & (value - 1) == 0,
            "slot_size": 0 < value <= SLOT,
            "slots_at": value == old,
            "magic": value == old,
        }[field]
        for take in (ring.producer, ring.consumer):
            if fits:
                take().close()
            else:
                with pytest.raises(CorruptSegment):
                    take()


def test_geometry_changed_after_the_ends_were_taken_has_no_effect(fork: Fork) -> None:
    def attack() -> None:
        target = Target()
        for field, value in (("capacity", 1 << 40), ("slot_size", 1 << 30), ("slots_at", 0), ("magic", 0)):
            target.write(field, value)
        records = target.rx.pop_many(9)
        assert records == [bytes([i]) * SLOT for i in (8, 9, 10)]
        assert target.tx.push_array(bytes(SLOT * CAPACITY)) == CAPACITY
        assert len(target.rx.peek(99)) <= SLOT * CAPACITY

    fork(attack).join()


def test_a_corrupt_cursor_is_reported_every_time_and_heals() -> None:
    target = Target()
    target.write("tail", 1 << 62)
    for _ in range(5):
        with pytest.raises(CorruptSegment):
            target.rx.pop_many(1000)
    target.write("tail", 11)
    assert len(target.rx.pop_many(1000)) == 3
    target.write("head", 1 << 63)
    for _ in range(5):
        with pytest.raises(CorruptSegment):
            target.tx.push_array(bytes(SLOT * CAPACITY))
    target.write("head", 11)
    assert target.tx.push_array(bytes(SLOT * CAPACITY)) == CAPACITY


def test_blocking_calls_report_corruption() -> None:
    target = Target()
    target.rx.pop_many(9)
    target.write("tail", 5)
    with pytest.raises(CorruptSegment):
        target.rx.pop(timeout=5)
    target.write("tail", 11)
    target.tx.push_array(bytes(SLOT * CAPACITY))
    target.write("head", 1 << 40)
    with pytest.raises(CorruptSegment):
        target.tx.push(bytes(SLOT), timeout=5)


def test_foreign_role_tokens() -> None:
    target = Target()
    target.tx.close()
    for token in (1, 0xFFFFFFFF << 32 | 7, 0x7FFFFFFF << 32 | 7, TOP):
        target.write("producer", token)
        target.ring.producer().close()  # nobody such lives: the role is free
    target.write("producer", 1 << 32 | 1)  # pid 1 without a start time: alive
    with pytest.raises(RoleTaken):
        target.ring.producer()


def test_parked_word_of_no_meaning() -> None:
    target = Target()
    for field in ("consumer_cell", "producer_cell"):
        offset = FIELDS[field][0]
        target.ring.segment.buf[offset : offset + 4] = struct.pack("I", 0xDEADBEEF)
    assert target.tx.try_push(bytes(SLOT))
    assert len(target.rx.pop_many(9)) == 4


def test_ten_thousand_random_headers(fork: Fork) -> None:
    def attack() -> None:
        chance = random.Random(7)
        target = Target()
        buf = target.ring.segment.buf
        clean = bytes(buf[:RING_BYTES])
        for _ in range(10_000):
            for _ in range(chance.randrange(1, 6)):
                at = chance.randrange(RING_BYTES - 8)
                buf[at : at + 8] = chance.choice(
                    [chance.randbytes(8), chance.choice(BOUNDARIES).to_bytes(8, "little"), b"\xff" * 8]
                )
            target.use()
            target.tx.close()
            target.rx.close()
            buf[:RING_BYTES] = clean
            for field in ("producer", "consumer"):
                target.write(field, 0)
            target.tx, target.rx = target.ring.producer(), target.ring.consumer()

    fork(attack).join()


def test_ring_header_of_random_bytes() -> None:
    chance = random.Random(3)
    with Segment.create(4096, "ring", "1") as segment:
        for _ in range(500):
            segment.buf[:] = chance.randbytes(4096)
            assert _native.ring_info(segment.mapping, segment.payload_at) is None
            with pytest.raises(CorruptSegment):
                _native.RingProducer(segment.mapping, segment.payload_at, 1, 0, 0)


@pytest.mark.parametrize("at", [-1, 1, 64, 4096, 4096 + 128, 1 << 62])
def test_ring_at_a_place_where_none_fits(at: int) -> None:
    with Segment.create(4096, "ring", "1") as segment:
        _native.ring_init(segment.mapping, segment.payload_at, 4, 8, 0)
        assert _native.ring_info(segment.mapping, at) is None
        with pytest.raises(CorruptSegment):
            _native.RingConsumer(segment.mapping, at, 1, 0, 0)
        with pytest.raises(ValueError, match="does not fit"):
            _native.ring_init(segment.mapping, at, 256, 64, 0)
