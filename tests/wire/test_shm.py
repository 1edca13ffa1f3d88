"""Packets between two processes: whole, once, in order; and nothing else happens, whatever the other side does."""

from __future__ import annotations

import ctypes
import os
import random
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackcore import native  # noqa: F401  (before any module with kernels)
from stackcore.tcp.state import HEADROOM
from stackcore.wire.shm import (
    CORE,
    CORRUPT,
    PEER,
    Wire,
    WireEnd,
    make_wire,
    shm_ready,
    shm_receive,
    shm_room,
    shm_send,
    shm_send_from,
)
from tests.wire.frames import Frame, number_of, numbered

MTU = 100
PATIENCE_S = 60.0
LINE = 128


class End:
    """An end with a frame of its own, in bytes."""

    def __init__(self, end: WireEnd, rows: int = 8, mtu: int = MTU) -> None:
        self.end, self.w, self.frame = end, end.kernel, Frame(rows, mtu)

    def send(self, packets: list[bytes]) -> int:
        return int(shm_send(self.w, self.frame.buf, self.frame.lengths, self.frame.fill(packets)))

    def receive(self, limit: int | None = None) -> list[bytes]:
        n = int(shm_receive(self.w, self.frame.buf, self.frame.lengths, self.frame.rows if limit is None else limit))
        assert n >= 0
        return self.frame.take(n)


@contextmanager
def ends(slots: int = 8, mtu: int = MTU, rows: int = 8) -> Iterator[tuple[End, End]]:
    """Both ends in this process."""
    with make_wire(mtu, slots) as wire, wire.end(CORE) as one, wire.end(PEER) as two:
        yield End(one, rows, mtu), End(two, rows, mtu)


@contextmanager
def child(run: Callable[[], None]) -> Iterator[int]:
    """``run`` in a forked process, which must end well unless it was killed before the block ends."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run()
            status = 0
        finally:
            os._exit(status)
    reaped = False
    try:
        yield pid
        _, status = os.waitpid(pid, 0)
        reaped = True
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, -signal.SIGKILL), f"the other process ended with {code}"
    finally:
        if not reaped:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def forked(wire: Wire, main: Callable[[End], None], rows: int = 8) -> Any:
    """The peer's end in a process of its own."""

    def run() -> None:
        with wire.end(PEER) as end:
            main(End(end, rows, wire.mtu))

    return child(run)


def warm() -> None:
    """Compile what children use, once, before they are forked."""
    with ends() as (one, two):
        one.send([b"x"])
        two.receive()
        two.end.park(0, room=True)


