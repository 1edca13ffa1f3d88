"""The session layer's kernels, in this process: tables, listeners, accept policies, flush and drain.

The arrays are the core's own; the workers are this test, which reads and writes their ends of the rings.
"""

import ctypes
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackcore.abi import abi
from stackcore.abi.layout import Layout
from stackcore.core.client import ClientConfig, schedule
from stackcore.session.accept import choose
from stackcore.session.drain import node_drain
from stackcore.session.flush import node_flush
from stackcore.session.listen import SHARED_FLAG, forget_worker, listen, offer, unlisten
from stackcore.session.rings import bind_all
from stackcore.session.state import (
    BROKEN,
    PEND_ACCEPTED,
    PEND_DISCONNECTED,
    PEND_RESET,
    PEND_RX,
    PEND_TX_ROOM,
    WORKER,
    new_core,
)  # fmt: skip
from stackcore.session.switches import ACCEPT, BLOCK, CONGEST, DROP
from stackcore.session.table import post, session_free, session_open, set_owner
from stackcore.warmup import private_stack
from tests.stackcore.hand import (
    consumer_bind,
    event_publish,
    event_put,
    event_read,
    producer_bind,
    ring_head,
    ring_ready,
    ring_release,
    slot,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("kernels")
EINVAL, ENOSPC = -22, -28


class Bench:
    """The core's arrays over a private stack with ``workers`` attached workers, and the workers' ends of the rings."""

    def __init__(self, workers: int = 3, sessions: int = 8, ring: int = 16, ring_full: int = CONGEST) -> None:
        self.layout = layout = Layout(workers=workers, sessions=sessions, ring_slots=ring, fifo_size=256)
        self._exit = ExitStack()
        _, self.view = self._exit.enter_context(private_stack(layout))
        self.core, self._memory = new_core(self.view, layout, 1, schedule(ClientConfig(1, b"", b"")))
        self.cfg = self.core.cfg[0]
        self.cfg["frame"], self.cfg["ring_full"] = 256, ring_full
        bind_all(self.core, self.view, layout)
        stride = layout.offsets["ring_stride"]
        self.ins = [ctypes.create_string_buffer(64) for _ in range(workers)]
        self.outs = [ctypes.create_string_buffer(64) for _ in range(workers)]
        for i in range(workers):
            down, up = self.view.ring_at(i, to_core=False), self.view.ring_at(i, to_core=True)
            assert consumer_bind(ctypes.addressof(self.ins[i]), down, stride) == 0
            assert producer_bind(ctypes.addressof(self.outs[i]), up, stride) == 0
            self.core.wrk[i]["state"] = abi.WORKER_ATTACHED

    def close(self) -> None:
        self._exit.close()

    def hear(self, worker: int, limit: int = 1 << 30) -> list[tuple[int, int, int]]:
        """(type, session, seq) of up to ``limit`` events in the worker's ring; their slots are free then."""
        end, event, found = ctypes.addressof(self.ins[worker]), np.zeros(1, abi.EVENT), []
        while len(found) < limit and ring_ready(end, 1) > 0:
            assert event_read(end, ring_head(end), event.ctypes.data) == 1
            assert event[0]["worker"] == worker
            found.append((int(event[0]["type"]), int(event[0]["session"]), int(event[0]["seq"])))
            ring_release(end, 1)
        return found

    def say(self, worker: int, kind: int, session: int = -1, generation: int = 0, arg: int = 0, **wrong: int) -> None:
        """A message from the worker; ``wrong`` overrides fields after the check word was made."""
        end = ctypes.addressof(self.outs[worker])
        assert event_put(end, 0, kind, wrong.pop("named", worker), session, generation, 0, arg) == 0
        event = np.frombuffer((ctypes.c_char * 32).from_address(slot(end, 0)), abi.EVENT)
        for name, value in wrong.items():
            event[name] = value
        event_publish(end, 1)

    def drain(self) -> int:
        c = self.core
        return int(node_drain(c.cfg, c.tel, c.event, c.ses, c.shs, c.wrk, c.shw, c.lis, c.pend, c.new_io))

    def flush(self) -> int:
        c = self.core
        return int(node_flush(c.cfg, c.ses, c.shs, c.wrk, c.pend))

    def open(self, owner: int = -1, listener: int = 0) -> int:
        c = self.core
        s = int(session_open(c.cfg, c.ses, c.shs, c.free, listener, -1, 4711))
        if s >= 0 and owner >= 0:
            set_owner(c.cfg, c.ses, c.shs, c.wrk, c.pend, s, owner)
        return s

    def free(self, s: int) -> None:
        c = self.core
        session_free(c.cfg, c.ses, c.shs, c.free, s)

    def post(self, s: int, bits: int) -> None:
        c = self.core
        post(c.cfg, c.ses, c.wrk, c.pend, s, bits)

    def state(self) -> list[bytes]:
        """Everything a message could change."""
        c = self.core
        return [a.tobytes() for a in (c.ses, c.shs, c.lis, c.shw, c.wrk, c.pend)] + [
            bytes(self.cfg["new_tail"]), bytes(self.cfg["free_tail"]),
        ]  # fmt: skip


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


class TestTable:
    def test_generations_count_the_uses_of_a_slot(self, bench: Bench) -> None:
        seen = Counter[tuple[int, int]]()
        for _ in range(50):
            s = bench.open()
            seen[s, int(bench.core.ses[s]["generation"])] += 1
            assert bench.view.sessions[s]["generation"] == bench.core.ses[s]["generation"]
            bench.free(s)
        assert max(seen.values()) == 1

    def test_freed_slots_are_used_again_oldest_first(self, bench: Bench) -> None:
        opened = [bench.open() for _ in range(8)]
        assert sorted(opened) == list(range(8))
        assert bench.open() == -1
        for s in (5, 2, 7):
            bench.free(s)
        assert [bench.open() for _ in range(4)] == [5, 2, 7, -1]
        assert bench.cfg["open_sessions"] == 8

    def test_a_fresh_session_has_nothing_of_the_old_one(self, bench: Bench) -> None:
        for _ in range(8):
            s = bench.open(owner=1)
            bench.post(s, PEND_RX)
            bench.core.ses[s]["accepted"] = bench.core.ses[s]["dropped"] = 1
            bench.flush()
            bench.free(s)
            bench.hear(1)
        s = bench.open()
        record = bench.core.ses[s]
        assert [int(record[n]) for n in ("owner", "seq", "pend", "accepted", "dropped")] == [-1, 0, 0, 0, 0]
        assert bench.view.sessions[s]["owner"] == -1


class TestListen:
    def test_one_port_is_one_listener(self, bench: Bench) -> None:
        lis = bench.core.lis
        assert [listen(lis, w, 80) for w in (0, 1, 2)] == [0, 0, 0]
        assert listen(lis, 0, 81) == 1
        assert lis[0]["listening"] == 0b111 and lis[1]["listening"] == 0b001

    @pytest.mark.parametrize("arg", [0, -1, -(1 << 31), SHARED_FLAG, 2 * SHARED_FLAG, 2 * SHARED_FLAG + 80, (1 << 31) - 1])
    def test_what_is_no_port_is_einval(self, bench: Bench, arg: int) -> None:
        assert listen(bench.core.lis, 0, arg) == EINVAL
        assert not bench.core.lis["port"].any()

    def test_shared_and_per_worker_do_not_mix(self, bench: Bench) -> None:
        assert listen(bench.core.lis, 0, 80 + SHARED_FLAG) == 0
        assert listen(bench.core.lis, 1, 80) == EINVAL

    def test_no_listener_left_is_enospc(self, bench: Bench) -> None:
        assert [listen(bench.core.lis, 0, 80 + i) for i in range(5)] == [0, 1, 2, 3, ENOSPC]

    def test_unlisten(self, bench: Bench) -> None:
        lis = bench.core.lis
        listen(lis, 0, 80), listen(lis, 1, 80)
        assert unlisten(lis, 0, 0) == 0
        assert lis[0]["listening"] == 0b10
        for i in (-1, 1, 4, 99, -(1 << 31)):
            assert unlisten(lis, 0, i) == EINVAL

    def test_the_port_is_free_again_when_nobody_is_left(self, bench: Bench) -> None:
        lis = bench.core.lis
        for port in range(80, 100):
            i = listen(lis, 0, port)
            assert i >= 0, f"port {port}"
            assert unlisten(lis, 0, i) == 0

    def test_a_dead_worker_is_forgotten(self, bench: Bench) -> None:
        lis = bench.core.lis
        for port in (80, 81):
            for worker in range(3):
                listen(lis, worker, port)
        forget_worker(lis, 1)
        assert set(lis["listening"][:2]) == {0b101}


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[bool], list[bool], list[bool]]:
    n = draw(st.integers(1, 8))
    three = [draw(st.lists(st.booleans(), min_size=n, max_size=n)) for _ in range(3)]
    return three[0], three[1], three[2]


