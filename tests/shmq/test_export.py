"""The plain C symbols: all there, and the byte fifo behind them against a model (it has no Python class yet)."""

import ctypes
import errno
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmq import Segment, _native

LAYOUT = _native.layout()


def call(name: str, *arguments: int) -> int:
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * len(arguments))
    return prototype(_native.symbols[f"shmq_x_{name}"])(*arguments)


class Fifo:
    """A fifo with its two ends, driven through the exported functions."""

    def __init__(self, size: int) -> None:
        header = LAYOUT["fifo"][0]
        self.size = size
        self.segment = Segment.create(header + size, "fifo", "1")
        at = self.segment.address + self.segment.payload_at
        self.at = at
        self.ends = [ctypes.create_string_buffer(call("sizeof_fifo_end")) for _ in range(2)]
        self.w, self.r = (ctypes.addressof(end) for end in self.ends)
        call("fifo_reset", at)
        for end in (self.w, self.r):
            assert call("fifo_bind", end, at, at + header, size) == 0

    def write(self, block: bytes) -> int:
        source = ctypes.create_string_buffer(block, len(block) or 1)
        return call("fifo_write", self.w, ctypes.addressof(source), len(block))

    def read(self, n: int) -> bytes:
        out = ctypes.create_string_buffer(n + 1)
        done = call("fifo_read", self.r, ctypes.addressof(out), n)
        return out.raw[:done]

    def peek(self, offset: int, n: int) -> bytes:
        out = ctypes.create_string_buffer(n + 1)
        done = call("fifo_peek", self.r, offset, ctypes.addressof(out), n)
        return out.raw[:done]

    def verify(self, expected: bytes) -> int:
        block = ctypes.create_string_buffer(expected, len(expected) or 1)
        return call("fifo_verify", self.r, ctypes.addressof(block), len(expected))


@pytest.fixture
def fifo() -> Iterator[Fifo]:
    fifo = Fifo(16)
    with fifo.segment:
        yield fifo


def test_symbols_are_in_the_library_by_name() -> None:
    library = ctypes.CDLL(_native.__file__)
    for name, address in _native.symbols.items():
        assert ctypes.cast(getattr(library, name), ctypes.c_void_p).value == address


def test_sizes_agree_with_the_layout() -> None:
    for name in ("ring", "cell", "channel", "stream", "fifo", "spinlock", "rwlock", "segment"):
        assert call(f"sizeof_{name}") == LAYOUT[name][0]


@settings(max_examples=80, deadline=None)
@given(
    power=st.integers(0, 6),
    steps=st.lists(st.tuples(st.sampled_from(["write", "read", "peek", "skip", "verify"]), st.integers(0, 80)), max_size=80),
)
def test_fifo_against_a_bytearray(power: int, steps: list[tuple[str, int]]) -> None:
    fifo, model, written = Fifo(1 << power), bytearray(), 0
    with fifo.segment:
        for verb, n in steps:
            if verb == "write":
                block = bytes((written + i) & 255 for i in range(n))
                done = fifo.write(block)
                assert done == min(n, fifo.size - len(model))
                model += block[:done]
                written += done
            elif verb == "read":
                assert fifo.read(n) == model[:n]
                del model[:n]
            elif verb == "peek":
                assert fifo.peek(n // 2, n) == model[n // 2 :][:n]
            elif verb == "skip":
                n = min(n, call("fifo_avail", fifo.r, n))
                call("fifo_skip", fifo.r, n)
                del model[:n]
            else:
                assert fifo.verify(bytes(model[:n])) == min(n, len(model))
            assert call("fifo_avail", fifo.r, (1 << 63) - 1) == len(model)
            assert call("fifo_room", fifo.w, (1 << 63) - 1) == fifo.size - len(model)


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 15), n=st.integers(1, 16), wrong=st.integers(0, 15))
def test_verify_finds_the_first_difference(start: int, n: int, wrong: int) -> None:
    fifo = Fifo(16)
    with fifo.segment:
        fifo.write(bytes(start))
        fifo.read(start)
        good = bytes(range(1, n + 1))
        fifo.write(good)
        bad = bytearray(good)
        if wrong < n:
            bad[wrong] ^= 0xFF
        assert fifo.verify(bytes(bad)) == min(wrong, n)
        assert fifo.verify(good + b"more") == n, "fewer bytes than expected are no match"
        assert fifo.read(99) == good, "verify consumes nothing"


def test_one_event_until_it_is_cleared(fifo: Fifo) -> None:
    fifo.write(b"a")
    assert call("fifo_set_event", fifo.w) == 1
    fifo.write(b"b")
    assert call("fifo_set_event", fifo.w) == 0, "the first message is still on its way"
    call("fifo_clear_event", fifo.r)
    fifo.write(b"c")
    assert call("fifo_set_event", fifo.w) == 1


def test_want_is_answered_once_and_not_too_early(fifo: Fifo) -> None:
    assert call("fifo_want", fifo.w, 1) == 0, "there is room: nothing to wait for"
    fifo.write(bytes(16))
    assert call("fifo_want", fifo.w, 4) == 1
    fifo.read(3)
    assert call("fifo_wanted", fifo.r) == 0, "three bytes are not what was asked for"
    fifo.read(1)
    assert call("fifo_wanted", fifo.r) == 1
    assert call("fifo_wanted", fifo.r) == 0


@pytest.mark.parametrize(("want", "enough"), [(0, 1), (1, 1), (16, 16), (17, 16), (1 << 40, 16)])
def test_want_is_clamped_to_what_can_happen(fifo: Fifo, want: int, enough: int) -> None:
    fifo.write(bytes(16))
    assert call("fifo_want", fifo.w, want) == 1
    fifo.read(enough - 1)
    assert call("fifo_wanted", fifo.r) == 0
    fifo.read(1)
    assert call("fifo_wanted", fifo.r) == 1


