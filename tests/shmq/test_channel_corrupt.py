"""Hostile channels: whatever stands in the header or in the messages' headers, a call reports CorruptSegment or works.

The memory accesses themselves are watched by AddressSanitizer in test_native (channel_hostile.c). Here each case runs
through the Python calls, in a forked child, so that a crash is a failed test and not the end of the run.
"""

import random
import struct
from collections.abc import Callable

import pytest

from shmq import Channel, CorruptSegment, Segment, _native
from tests.shmq.helpers import Child

Fork = Callable[[Callable[[], None]], Child]
HEADER, FIELDS = _native.layout()["channel"]
RING_AT = FIELDS["ring"][0]
RING = _native.layout()["ring"][1]
CAPACITY = 128
TOP = (1 << 64) - 1
BOUNDARIES = sorted({(base + d) & TOP for base in (0, CAPACITY, 1 << 31, 1 << 32, 1 << 63, TOP) for d in range(-9, 10)})
MSG, SKIP = 0x4D, 0x53


class Target:
    """A channel that has wrapped and holds four messages."""

    def __init__(self) -> None:
        self.channel = Channel.create(CAPACITY)
        self.buf = self.channel.segment.buf
        self.tx, self.rx = self.channel.producer(), self.channel.consumer()
        for _ in range(3):
            self.tx.push(bytes(40))
            self.rx.pop()
        self.tx.push(b"")
        self.rx.pop()
        assert self.tx.push_many(self.messages) == 4

    messages = (b"first", b"", b"the third", b"x")

    def cursor(self, field: str, value: int) -> None:
        at = RING_AT + RING[field][0]
        self.buf[at : at + 8] = value.to_bytes(8, "little")

    def message_header(self, kind: int, length: int) -> None:
        at = HEADER + (self.rx.stats()["bytes_popped"] % CAPACITY)
        self.buf[at : at + 8] = struct.pack("<II", length, kind)

    def use(self) -> int:
        """Call everything; return how many calls reported corruption."""
        calls: list[Callable[[], object]] = [
            self.channel.stats,
            self.peek_one,
            lambda: ([bytes(view) for view in self.rx.peek(50)], self.rx.release(0)),
            lambda: self.rx.pop_into(bytearray(CAPACITY), timeout=0) if self.rx.stats()["used"] else None,
            self.rx.try_pop,
            lambda: self.rx.pop_many(1000),
            lambda: self.tx.try_push(bytes(30)),
            lambda: self.tx.push_many([bytes(9)] * 40),
            self.scribble,
        ]
        raised = 0
        for call in calls * 2:
            try:
                call()
            except CorruptSegment:
                raised += 1
        return raised

    def peek_one(self) -> None:
        if self.rx.peek() is not None:
            self.rx.release(0)

    def scribble(self) -> None:
        view = self.tx.reserve(20)
        if view is not None:
            view[:] = b"\xff" * 20
            self.tx.commit(3)

    def close(self) -> None:
        self.tx.close()
        self.rx.close()
        self.channel.close()


def test_the_target_is_sound() -> None:
    target = Target()
    assert target.use() == 0


@pytest.mark.parametrize("kind", [MSG, SKIP, 0, TOP & 0xFFFFFFFF])
def test_message_length_at_every_boundary(kind: int, fork: Fork) -> None:
    def attack() -> None:
        for value in BOUNDARIES:
            length = value & 0xFFFFFFFF
            target = Target()
            target.message_header(kind, length)
            at, used = target.rx.stats()["bytes_popped"] % CAPACITY, target.rx.stats()["used"]
            padded = (length + 7) // 8 * 8
            span = 8 + padded if kind == MSG else CAPACITY - at + padded
            believable = kind in (MSG, SKIP) and length <= CAPACITY // 2 and span <= used
            believable = believable and (kind == SKIP or at + span <= CAPACITY)
            if believable:
                assert len(target.rx.pop(0)) == length
            else:
                for _ in range(3):
                    with pytest.raises(CorruptSegment, match="cursor or message header"):
                        target.rx.pop(0)
                target.message_header(MSG, 5)
                assert target.rx.pop_many(9) == list(target.messages), "and it heals"
            target.use()

    fork(attack).join()


@pytest.mark.parametrize("field", ["head", "tail"])
def test_cursor_at_every_boundary(field: str, fork: Fork) -> None:
    def attack() -> None:
        for value in BOUNDARIES:
            target = Target()
            target.cursor(field, value)
            target.use()
            target.tx.close()
            target.rx.close()
            for take in (target.channel.producer, target.channel.consumer):
                try:
                    take().close()
                except CorruptSegment:
                    pass

    fork(attack).join()


