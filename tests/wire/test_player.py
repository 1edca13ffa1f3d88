"""The clients behind TCP: what they ask, what they accept as an answer, how they count, and when they act."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from stackcore.abi import abi
from stackcore.core.client import ClientConfig
from stackcore.kernel import c_function
from stackcore.tcp.config import HostConfig
from stackcore.tcp.engine import tcp_abort, tcp_send_ready
from stackcore.tcp.memory import new_tcp
from stackcore.tcp.state import TIME_WAIT
from stackcore.wire.player import CLIENT_BLOCKED, new_player, play_soonest, transfers, unserved
from tests.wire.answering import ACTIVE_CLOSE
from tests.wire.world import DRAIN, MEASURE, MS, REQUEST, S, Stuck, World, pattern

RTT = 2 * MS
fifo_write = c_function("shmq_x_fifo_write", 3)


def measuring(*positional: Any, **named: Any) -> World:
    world = World(*positional, **named)
    world.phase(MEASURE)
    return world


class TestClosedLoop:
    def test_every_reply_is_counted_once(self) -> None:
        world = measuring(clients=4, size=5000)
        world.until(lambda: world["requests"] >= 100)
        got = world.counts()
        assert got["reply_bytes"] == 5000 * got["requests"]
        assert int(world.player.latency.sum()) == got["requests"]
        assert got["connects"] == got["open_sessions"] == 4
        assert all(got[name] == 0 for name in ("resets", "refused", "timeouts", "corrupt", "closes", "refetched"))

    def test_a_request_takes_a_round_trip_and_the_first_one_two(self) -> None:
        world = measuring(clients=1)
        world.run(10 * RTT)
        assert world["requests"] == 9
        assert world["latency_max_ns"] == 2 * RTT

    def test_every_client_has_its_turn(self) -> None:
        world = measuring(clients=300)  # more than a frame
        world.until(lambda: world["requests"] >= 900)
        served = world.player.cli["served"]
        assert served.min() >= 2 and served.max() <= 4

    def test_requests_go_out_in_warm_up_and_measuring_and_count_in_measuring(self) -> None:
        world = World(clients=2)
        world.run(10 * RTT)
        assert world["connects"] == 0 and world.count == 0
        world.phase(abi.PHASE_WARMUP)
        world.run(10 * RTT)
        assert world["requests"] == 0 and int(world.answerer.cfg[0]["answered"]) > 0
        world.phase(MEASURE)
        world.until(lambda: world["requests"] == 20)
        world.phase(DRAIN)
        answered = int(world.answerer.cfg[0]["answered"])
        world.until(lambda: world["outstanding"] == 0)
        world.run(S)
        assert int(world.answerer.cfg[0]["answered"]) <= answered + 2
        assert world["requests"] == 20

    def test_so_many_requests_per_connection(self) -> None:
        world = measuring(clients=3, requests_per_connection=5, host={"msl": 0.1})
        world.until(lambda: world["requests"] == 60)
        world.phase(DRAIN)
        world.until(lambda: world["outstanding"] == 0)
        world.run(S)
        got = world.counts()
        answered, accepted = (int(world.answerer.cfg[0][name]) for name in ("answered", "accepted"))
        assert got["connects"] == accepted == got["closes"] + got["open_sessions"]
        assert 5 * got["closes"] <= answered <= 5 * accepted
        assert got["resets"] == 0

    def test_all_at_once_and_again_when_all_are_answered(self) -> None:
        # The answers come one by one.
        world = measuring(clients=5, storm=True, delay=200_000, link={"rate": 1_000_000})
        went_out = []
        for _ in range(2000):
            if world.turn() == 0:
                world.now = max(world.now + 1, world.soonest())
            went_out.append(world["outstanding"])
        peaks = [after for before, after in pairwise(went_out) if after > before]
        assert len(peaks) > 10 and set(peaks) == {5}


class TestReplies:
    @pytest.mark.parametrize("at", [0, 700, 1999])
    def test_a_wrong_byte_is_seen_and_the_client_asks_again(self, at: int) -> None:
        world = measuring(clients=2, size=2000)
        world.until(lambda: world["requests"] >= 10)
        world.reply[at] ^= 1
        world.until(lambda: world["corrupt"] == 6)
        world.reply[at] ^= 1
        before = world["requests"]
        world.until(lambda: world["requests"] >= before + 10)
        got = world.counts()
        assert got["cut_by_corruption"] == got["resets"] == got["corrupt"]
        assert got["connects"] == 2 + got["corrupt"]
        assert got["reply_bytes"] == 2000 * got["requests"]

    def test_only_the_length_counts_if_so_configured(self) -> None:
        world = measuring(clients=2, verify_full=False)
        world.reply[5] ^= 1
        world.until(lambda: world["requests"] >= 10)
        assert world["corrupt"] == 0

    def test_more_than_was_asked_for_is_wrong(self) -> None:
        world = World(clients=1, size=1000, request=REQUEST + REQUEST)
        world.answerer.cfg[0]["request_len"] = len(REQUEST)  # it answers twice
        world.phase(MEASURE)
        world.until(lambda: world["corrupt"] >= 3)
        assert world["requests"] <= world["corrupt"]

    def test_so_is_more_in_the_middle_of_a_segment(self) -> None:
        world = World(clients=1, size=5000, request=REQUEST + REQUEST, verify_full=False)
        world.answerer.cfg[0]["request_len"] = len(REQUEST)
        world.phase(MEASURE)
        world.until(lambda: world["corrupt"] >= 3)
        assert world["timeouts"] == 0

    def test_who_reads_late_lets_the_sender_go_on_at_once(self) -> None:
        world = measuring(clients=1, size=200_000)
        world.pause = 5 * MS
        world.until(lambda: world["requests"] == 1)
        assert world.now < 3 * (200_000 // 16384) * world.pause

    def test_a_reset_in_the_middle_is_asked_again(self) -> None:
        world = measuring(clients=1, size=100_000, link={"rate": 10_000_000})
        world.until(lambda: int(world.player.cli[0]["got"]) > 50_000)
        tcp_abort(world.server, 0, world.now)
        world.until(lambda: world["requests"] == 1)
        got = world.counts()
        assert (got["resets"], got["cut_by_reset"], got["refetched"], got["connects"]) == (1, 1, 1, 2)
        assert got["reply_bytes"] == 100_000

    def test_a_reset_between_two_requests_costs_only_the_connection(self) -> None:
        world = measuring(clients=1)
        world.until(lambda: world["requests"] == 3)
        world.phase(DRAIN)
        world.until(lambda: world["outstanding"] == 0)
        tcp_abort(world.server, 0, world.now)
        world.run(10 * RTT)
        assert world["resets"] == 0 and world["closes"] == 1 and world["open_sessions"] == 0
        world.phase(MEASURE)
        world.until(lambda: world["requests"] == 6)
        assert world["connects"] == 2

    def test_an_answer_that_ends_too_early_is_no_answer(self) -> None:
        world = World(clients=1, size=1000, mode=ACTIVE_CLOSE)
        world.answerer.cfg[0]["reply_len"] = 999
        world.phase(MEASURE)
        world.until(lambda: world["cut_by_reset"] == 3)
        assert world["requests"] == 0 and world["corrupt"] == 0
        world.answerer.cfg[0]["reply_len"] = 1000
        world.until(lambda: world["requests"] == 5)
        assert world["refetched"] >= 3


class TestNobodyThere:
    def test_refused_connections_are_counted_and_tried_again_after_a_while(self) -> None:
        world = measuring(clients=3, listening=False, delay=10_000)
        world.run(20 * MS)
        got = world.counts()
        assert 10 <= got["refused"] <= 3 * 20
        assert got["requests"] == 0 and unserved(world.player) == got["outstanding"]
        world.listen()
        world.until(lambda: world["requests"] == 30)
        assert unserved(world.player) == 0

    def test_too_few_connections_are_refused_without_haste(self) -> None:
        world = measuring(clients=4, host={"slots": 2})
        world.until(lambda: world["requests"] == 50)
        assert world["connects"] == world["open_sessions"] == 2
        assert 1 <= world["refused"] <= 2 + world.now // MS

    @pytest.mark.parametrize("timeout", [0.07, 1.0])
    def test_no_answer_in_time(self, timeout: float) -> None:
        world = World(clients=3, timeout_s=timeout)
        world.answerer.cfg[0]["mute"] = 1
        world.phase(MEASURE)
        limit = round(timeout * S)
        world.run(limit)
        assert world["timeouts"] == 0 and unserved(world.player) == 3
        world.run(50 * MS + MS)
        got = world.counts()
        assert got["timeouts"] == got["cut_by_timeout"] == got["resets"] == 3
        assert got["connects"] == 6
        world.answerer.cfg[0]["mute"] = 0
        world.until(lambda: world["requests"] == 30)
        assert world["refetched"] == world["timeouts"]

    def test_each_request_has_its_own_time(self) -> None:
        world = World(clients=2, timeout_s=1.0, ramp_ns=S)  # the second begins half a second later
        world.answerer.cfg[0]["mute"] = 1
        world.phase(MEASURE)
        world.run(S + 51 * MS)
        assert world["timeouts"] == 1
        world.run(S // 2)
        assert world["timeouts"] == 2

    def test_a_slow_answer_is_waited_for_as_long_as_it_comes(self) -> None:
        world = measuring(clients=1, size=200_000, timeout_s=0.05, link={"rate": 1_000_000})
        world.until(lambda: world["requests"] == 2)
        assert world["latency_max_ns"] > 0.15 * S
        assert world["timeouts"] == 0


class TestSchedule:
    def test_as_many_as_the_schedule_says(self) -> None:
        world = measuring(clients=4, rate=100.0, poisson=False)
        world.run(S)
        assert 100 <= world["requests"] <= 101
        assert world["latency_max_ns"] == 2 * RTT  # each client's first includes its SYN

    def test_latency_counts_from_the_intended_time(self) -> None:
        # A request is due each millisecond, one client serves one each 2 ms: the k-th waits k ms.
        world = measuring(clients=1, rate=1000.0, poisson=False)
        world.until(lambda: world["requests"] == 50)
        last = world.now - 49 * MS  # when it was answered, less when it was due
        assert world["latency_max_ns"] == last
        assert last >= 50 * RTT - 49 * MS

    def test_a_pause_of_the_clients_is_part_of_the_latency(self) -> None:
        world = measuring(clients=2, rate=100.0, poisson=False)
        world.run(100 * MS)
        before = world["latency_max_ns"]
        world.now += 300 * MS
        world.run(20 * MS)
        assert before <= 2 * RTT < 290 * MS <= world["latency_max_ns"]

    def test_nothing_is_sent_before_its_time(self) -> None:
        world = measuring(clients=2, rate=10.0, poisson=False)
        world.run(50 * MS)
        count = world.count
        assert play_soonest(world.player, world.now) == 100 * MS
        world.now = 100 * MS - 1
        world.run(0)
        assert world.count == count
        world.run(1)
        assert world.count > count

    def test_clients_begin_along_the_ramp(self) -> None:
        world = measuring(clients=10, ramp_ns=100 * MS)
        for k in range(10):
            assert play_soonest(world.player, world.now) >= 0
            world.run(k * 10 * MS - world.now)
            assert world["connects"] == k + 1
            world.run(10 * MS - 1)
            assert world["connects"] == k + 1


class TestTransfers:
    SIZE = 120_000

    def fetch(self, **named: Any) -> World:
        world = measuring(**({"size": self.SIZE, "mode": ACTIVE_CLOSE, "once": True, "timeout_s": 60.0} | named))
        world.until(lambda: world["completed"] == world.config.count)
        return world

    def test_each_client_fetches_once_and_the_server_closes(self) -> None:
        world = self.fetch(clients=5)
        world.run(100 * MS)
        got = world.counts()
        assert got["requests"] == got["connects"] == got["closes"] == 5
        assert got["reply_bytes"] == 5 * self.SIZE
        assert got["open_sessions"] == got["resets"] == got["refetched"] == 0
        assert len(world.client.con) == int(world.client.cfg[0]["con_free"])
        assert int((world.server.con["state"] == TIME_WAIT).sum()) == 5

    def test_provoked_clients_are_cut_and_fetch_again_in_peace(self) -> None:
        world = self.fetch(clients=16, unread=0.25, abort=0.125)
        got = world.counts()
        assert (got["cut_by_reset"], got["cut_by_abort"], got["refetched"]) == (4, 2, 6)
        assert got["connects"] == 16 + 6
        assert got["completed"] == got["requests"] == 16
        assert got["reply_bytes"] == 16 * self.SIZE
        assert got["corrupt"] == got["timeouts"] == 0
        assert int(world.server.stat[0]["aborted"]) == 4 and int(world.client.stat[0]["aborted"]) == 2

    def test_each_fraction_alone(self) -> None:
        assert self.fetch(clients=4, abort=1.0)["cut_by_abort"] == 4
        assert self.fetch(clients=4, unread=1.0)["cut_by_reset"] == 4

    def test_clients_abort_at_different_places(self) -> None:
        world = World(clients=64, size=self.SIZE, once=True, abort=1.0)
        places = world.player.cli["abort_at"]
        assert places.min() >= 1 and places.max() < self.SIZE and len(set(places.tolist())) > 60

    @pytest.mark.parametrize("seed", range(3))
    def test_over_a_bad_network(self, seed: int) -> None:
        world = self.fetch(clients=8, unread=0.25, abort=0.25, seed=seed, link={"loss": 0.03, "reorder": 0.02, "corrupt": 0.01})
        got = world.counts()
        cuts = sum(got[name] for name in got if name.startswith("cut_by"))
        assert got["refetched"] == cuts >= 4
        assert got["connects"] == 8 + cuts
        assert got["reply_bytes"] == 8 * self.SIZE
        assert got["corrupt"] == 0

    def test_a_wrong_byte_at_the_end_of_a_long_reply(self) -> None:
        world = measuring(clients=2, size=self.SIZE, mode=ACTIVE_CLOSE, once=True)
        world.reply[-1] ^= 128
        world.until(lambda: world["corrupt"] == 4)
        assert world["completed"] == 0 and world["reply_bytes"] == 0
        world.reply[-1] ^= 128
        world.until(lambda: world["completed"] == 2)

    def test_the_time_counts_from_the_first_request_however_many_fetches_it_took(self) -> None:
        calm, cut = (transfers(self.fetch(clients=4, abort=fraction).player) for fraction in (0.0, 1.0))
        assert calm["completed"] == cut["completed"] == 4
        assert calm["p50_ns"] <= calm["p99_ns"] <= calm["slowest_ns"]
        assert cut["p50_ns"] > calm["slowest_ns"]

    def test_the_slowest_is_the_slowest(self) -> None:
        world = self.fetch(clients=9, ramp_ns=10 * MS, abort=0.12)
        took = np.sort(world.player.cli["took"])
        report = transfers(world.player)
        assert report["slowest_ns"] == took[-1] == world["latency_max_ns"]
        assert report["p50_ns"] == took[4] and report["p99_ns"] == took[-1]

    def test_nothing_happens_after_the_last(self) -> None:
        world = self.fetch(clients=3)
        world.run(S)
        count = world.count
        world.run(100 * S)
        assert world.count == count
        assert play_soonest(world.player, world.now) == -1


class TestRepeats:
    def digest(self, **named: Any) -> tuple[str, dict[str, int]]:
        world = World(clients=6, size=40_000, mode=ACTIVE_CLOSE, once=True, unread=0.4, abort=0.2, link={"loss": 0.02}, **named)
        world.phase(MEASURE)
        world.until(lambda: world["completed"] == 6)
        return world.packets.hexdigest(), world.counts()

    def test_the_same_seed_gives_the_same_packets(self) -> None:
        assert self.digest(seed=7) == self.digest(seed=7)

    def test_another_seed_gives_others(self) -> None:
        assert self.digest(seed=7)[0] != self.digest(seed=8)[0]


class TestCorners:
    def test_a_port_that_is_still_taken_is_passed_over(self) -> None:
        world = measuring(clients=1, requests_per_connection=1)
        world.until(lambda: world["connects"] == 2)
        world.player.cfg[0]["next_port"] -= 2  # the next two are in TIME-WAIT or in use
        world.until(lambda: world["connects"] == 3)
        assert world["refused"] == 0
        assert len(set(world.client.con["local_port"][world.client.con["state"] > 0].tolist())) == 3

    def test_ports_go_round(self) -> None:
        world = World(clients=1, requests_per_connection=1)
        world.player.cfg[0]["next_port"] = 64510
        world.phase(MEASURE)
        world.until(lambda: world["requests"] == 2)
        assert {1024, 65535} <= set(world.client.con["local_port"].tolist())

    def test_a_request_waits_for_room_whole(self) -> None:
        """Bytes that the transport still holds leave no room for the next request; it is not sent in parts."""
        request = pattern(200)
        world = measuring(clients=1, request=request, host={"fifo": 256})
        world.until(lambda: world["requests"] == 1)
        world.phase(DRAIN)
        world.until(lambda: world["outstanding"] == 0)
        slot = int(world.player.cli[0]["slot"])
        junk = np.frombuffer(request, "u1").copy()
        end = int(world.player.cfg[0]["ends_at"]) + 128 * slot + 64
        assert fifo_write(end, junk.ctypes.data, 199) == 199
        world.phase(MEASURE)
        world.run(RTT)
        assert int(world.player.cli[0]["state"]) == CLIENT_BLOCKED and world["outstanding"] == 0
        tcp_send_ready(world.client, slot)
        world.until(lambda: world["requests"] == 2)  # the server has one whole request by then, of both together
        assert world["corrupt"] == 0

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"count": 0}, "a client"),
            ({"request": b""}, "at least one byte"),
            ({"reply": b""}, "at least one byte"),
            ({"request": bytes(257)}, "fifo of 256"),
            ({"unread": 0.6, "abort": 0.6, "once": True}, "at most 1"),
            ({"unread": -0.1, "once": True}, "at most 1"),
            ({"abort": 0.1}, "fetch once"),
        ],
    )
    def test_what_cannot_work_is_said(self, wrong: dict[str, Any], words: str) -> None:
        t, _ = new_tcp(HostConfig(fifo=256))
        config = ClientConfig(**({"count": 1, "request": b"x", "reply": b"y"} | wrong))
        with pytest.raises(ValueError, match=words):
            new_player(t, config, np.zeros(1, abi.TELEMETRY), 0x0A000002)

    def test_a_world_without_an_end_is_noticed(self) -> None:
        world = World(clients=1)
        with pytest.raises(Stuck):
            world.until(lambda: world["requests"] == 1)