class TestBatches:
    def test_packets_arrive_in_order_each_way(self) -> None:
        with ends() as (one, two):
            there, back = [numbered(k, 5 + k) for k in range(5)], [numbered(k, 90) for k in range(10, 13)]
            assert one.send(there) == 5 and two.send(back) == 3
            assert two.receive() == there and one.receive() == back
            assert two.receive() == [] and one.receive() == []

    def test_what_does_not_fit_stays(self) -> None:
        with ends(slots=4) as (one, two):
            packets = [numbered(k) for k in range(6)]
            assert one.send(packets) == 4 and one.send(packets[4:]) == 0
            assert two.receive(limit=1) == packets[:1]
            assert shm_send_from(one.w, one.frame.buf, one.frame.lengths, 0, one.frame.fill(packets[4:])) == 1
            assert shm_send_from(one.w, one.frame.buf, one.frame.lengths, 1, 2) == 0
            assert two.receive() == packets[1:5]
            assert one.end.statistics()["full"] == 4 and one.end.statistics()["sent"] == 5

    def test_the_limit_leaves_the_rest(self) -> None:
        with ends() as (one, two):
            packets = [numbered(k) for k in range(5)]
            one.send(packets)
            assert [two.receive(limit=2) for _ in range(3)] == [packets[:2], packets[2:4], packets[4:]]
            assert two.receive(limit=0) == []

    def test_the_longest_and_the_shortest(self) -> None:
        for mtu in (1, 55, 56, 57, 1500, 65535):
            with ends(mtu=mtu, slots=2) as (one, two):
                packets = [bytes([7]) * mtu, b"\x09"]
                assert one.send(packets) == 2 and two.receive() == packets

    @pytest.mark.parametrize("length", [0, -1, MTU + 1, 1 << 40])
    def test_a_length_that_no_datagram_has_is_not_sent(self, length: int) -> None:
        with ends() as (one, two):
            n = one.frame.fill([numbered(k) for k in range(3)])
            one.frame.lengths[1] = length
            assert shm_send(one.w, one.frame.buf, one.frame.lengths, n) == 3
            assert [number_of(packet) for packet in two.receive()] == [0, 2]
            assert one.end.statistics() == {"sent": 2, "received": 0, "full": 0, "bad_length": 1, "wrong_length": 0}

    def test_room_and_ready_say_what_is_there(self) -> None:
        with ends(slots=4) as (one, two):
            assert (shm_room(one.w, 4), shm_ready(two.w)) == (4, 0)
            one.send([numbered(k) for k in range(3)])
            assert (shm_room(one.w, 4), shm_ready(two.w)) == (1, 1)
            two.receive()
            assert (shm_room(one.w, 4), shm_ready(two.w)) == (4, 0)

    @given(
        slots=st.sampled_from([2, 4, 16]),
        steps=st.lists(st.tuples(st.booleans(), st.booleans(), st.lists(st.integers(4, MTU), max_size=8)), max_size=40),
    )
    @settings(deadline=None)
    def test_whatever_the_batches_it_is_two_queues(self, slots: int, steps: list[tuple[bool, bool, list[int]]]) -> None:
        with ends(slots=slots) as both:
            queues: tuple[deque[bytes], ...] = (deque(), deque())
            names = count()
            for side, sends, lengths in steps:
                if sends:
                    packets = [numbered(next(names), length) for length in lengths]
                    took = both[side].send(packets)
                    assert took == min(len(packets), slots - len(queues[side]))
                    queues[side].extend(packets[:took])
                else:
                    limit, queue = len(lengths), queues[1 - side]
                    assert both[side].receive(limit) == [queue.popleft() for _ in range(min(limit, len(queue)))]


class TestDoorbell:
    def rung(self, end: End) -> bool:
        return bool(select.select([end.end], [], [], 0)[0])

    def test_nobody_who_is_awake_is_rung(self) -> None:
        with ends() as (one, two):
            one.send([b"x"])
            two.receive()
            assert not self.rung(one) and not self.rung(two)

    def test_a_sleeper_is_rung_for_a_packet(self) -> None:
        with ends() as (one, two):
            two.end.announce()
            one.send([b"x"])
            assert self.rung(two) and not self.rung(one)

    def test_a_sleeper_is_rung_for_room_if_it_asked(self) -> None:
        for room in (False, True):
            with ends(slots=2) as (one, two):
                assert one.send([b"x", b"y", b"z"]) == 2
                one.end.announce(room=room)
                two.receive()
                assert self.rung(one) == room

    def test_who_is_awake_again_is_left_alone(self) -> None:
        with ends(slots=2) as (one, two):
            two.send([b"x", b"y"])
            two.end.announce(room=True)
            two.end.clear()
            one.send([b"x"])
            one.receive()
            assert not self.rung(two)

    def test_park_does_not_sleep_when_something_is_there(self) -> None:
        with ends(slots=2) as (one, two):
            one.send([b"x", b"y"])
            assert two.end.park(PATIENCE_S) and two.end.park(PATIENCE_S, room=True)
            assert not one.end.park(0) and not one.end.park(0, room=True)