@pytest.mark.parametrize(("field", "role"), [("tail", "producer"), ("head", "consumer")])
def test_a_cursor_that_is_no_multiple_of_eight_is_refused(field: str, role: str) -> None:
    target = Target()
    target.tx.close()
    target.rx.close()
    for off in range(1, 8):
        target.cursor(field, target.channel.stats()["bytes_popped"] // 8 * 8 + off)
        with pytest.raises(CorruptSegment, match="impossible"):
            getattr(target.channel, role)()


def test_messages_before_a_damaged_one_are_delivered() -> None:
    for take in (lambda rx: rx.pop_many(9), lambda rx: [bytes(view) for view in rx.peek(9)]):
        target = Target()
        at = HEADER + (target.rx.stats()["bytes_popped"] + 16) % CAPACITY  # the second message
        target.buf[at : at + 8] = b"\xff" * 8
        assert take(target.rx) == [b"first"]
        if target.rx.stats()["pops"] == 4:
            target.rx.release(1)
        with pytest.raises(CorruptSegment):
            target.rx.pop(1)


def test_a_length_that_changes_after_the_peek_changes_nothing() -> None:
    target = Target()
    views = target.rx.peek(9)
    target.message_header(SKIP, 64)
    assert [len(view) for view in views] == [5, 0, 9, 1]
    target.rx.release(2)
    assert target.rx.pop_many(9) == [b"the third", b"x"]


def test_geometry_changed_after_the_ends_were_taken_has_no_effect(fork: Fork) -> None:
    def attack() -> None:
        target = Target()
        for field, value in (("capacity", 1 << 40), ("slot_size", 1 << 30), ("slots_at", 0), ("magic", 0)):
            at, size = RING_AT + RING[field][0], RING[field][1]
            target.buf[at : at + size] = value.to_bytes(size, "little")
        assert target.rx.pop_many(9) == list(target.messages)
        assert target.tx.push_many([b""] * 99) == 16
        assert target.tx.max_message == 64

    fork(attack).join()


def test_random_headers(fork: Fork) -> None:
    def attack() -> None:
        chance = random.Random(7)
        for _ in range(3_000):
            target = Target()
            for _ in range(chance.randrange(1, 6)):
                at = chance.randrange((HEADER + CAPACITY) // 8) * 8
                value = struct.pack("<II", chance.choice([chance.randrange(130), chance.getrandbits(32)]),
                                    chance.choice([MSG, SKIP, chance.getrandbits(32)]))  # fmt: skip
                target.buf[at : at + 8] = chance.choice([value, chance.randbytes(8), b"\xff" * 8])
            try:
                target.use()
            except CorruptSegment:
                pass
            target.close()

    fork(attack).join()


def test_header_of_random_bytes() -> None:
    chance = random.Random(3)
    with Segment.create(4096, "channel", "1") as segment:
        for _ in range(300):
            segment.buf[:] = chance.randbytes(4096)
            assert _native.channel_info(segment.mapping, segment.payload_at) is None
            with pytest.raises(CorruptSegment, match="no valid channel"):
                _native.ChannelConsumer(segment.mapping, segment.payload_at, 1, 0, 0)


@pytest.mark.parametrize("at", [-1, 1, 64, 4096, 4096 + 128, 1 << 62])
def test_channel_at_a_place_where_none_fits(at: int) -> None:
    with Segment.create(4096, "channel", "1") as segment:
        _native.channel_init(segment.mapping, segment.payload_at, 64, 0)
        assert _native.channel_info(segment.mapping, at) is None
        with pytest.raises(CorruptSegment):
            _native.ChannelProducer(segment.mapping, at, 1, 0, 0)
        for capacity in (4096, 8, 0):
            with pytest.raises(ValueError, match="does not fit"):
                _native.channel_init(segment.mapping, at, capacity, 0)


@pytest.mark.parametrize(("capacity", "slot_size"), [(64, 2), (8, 1)])
def test_a_ring_that_is_no_channel(capacity: int, slot_size: int) -> None:
    """A valid ring header, but of other slots or too small: no channel."""
    with Segment.create(4096, "channel", "1") as segment:
        _native.ring_init(segment.mapping, segment.payload_at + RING_AT, capacity, slot_size, 0)
        assert _native.channel_info(segment.mapping, segment.payload_at) is None
        with pytest.raises(CorruptSegment):
            _native.ChannelProducer(segment.mapping, segment.payload_at, 1, 0, 0)