@pytest.mark.parametrize("policy", list(ACCEPT), ids=lambda c: c.name)
class TestAcceptPolicies:
    def prepare(self, listening: list[bool], attached: list[bool], congested: list[bool]) -> tuple[Any, Any, list[int]]:
        lis, wrk = np.zeros(2, abi.LISTENER), np.zeros(len(listening), WORKER)
        lis[1]["listening"] = sum(1 << i for i, on in enumerate(listening) if on)
        wrk["state"] = [abi.WORKER_ATTACHED if on else abi.WORKER_DEAD for on in attached]
        wrk["congested"] = congested
        able = [i for i in range(len(listening)) if listening[i] and attached[i] and not congested[i]]
        return lis, wrk, able

    @given(situation=situations(), keys=st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
    def test_only_the_able_are_chosen(self, policy: Any, situation: Any, keys: list[int]) -> None:
        lis, wrk, able = self.prepare(*situation)
        for key in keys:
            chosen = choose(policy.value, lis, wrk, 1, key)
            assert chosen in able if able else chosen == -1

    def test_all_of_the_able_are_chosen(self, policy: Any) -> None:
        lis, wrk, able = self.prepare([True, False, True, True, True], [True, True, False, True, True], [False] * 5)
        rng = np.random.default_rng(1)
        counts = Counter(int(choose(policy.value, lis, wrk, 1, int(key))) for key in rng.integers(0, 2**40, 3000))
        assert sorted(counts) == able == [0, 3, 4]
        assert all(850 <= count <= 1150 for count in counts.values()), counts

    def test_neighbouring_ports_spread(self, policy: Any) -> None:
        """As the null transport numbers its clients: key = port + 65536 * client."""
        lis, wrk, _ = self.prepare([True] * 4, [True] * 4, [False] * 4)
        counts = Counter(int(choose(policy.value, lis, wrk, 1, 1025 + i + 65536 * i)) for i in range(64))
        assert sorted(counts) == [0, 1, 2, 3]
        assert min(counts.values()) >= 6, counts


def test_round_robin_is_exactly_fair() -> None:
    lis, wrk, able = TestAcceptPolicies().prepare([True] * 5, [True, False, True, True, True], [False] * 4 + [True])
    chosen = [int(choose(ACCEPT["round-robin"].value, lis, wrk, 1, 0)) for _ in range(30)]
    assert Counter(chosen) == dict.fromkeys(able, 10)
    assert chosen[:3] == chosen[3:6]


def test_hash_is_deterministic() -> None:
    lis, wrk, _ = TestAcceptPolicies().prepare([True] * 4, [True] * 4, [False] * 4)
    for key in range(0, 100_000, 997):
        assert len({int(choose(ACCEPT["hash"].value, lis, wrk, 1, key)) for _ in range(3)}) == 1


class TestFlush:
    def test_the_events_of_a_session_keep_their_order(self, bench: Bench) -> None:
        s = bench.open(owner=1)
        for bit in (PEND_RESET, PEND_RX, PEND_DISCONNECTED, PEND_TX_ROOM, PEND_ACCEPTED):
            bench.post(s, bit)
        assert bench.flush() == 5
        order = [abi.EV_ACCEPTED, abi.EV_RX, abi.EV_TX_ROOM, abi.EV_DISCONNECTED, abi.EV_RESET]
        assert bench.hear(1) == [(kind, s, seq) for seq, kind in enumerate(order, 1)]
        assert bench.view.sessions[s]["seq"] == 5

    def test_an_event_posted_twice_is_sent_once(self, bench: Bench) -> None:
        s = bench.open(owner=0)
        bench.post(s, PEND_RX)
        bench.post(s, PEND_RX)
        bench.flush()
        assert bench.hear(0) == [(abi.EV_RX, s, 1)]
        assert bench.flush() == 0

    def test_events_wait_for_an_owner(self, bench: Bench) -> None:
        s = bench.open()
        bench.post(s, PEND_RX)
        assert bench.flush() == 0
        set_owner(*self.owner_arguments(bench), s, 2)
        assert bench.flush() == 1
        assert bench.hear(2) == [(abi.EV_RX, s, 1)]

    def owner_arguments(self, bench: Bench) -> tuple[Any, ...]:
        c = bench.core
        return c.cfg, c.ses, c.shs, c.wrk, c.pend

    def test_a_freed_session_sends_nothing(self, bench: Bench) -> None:
        s = bench.open(owner=0)
        bench.post(s, PEND_RX)
        bench.free(s)
        assert bench.flush() == 0
        assert bench.hear(0) == []

    def test_a_slot_that_was_used_again_sends_only_its_own(self, bench: Bench) -> None:
        others = [bench.open(owner=2) for _ in range(7)]
        s = bench.open(owner=0)
        bench.post(s, PEND_RX)
        bench.free(s)
        assert bench.open(owner=1) == s and len(others) == 7
        bench.post(s, PEND_ACCEPTED)
        while bench.flush():
            pass
        assert bench.hear(0) == []
        assert bench.hear(1) == [(abi.EV_ACCEPTED, s, 1)]

    def test_at_most_a_frame_of_sessions(self, bench: Bench) -> None:
        bench.cfg["frame"] = 2
        for _ in range(5):
            bench.post(bench.open(owner=0), PEND_RX)
        assert [bench.flush() for _ in range(4)] == [2, 2, 1, 0]

    @pytest.mark.parametrize("policy", [BLOCK, CONGEST])
    def test_a_full_ring_keeps_the_events(self, policy: int) -> None:
        bench = Bench(ring=4, ring_full=policy)
        sessions = [bench.open(owner=0) for _ in range(8)]
        for s in sessions:
            bench.post(s, PEND_RX)
        assert bench.flush() == 4
        assert bench.flush() == 0
        assert bench.core.wrk[0]["congested"] == (policy == CONGEST)
        listen(bench.core.lis, 0, 80)
        assert choose(0, bench.core.lis, bench.core.wrk, 0, 1) == (-1 if policy == CONGEST else 0)
        heard = bench.hear(0, 3)
        assert bench.flush() == 3
        heard += bench.hear(0)
        assert bench.flush() == 1
        heard += bench.hear(0)
        assert heard == [(abi.EV_RX, s, 1) for s in sessions]
        assert bench.core.wrk[0]["congested"] == 0 and bench.core.wrk[0]["dropped"] == 0
        bench.close()

    def test_drop_counts_and_leaves_a_gap(self) -> None:
        bench = Bench(ring=4, ring_full=DROP)
        sessions = [bench.open(owner=0) for _ in range(8)]
        for s in sessions:
            bench.post(s, PEND_RX)
        assert bench.flush() == 4
        assert bench.core.wrk[0]["dropped"] == 4 and bench.core.wrk[0]["congested"] == 0
        assert list(bench.core.ses["dropped"][sessions]) == [0] * 4 + [1] * 4
        assert bench.hear(0) == [(abi.EV_RX, s, 1) for s in sessions[:4]]
        bench.post(sessions[7], PEND_RX)
        bench.flush()
        assert bench.hear(0) == [(abi.EV_RX, sessions[7], 2)]  # number 1 is missing, and can be missed
        bench.close()

    def test_one_workers_full_ring_is_not_anothers(self) -> None:
        bench = Bench(ring=2, ring_full=BLOCK)
        for _ in range(4):
            bench.post(bench.open(owner=0), PEND_RX)
        for _ in range(2):
            bench.post(bench.open(owner=1), PEND_RX)
        bench.flush()
        assert len(bench.hear(1)) == 2
        bench.close()


LIES: dict[str, dict[str, int]] = {
    "check word": {"kind": abi.EV_TX, "check": 99},
    "ring position": {"kind": abi.EV_TX, "pos": 12345},
    "another worker": {"kind": abi.EV_TX, "named": 1},
    "negative worker": {"kind": abi.EV_TX, "named": -1},
    "no such session": {"kind": abi.EV_TX, "session": 8},
    "session far outside": {"kind": abi.EV_CLOSE, "session": (1 << 31) - 1},
    "no session": {"kind": abi.EV_TX, "session": -1},
    "session far below": {"kind": abi.EV_CLOSE, "session": -(1 << 31)},
    "generation to come": {"kind": abi.EV_TX, "generation": 2},
    "generation far ahead": {"kind": abi.EV_CLOSE, "generation": (1 << 31) - 1},
    "somebody else's session": {"kind": abi.EV_TX, "session": 1},
    "closing somebody else's": {"kind": abi.EV_CLOSE, "session": 1},
    "accepting somebody else's": {"kind": abi.EV_ACCEPTED_REPLY, "session": 1},
    "unknown type": {"kind": 99},
    "unknown type, no session": {"kind": 99, "session": -1},
    "a core's event": {"kind": abi.EV_RX},
    "type 0": {"kind": 0},
    "negative type": {"kind": -3},
    "polling nothing": {"kind": abi.EV_POLL, "session": -1, "arg": 99},
    "polling below": {"kind": abi.EV_POLL, "session": -1, "arg": -1},
    "polling an unused listener": {"kind": abi.EV_POLL, "session": -1, "arg": 3},
}


class TestDrain:
    @pytest.fixture
    def mine(self, bench: Bench) -> int:
        """Session 0 belongs to worker 0, session 1 to worker 1; both are in use for the first time."""
        listen(bench.core.lis, 0, 80), listen(bench.core.lis, 1, 80)
        assert [bench.open(owner=0), bench.open(owner=1)] == [0, 1]
        return 0

    @pytest.mark.parametrize("lie", LIES)
    def test_a_lie_is_counted_and_changes_nothing(self, bench: Bench, mine: int, lie: str) -> None:
        before = bench.state()
        bench.say(0, **({"session": mine, "generation": 1} | LIES[lie]))
        assert bench.drain() == 1
        assert bench.core.tel[0]["invalid"] == 1
        assert bench.state() == before

    def test_a_message_about_a_session_that_is_over_is_no_lie_and_does_nothing(self, bench: Bench, mine: int) -> None:
        bench.free(mine)
        before = bench.state()
        for kind in (abi.EV_TX, abi.EV_CLOSE, abi.EV_ACCEPTED_REPLY, abi.EV_RX_ROOM):
            bench.say(0, kind, mine, 1)
        assert bench.drain() == 4
        assert bench.core.tel[0]["invalid"] == 0
        assert bench.state() == before

    def test_the_truth_is_acted_on(self, bench: Bench, mine: int) -> None:
        bench.say(0, abi.EV_ACCEPTED_REPLY, mine, 1)
        bench.say(0, abi.EV_TX, mine, 1)
        bench.say(0, abi.EV_CLOSE, mine, 1)
        assert bench.drain() == 3
        assert bench.core.tel[0]["invalid"] == 0
        record = bench.core.ses[mine]
        assert (record["accepted"], record["state"]) == (1, abi.SESSION_APP_CLOSED)
        assert bench.cfg["new_tail"] == 1  # once in the queue, however often it was told

    def test_requests_are_answered_in_the_cell(self, bench: Bench) -> None:
        bench.say(2, abi.EV_LISTEN, arg=8080)
        bench.say(2, abi.EV_LISTEN, arg=0)
        bench.drain()
        assert bench.view.workers[2]["reply_seq"] == 2
        assert bench.view.workers[2]["reply"] == EINVAL
        assert bench.core.lis[0]["port"] == 8080 and bench.core.lis[0]["listening"] == 0b100

    @pytest.mark.parametrize("change", [17, 1 << 40, -1, -(1 << 63)])
    def test_a_corrupt_cursor_marks_its_worker_only(self, bench: Bench, mine: int, change: int) -> None:
        bench.say(1, abi.EV_TX, 1, 1)
        at = bench.view.ring_at(0, to_core=True) + abi.LINE
        tail = np.frombuffer((ctypes.c_char * 8).from_address(at), "u8")
        tail[0] = (int(tail[0]) + change) % (1 << 64)
        assert bench.drain() == 1
        assert bench.core.wrk[0]["state"] == BROKEN
        assert bench.core.wrk[1]["state"] == abi.WORKER_ATTACHED
        assert bench.drain() == 0

    def test_who_is_not_attached_is_not_heard(self, bench: Bench, mine: int) -> None:
        bench.core.wrk[0]["state"] = abi.WORKER_FREE
        bench.say(0, abi.EV_CLOSE, mine, 1)
        assert bench.drain() == 0
        assert bench.core.ses[mine]["state"] == abi.SESSION_OPEN


class TestShared:
    def offer(self, bench: Bench, s: int) -> bool:
        c = bench.core
        return bool(offer(c.cfg, c.pending, c.ses, c.shs, c.wrk, c.lis, c.pend, 0, s, 1))

    def test_polling_workers_are_rung_in_turn(self, bench: Bench) -> None:
        assert listen(bench.core.lis, 0, 80 + SHARED_FLAG) == 0
        for worker in (1, 2):
            bench.say(worker, abi.EV_POLL, arg=0)
        bench.drain()
        for _ in range(4):
            assert self.offer(bench, bench.open())
        assert [len(bench.hear(w)) for w in range(3)] == [0, 2, 2]

    def test_who_accepts_becomes_the_owner(self, bench: Bench) -> None:
        listen(bench.core.lis, 0, 80 + SHARED_FLAG)
        s = bench.open()
        assert self.offer(bench, s)
        bench.post(s, PEND_RX)
        assert bench.flush() == 0
        for worker in (2, 1):  # the second comes too late
            bench.say(worker, abi.EV_ACCEPTED_REPLY, s, 1)
            bench.drain()
        assert bench.core.tel[0]["invalid"] == 1
        assert bench.core.ses[s]["owner"] == bench.view.sessions[s]["owner"] == 2
        bench.flush()
        assert bench.hear(2) == [(abi.EV_RX, s, 1)]

    def test_per_worker_listeners_hand_out_at_once(self, bench: Bench) -> None:
        listen(bench.core.lis, 1, 80)
        s = bench.open()
        assert self.offer(bench, s)
        bench.flush()
        assert bench.hear(1) == [(abi.EV_ACCEPTED, s, 1)]

    def test_nobody_able_is_said(self, bench: Bench) -> None:
        listen(bench.core.lis, 1, 80)
        bench.core.wrk[1]["state"] = abi.WORKER_DEAD
        assert not self.offer(bench, bench.open())