class TestProcesses:
    def test_every_wake_up_arrives(self) -> None:
        """A ball goes to and fro between two sleepers; one lost wake-up would be a sleep of its whole length."""
        warm()
        rounds = 300

        def play(end: End, serve: bool) -> None:
            longest = 0.0
            if serve:
                end.send([numbered(0)])
            for k in range(serve, rounds):
                while not (packets := end.receive()):
                    began = time.monotonic()
                    end.end.park(PATIENCE_S)
                    longest = max(longest, time.monotonic() - began)
                assert [number_of(packet) for packet in packets] == [2 * k - serve]
                end.send([numbered(2 * k + 1 - serve)])
            assert longest < PATIENCE_S / 2

        with make_wire(MTU, 2) as wire, forked(wire, lambda end: play(end, False)), wire.end(CORE) as end:
            play(End(end), True)

    @given(
        slots=st.sampled_from([2, 16, 64]), batches=st.tuples(st.integers(1, 8), st.integers(1, 8)), seed=st.integers(0, 99),
        n=st.integers(1, 400),
    )  # fmt: skip
    @settings(deadline=None, max_examples=10)
    def test_everything_comes_back_in_order(self, slots: int, batches: tuple[int, int], seed: int, n: int) -> None:
        warm()

        def echo(end: End) -> None:
            waiting: list[bytes] = []
            returned = 0
            while returned < n:
                if not waiting:
                    waiting = end.receive(batches[1])
                took = end.send(waiting)
                returned += took
                waiting = waiting[took:]
                if took == 0:
                    end.end.park(PATIENCE_S, room=bool(waiting))

        lengths = random.Random(seed).choices(range(4, MTU + 1), k=n)
        packets = [numbered(k, length) for k, length in enumerate(lengths)]
        with make_wire(MTU, slots) as wire, forked(wire, echo), wire.end(CORE) as end:
            core, sent, back = End(end), 0, list[bytes]()
            while len(back) < n:
                took = core.send(packets[sent : sent + batches[0]])
                sent += took
                came = core.receive()
                back += came
                if not took and not came:
                    end.park(PATIENCE_S, room=sent < n)
            assert back == packets

    def test_kill_9_of_the_other_end(self) -> None:
        warm()
        began = time.monotonic()

        def flood(end: End) -> None:
            for k in count():
                while not end.send([numbered(k)]):
                    end.end.park(PATIENCE_S, room=True)

        with make_wire(MTU, 16) as wire, forked(wire, flood) as pid, wire.end(CORE) as end:
            core, got = End(end), list[int]()
            while len(got) < 200:
                got += [number_of(packet) for packet in core.receive()]
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            while packets := core.receive():  # what it had published
                got += [number_of(packet) for packet in packets]
            assert got == list(range(len(got)))
            for k in range(5):
                core.send([numbered(k)] * 8)
            assert core.end.statistics()["sent"] == 16 and shm_room(core.w, 1) == 0  # and nobody takes it
            assert not end.park(0, room=True)
        assert time.monotonic() - began < PATIENCE_S

    def test_closing_leaves_no_descriptor(self) -> None:
        before = os.listdir("/proc/self/fd")
        with ends():
            assert len(os.listdir("/proc/self/fd")) > len(before)
        assert os.listdir("/proc/self/fd") == before


def word(wire: Wire, role: int, at: int) -> Any:
    """A 64-bit word of the ring that ``role`` sends into: 1 * LINE is the tail, 2 * LINE the head, 7 * LINE the first slot."""
    return ctypes.c_uint64.from_address(wire.ring_at(role) + at)


TAIL, HEAD, SLOT = LINE, 2 * LINE, 7 * LINE