def test_resume_goes_on_where_the_other_process_stopped(fifo: Fifo) -> None:
    fifo.write(b"abcdef")
    fifo.read(2)
    late = [ctypes.create_string_buffer(call("sizeof_fifo_end")) for _ in range(2)]
    header = LAYOUT["fifo"][0]
    for end, writer in zip(late, (1, 0), strict=True):
        call("fifo_bind", ctypes.addressof(end), fifo.at, fifo.at + header, 16)
        call("fifo_resume", ctypes.addressof(end), writer)
    fifo.w, fifo.r = (ctypes.addressof(end) for end in late)
    fifo.write(b"gh")
    assert fifo.read(99) == b"cdefgh"


@pytest.mark.parametrize("size", [0, -1, 3, 1000])
def test_fifo_size_must_be_a_power_of_two(fifo: Fifo, size: int) -> None:
    assert call("fifo_bind", fifo.w, fifo.at, fifo.at, size) == -errno.EINVAL


def test_ring_reads_ahead_of_its_release() -> None:
    """What the stack's single-queue event mode stands on: slots are handed out early and given back in order."""
    space = call("ring_bytes", 4, 8)
    with Segment.create(space, "ring", "1") as segment:
        at = segment.address + segment.payload_at
        assert call("ring_init", at, 4, 8) == 0
        ends = [ctypes.create_string_buffer(call(f"sizeof_{name}")) for name in ("producer", "consumer")]
        p, c = map(ctypes.addressof, ends)
        assert call("producer_bind", p, at, space) == call("consumer_bind", c, at, space) == 0
        for i in range(4):
            record = ctypes.c_uint64(i)
            assert call("push", p, ctypes.addressof(record)) == 0
        assert call("push", p, at) == -errno.EAGAIN
        assert call("ready", c, 99) == 4
        assert [ctypes.c_uint64.from_address(call("peek", c, call("read", c) + i)).value for i in range(4)] == [0, 1, 2, 3]
        assert call("set_read", c, 3) == 0
        assert call("ready", c, 1) == 1
        assert call("push", p, at) == -errno.EAGAIN, "handed out is not given back"
        call("release", c, 2)
        assert call("head", c) == 2
        assert call("read", c) == 3
        assert call("room", p, 2) == 2
        assert call("set_read", c, 5) == call("set_read", c, 1) == -errno.EINVAL
        for impossible in (0, -4, 3):
            assert call("ring_bytes", impossible, 8) == 0
            assert call("ring_init", at, impossible, 8) == -errno.EINVAL


def test_channel_in_place_and_by_copy() -> None:
    """What a compiled kernel does: several messages sealed, published together, looked at where they lie."""
    space = call("channel_bytes", 64)
    with Segment.create(space, "channel", "1") as segment:
        at = segment.address + segment.payload_at
        assert call("channel_init", at, 64) == 0
        assert call("channel_valid", at, space) == 1
        assert call("channel_valid", at, space - 1) == 0
        ends = [ctypes.create_string_buffer(call(f"sizeof_{name}")) for name in ("producer", "consumer", "message")]
        p, c, m = map(ctypes.addressof, ends)
        assert call("channel_producer_bind", p, at, space) == call("channel_consumer_bind", c, at, space) == 0
        ahead = 0
        for text in (b"one", b"second"):
            assert call("channel_reserve", p, ahead, 10, m) == 0
            ctypes.memmove(call("message_payload", m), text, len(text))
            ahead += call("channel_seal", p, ahead, m, len(text))
        assert call("channel_look", c, m) == -errno.ENODATA, "sealed is not published"
        call("channel_publish", p, ahead, 2)
        assert call("channel_reserve", p, 0, 32, m) == -errno.EAGAIN
        assert call("channel_reserve", p, 0, 33, m) == -errno.EINVAL
        span = 0
        for text in (b"one", b"second"):
            assert call("channel_look", c, m) == 0
            assert ctypes.string_at(call("message_payload", m), call("message_length", m)) == text
            call("channel_take", c, m)
            span += call("message_span", m)
        assert span == ahead
        call("channel_release", c, span, 2)
        block = ctypes.create_string_buffer(b"again", 32)
        assert call("channel_push", p, ctypes.addressof(block), 5) == 0
        assert call("channel_pop", c, ctypes.addressof(block), 4) == -errno.EINVAL, "too little room: it stays"
        assert call("channel_pop", c, ctypes.addressof(block), 32) == 5
        assert call("channel_pop", c, ctypes.addressof(block), 32) == -errno.ENODATA
        for impossible in (0, -16, 8, 24):
            assert call("channel_bytes", impossible) == 0
            assert call("channel_init", at, impossible) == -errno.EINVAL


def test_fifo_bytes_ahead_of_the_stream(fifo: Fifo) -> None:
    ahead = ctypes.create_string_buffer(call("sizeof_fifo_ahead"))
    block = ctypes.create_string_buffer(b"abcdef", 8)

    def write_at(offset: int, start: int, n: int) -> int:
        return call("fifo_write_at", fifo.w, ctypes.addressof(ahead), offset, ctypes.addressof(block) + start, n)

    assert write_at(3, 3, 3) == 3
    assert call("fifo_held", ctypes.addressof(ahead)) == 3
    assert fifo.read(9) == b""
    assert write_at(14, 0, 6) == 2
    assert write_at(0, 0, 3) == 3
    assert call("fifo_held", ctypes.addressof(ahead)) == 2
    assert fifo.read(9) == b"abcdef"