class TestHostile:
    @pytest.mark.parametrize("value", [9, 1 << 32, (1 << 64) - 1])
    def test_a_corrupt_tail(self, value: int) -> None:
        with make_wire(MTU, 8) as wire, wire.end(CORE) as end:
            core = End(end)
            word(wire, PEER, TAIL).value = value
            assert shm_receive(core.w, core.frame.buf, core.frame.lengths, 8) == CORRUPT
            assert shm_ready(core.w) == CORRUPT and end.park(PATIENCE_S)
            assert core.send([b"x"]) == 1  # the other direction is another ring

    @pytest.mark.parametrize("value", [1, 1 << 32, 1 << 63])
    def test_a_corrupt_head(self, value: int) -> None:
        with make_wire(MTU, 8) as wire, wire.end(CORE) as end:
            core = End(end)
            assert core.send([b"x"] * 8) == 8
            word(wire, CORE, HEAD).value = 8 + value
            assert core.send([b"x"]) == CORRUPT and shm_room(core.w, 1) == CORRUPT
            assert core.receive() == []

    def test_a_tail_that_goes_back(self) -> None:
        with make_wire(MTU, 8) as wire, wire.end(CORE) as one, wire.end(PEER) as two:
            core, peer = End(one), End(two)
            peer.send([numbered(k) for k in range(4)])
            core.receive()
            word(wire, PEER, TAIL).value = 2
            assert shm_receive(core.w, core.frame.buf, core.frame.lengths, 8) == CORRUPT

    @pytest.mark.parametrize("length", [0, MTU + 1, (1 << 64) - 1, 1 << 63])
    def test_a_length_that_lies(self, length: int) -> None:
        with make_wire(MTU, 8) as wire, wire.end(CORE) as one, wire.end(PEER) as two:
            core, peer = End(one), End(two)
            core.frame.buf[:] = 0xEE
            peer.send([numbered(k, MTU) for k in range(3)])
            word(wire, PEER, SLOT + wire.slot_size).value = length
            assert [number_of(packet) for packet in core.receive()] == [0, 2]
            assert one.statistics()["wrong_length"] == 1 and one.statistics()["received"] == 2
            assert (core.frame.buf[2:, HEADROOM:] == 0xEE).all()
            peer.send([numbered(7)])
            assert [number_of(packet) for packet in core.receive()] == [7]

    @given(seed=st.integers(0, 1 << 32))
    @settings(deadline=None, max_examples=15)
    def test_scribbling_over_everything_breaks_nobody(self, seed: int) -> None:
        """A peer that writes anything anywhere: each call returns, and no byte outside the rows is written."""
        warm()

        def suffer() -> None:
            chance = random.Random(seed)
            with make_wire(MTU, 8) as wire, wire.end(CORE) as end:
                core = End(end, rows=16)
                core.frame.buf[8:] = 0xEE
                size = wire.ring_at(PEER) - wire.ring_at(CORE)
                for _ in range(60):
                    role, at = chance.randrange(2), chance.choice([TAIL, HEAD, SLOT, chance.randrange(0, size, 8)])
                    word(wire, role, at).value = chance.choice([chance.getrandbits(64), chance.randrange(20)])
                    n = shm_receive(core.w, core.frame.buf, core.frame.lengths, 8)
                    assert n == CORRUPT or 0 <= n <= 8
                    assert all(1 <= length <= MTU for length in core.frame.lengths[: max(n, 0)])
                    n = shm_send(core.w, core.frame.buf, core.frame.lengths, core.frame.fill([b"abc"] * 8))
                    assert n == CORRUPT or 0 <= n <= 8
                    end.park(0, room=True)
                assert (core.frame.buf[8:] == 0xEE).all()

        with child(suffer):
            pass


class TestSizes:
    @pytest.mark.parametrize("mtu", [0, 65536])
    def test_an_mtu_without_sense(self, mtu: int) -> None:
        with pytest.raises(ValueError, match="MTU"):
            make_wire(mtu)

    @pytest.mark.parametrize("slots", [0, 1, 3, 1 << 21])
    def test_slots_without_sense(self, slots: int) -> None:
        with pytest.raises(ValueError, match="power of two of slots"):
            make_wire(slots=slots)

    def test_slots_are_an_odd_number_of_lines(self) -> None:
        for mtu in (1, 56, 57, 1500, 9000):
            with make_wire(mtu, 2) as wire:
                assert wire.slot_size % 128 == 64 and wire.slot_size >= 8 + mtu
