"""The link model: what happens to each packet, and when, by hand; how often, by the law of large numbers."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from itertools import groupby, pairwise
from math import ceil, floor, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackcore import native  # noqa: F401  (before any module with kernels)
from stackcore.wire.link import LinkConfig, link_deliver, link_send, link_soonest, link_statistics, new_link
from tests.wire.frames import Frame, Pipe, number_of, numbered

MS, S = 1_000_000, 1_000_000_000
FAR = 1 << 60
DROPS = ("lost", "burst", "queue_full", "bad_length", "pool_full")


def pipe(**config: Any) -> Pipe:
    return Pipe(new_link(LinkConfig(**config)))


def counts(p: Pipe) -> dict[str, int]:
    return link_statistics(p.link)


def arrivals(p: Pipe) -> list[tuple[int, int]]:
    """(time, number) of each packet under way, in order of arrival; -1 for a damaged one."""
    found = []
    while (soonest := int(link_soonest(p.link))) >= 0:
        assert p.deliver(soonest - 1) == []
        packets = p.deliver(soonest)
        assert packets
        found += [(soonest, number_of(packet)) for packet in packets]
    return found


def order(p: Pipe) -> list[int]:
    return [k for _, k in arrivals(p)]


def accounted(p: Pipe) -> bool:
    n = counts(p)
    return n["sent"] + n["duplicated"] == n["delivered"] + n["in_flight"] + sum(n[reason] for reason in DROPS)


class TestDistance:
    def test_no_delay_is_no_delay(self) -> None:
        p = pipe()
        assert p.send(b"now", 5) == 1
        assert p.deliver(5) == [b"now"]

    def test_arrives_after_the_delay_and_not_before(self) -> None:
        p = pipe(delay=10 * MS)
        p.send(numbered(1), 7)
        assert link_soonest(p.link) == 10 * MS + 7
        assert p.deliver(10 * MS + 6) == []
        assert p.deliver(10 * MS + 7) == [numbered(1)]
        assert link_soonest(p.link) == -1

    def test_equal_times_arrive_in_the_order_sent(self) -> None:
        p = pipe(delay=1)
        for k in range(20):
            p.send(numbered(k), 0)
        assert order(p) == list(range(20))

    def test_the_limit_leaves_the_rest_for_the_next_call(self) -> None:
        p, frame = pipe(), Frame(rows=8)
        for k in range(5):
            p.send(numbered(k), 0)
        assert link_deliver(p.link, frame.buf, frame.lengths, 2, 6, 0) == 6
        assert frame.lengths.tolist() == [0, 0, 40, 40, 40, 40, 0, 0]
        assert [number_of(frame.get(row)) for row in range(2, 6)] == [0, 1, 2, 3]
        assert link_deliver(p.link, frame.buf, frame.lengths, 0, 8, 0) == 1
        assert number_of(frame.get(0)) == 4

    def test_jitter_stays_within_its_bounds_and_reaches_them(self) -> None:
        p = pipe(delay=100, jitter=3)
        for k in range(200):
            p.send(numbered(k), 1000 * k)
        assert {at - 1000 * k for at, k in arrivals(p)} == {100, 101, 102, 103}

    def test_jitter_reorders(self) -> None:
        p = pipe(jitter=1000)
        for k in range(50):
            p.send(numbered(k), k)
        found = arrivals(p)
        assert found == sorted(found, key=lambda a: a[0])
        numbers = [k for _, k in found]
        assert sorted(numbers) == list(range(50)) and numbers != list(range(50))
        late = sum(k < max(numbers[:i], default=-1) for i, k in enumerate(numbers))
        assert counts(p)["out_of_order"] == late


class TestBottleneck:
    def test_packets_leave_one_after_the_other(self) -> None:
        p = pipe(rate=1000, delay=5)
        for k in range(3):
            p.send(numbered(k, 100), 0)
        assert arrivals(p) == [(S // 10 + 5, 0), (S // 5 + 5, 1), (3 * S // 10 + 5, 2)]

    def test_rounding_does_not_add_up(self) -> None:
        p = pipe(rate=3)
        for k in range(6):
            p.send(numbered(k, 4), 0)
        assert [at for at, _ in arrivals(p)] == [floor(Fraction(4 * S * n, 3)) for n in range(1, 7)]

    def test_rounding_does_not_add_up_from_one_just_in_time_to_the_next(self) -> None:
        p, now = pipe(rate=3), 0
        for k in range(3):
            p.send(numbered(k, 4), now)
            ((now, _),) = arrivals(p)
        assert now == 4 * S

    def test_idle_time_is_not_saved_up(self) -> None:
        p = pipe(rate=1000)
        p.send(numbered(0, 100), 0)
        p.send(numbered(1, 100), 5 * S)
        assert arrivals(p) == [(S // 10, 0), (5 * S + S // 10, 1)]

    def test_a_full_queue_drops_the_newest(self) -> None:
        p = pipe(rate=1000, queue=2)
        assert [p.send(numbered(k, 100), 0) for k in range(4)] == [1, 1, 0, 0]
        assert p.send(numbered(4, 100), S // 10 - 1) == 0
        assert p.send(numbered(5, 100), S // 10) == 1  # the first one has left
        assert arrivals(p) == [(S // 10, 0), (S // 5, 1), (3 * S // 10, 5)]
        assert counts(p)["queue_full"] == 3 and accounted(p)

    def test_the_queue_is_before_the_distance(self) -> None:
        p = pipe(rate=1000, queue=1, delay=FAR)
        assert [p.send(numbered(k, 100), k * S) for k in range(5)] == [1] * 5

    def test_what_the_air_takes_has_used_the_bottleneck(self) -> None:
        p = pipe(rate=1000, queue=2, loss=1.0)
        assert [p.send(numbered(k, 100), 0) for k in range(3)] == [0, 0, 0]
        assert (counts(p)["lost"], counts(p)["queue_full"]) == (2, 1)


class TestTrouble:
    def test_loss_of_everything(self) -> None:
        p = pipe(loss=1.0)
        assert [p.send(numbered(k), 0) for k in range(9)] == [0] * 9
        assert counts(p)["lost"] == 9 and link_soonest(p.link) == -1 and accounted(p)

    def test_the_chain_goes_bad_and_stays(self) -> None:
        p = pipe(burst_start=1.0, burst_end=0.0)
        assert [p.send(numbered(k), 0) for k in range(5)] == [0] * 5
        assert counts(p)["burst"] == 5 and accounted(p)

    def test_the_chain_moves_before_each_packet(self) -> None:
        p = pipe(burst_start=1.0, burst_end=1.0)
        assert [p.send(numbered(k), 0) for k in range(6)] == [0, 1, 0, 1, 0, 1]

    def test_a_bad_state_may_be_harmless(self) -> None:
        p = pipe(burst_start=1.0, burst_end=0.0, burst_loss=0.0)
        assert [p.send(numbered(k), 0) for k in range(5)] == [1] * 5

    def test_a_duplicate_follows_its_original(self) -> None:
        p = pipe(duplicate=1.0, delay=3)
        for k in range(4):
            p.send(numbered(k), k)
        assert arrivals(p) == [(3 + k, k) for k in range(4) for _ in range(2)]
        assert counts(p)["duplicated"] == 4 and accounted(p)

    def test_a_lost_packet_has_no_duplicate(self) -> None:
        p = pipe(duplicate=1.0, loss=1.0)
        p.send(b"x", 0)
        assert counts(p)["duplicated"] == 0 and arrivals(p) == []

    @pytest.mark.parametrize("extra", [500, -500])
    def test_reordered_ones_are_late_or_early_by_what_was_asked(self, extra: int) -> None:
        p = pipe(delay=1000, reorder=0.3, reorder_delay=extra)
        for k in range(100):
            p.send(numbered(k), k)
        found = arrivals(p)
        moved = [k for at, k in found if at == k + 1000 + extra]
        assert sorted(moved + [k for at, k in found if at == k + 1000]) == list(range(100))
        assert counts(p)["reordered"] == len(moved) > 10
        numbers = [k for _, k in found]
        late = sum(k < max(numbers[:i], default=-1) for i, k in enumerate(numbers))
        assert counts(p)["out_of_order"] == late > 0

    def test_nothing_arrives_before_it_left(self) -> None:
        p = pipe(rate=1000, delay=1, reorder=1.0, reorder_delay=-S)
        p.send(numbered(0, 100), 0)
        assert arrivals(p) == [(S // 10, 0)]

    def test_corruption_flips_one_bit(self) -> None:
        p = pipe(corrupt=1.0)
        flipped = set()
        for _ in range(300):
            p.send(bytes(4), 0)
            (packet,) = p.deliver(0)
            assert len(packet) == 4
            flipped.add(int.from_bytes(packet, "big"))
        assert flipped == {1 << bit for bit in range(32)}
        assert counts(p)["corrupted"] == 300

    def test_the_senders_row_is_not_touched(self) -> None:
        p = pipe(corrupt=1.0, duplicate=1.0)
        p.send(numbered(1), 0)
        assert p.frame.get(0) == numbered(1)


class TestBounds:
    @pytest.mark.parametrize("length", [-1, 0, 101, 1 << 40])
    def test_a_length_that_no_datagram_has(self, length: int) -> None:
        p = Pipe(new_link(LinkConfig(), mtu=100))
        assert link_send(p.link, p.frame.buf, 0, length, 0) == 0
        assert counts(p)["bad_length"] == 1 and counts(p)["bytes_sent"] == 0 and accounted(p)

    def test_the_longest_datagram(self) -> None:
        p = Pipe(new_link(LinkConfig(), mtu=100))
        p.send(numbered(1, 100), 0)
        assert p.deliver(0) == [numbered(1, 100)]

    def test_a_full_pool_drops_and_says_so(self) -> None:
        p = pipe(capacity=3, delay=10)
        assert [p.send(numbered(k), 0) for k in range(5)] == [1, 1, 1, 0, 0]
        assert counts(p)["pool_full"] == 2 and counts(p)["in_flight"] == 3 and accounted(p)
        assert order(p) == [0, 1, 2]
        assert p.send(numbered(5), 20) == 1  # and there is room again

    def test_every_buffer_comes_back(self) -> None:
        p = pipe(capacity=4, jitter=50, duplicate=0.5)
        for k in range(300):
            p.send(numbered(k), 100 * k)
            assert {number_of(packet) for packet in p.deliver(100 * k + 99)} == {k}
        assert sorted(p.link.free.tolist()) == [0, 1, 2, 3] and counts(p)["in_flight"] == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"loss": 1.1}, {"loss": float("nan")}, {"burst_end": -0.1}, {"rate": -1}, {"delay": -1}, {"jitter": 1 << 31},
            {"queue": -1}, {"queue": 1 << 25}, {"capacity": 0}, {"capacity": 1 << 25}, {"reorder_delay": 1 << 62},
        ],
    )  # fmt: skip
    def test_a_configuration_without_sense(self, wrong: dict[str, Any]) -> None:
        (name,) = wrong
        with pytest.raises(ValueError, match=f"a link's {name} is"):
            LinkConfig(**wrong)

    @pytest.mark.parametrize("mtu", [0, 65536])
    def test_an_mtu_without_sense(self, mtu: int) -> None:
        with pytest.raises(ValueError, match="MTU"):
            new_link(LinkConfig(), mtu)


def fates(n: int, **config: Any) -> list[int]:
    """1 for each of ``n`` packets that got through."""
    p = pipe(**config)
    found = []
    for k in range(n):
        found.append(p.send(b"....", k))
        p.deliver(k)
    assert accounted(p)
    return found


class TestSeeds:
    MIXED = {"loss": 0.3, "burst_start": 0.1, "burst_end": 0.2}

    def test_the_same_seed_is_the_same_run(self) -> None:
        assert fates(300, **self.MIXED, seed=5) == fates(300, **self.MIXED, seed=5)

    def test_another_seed_is_another_run(self) -> None:
        runs = {tuple(fates(300, **self.MIXED, seed=seed)) for seed in (0, 1, 2, 1 << 32, 1 << 63)}
        assert len(runs) == 5

    def test_features_do_not_disturb_each_other(self) -> None:
        noise = {"duplicate": 0.5, "corrupt": 0.5, "reorder": 0.5, "reorder_delay": 1, "jitter": 7}
        assert fates(300, **self.MIXED, seed=5) == fates(300, **self.MIXED, **noise, seed=5)


class TestStatistics:
    """Frequencies within five standard deviations of what they must be, for fixed seeds."""

    N = 20_000

    def near(self, found: float, p: float, n: float) -> bool:
        return abs(found - n * p) < 5 * sqrt(n * p * (1 - p))

    @pytest.mark.parametrize("p", [0.01, 0.5])
    def test_loss(self, p: float) -> None:
        assert self.near(self.N - sum(fates(self.N, loss=p, seed=7)), p, self.N)

    def test_losses_are_independent(self) -> None:
        lost = [1 - through for through in fates(self.N, loss=0.2, seed=8)]
        both = sum(a & b for a, b in pairwise(lost))
        assert self.near(both, 0.04, self.N)

    def test_bursts_are_as_frequent_and_as_long_as_the_chain_says(self) -> None:
        start, end = 0.02, 0.25
        runs = [(through, len(list(run))) for through, run in groupby(fates(self.N, burst_start=start, burst_end=end, seed=9))]
        for through, rate in ((1, start), (0, end)):
            lengths = [n for t, n in runs[:-1] if t == through]  # geometric: mean 1/rate, deviation sqrt(1 - rate)/rate
            assert abs(np.mean(lengths) - 1 / rate) < 5 * sqrt(1 - rate) / rate / sqrt(len(lengths))

    @pytest.mark.parametrize("feature", ["duplicate", "corrupt", "reorder"])
    def test_the_other_features(self, feature: str) -> None:
        p = pipe(**{feature: 0.1}, seed=10)
        for k in range(self.N // 4):
            p.send(b"....", k)
            p.deliver(k)
        assert self.near(counts(p)[feature.removesuffix("e") + "ed"], 0.1, self.N // 4)

    def test_jitter_is_uniform(self) -> None:
        p = pipe(jitter=9, seed=11)
        histogram = np.zeros(10)
        for k in range(self.N // 4):
            p.send(b"....", 100 * k)
            histogram[int(link_soonest(p.link)) - 100 * k] += 1
            p.deliver(100 * k + 99)
        assert all(self.near(n, 0.1, self.N // 4) for n in histogram)


def flights(n: int, step: int, config: LinkConfig) -> list[tuple[int, int]]:
    """(time, number) of the arrivals of ``n`` packets sent ``step`` ns apart."""
    p = Pipe(new_link(config, mtu=60), mtu=60)
    for k in range(n):
        p.send(numbered(k), k * step)
    return arrivals(p)


class Model:
    """Rate, queue, delay and capacity again, in fractions and lists."""

    def __init__(self, config: LinkConfig) -> None:
        self.config = config
        self.busy = Fraction(0)
        self.leaving: deque[Fraction] = deque()
        self.flying: list[tuple[int, int]] = []

    def send(self, k: int, length: int, now: int) -> int:
        c = self.config
        left = Fraction(now)
        if c.rate:
            # the clock counts whole ns: a packet has left when it shows the end of the last byte, rounded down
            waiting = [t for t in self.leaving if floor(t) > now]
            if c.queue and len(waiting) >= c.queue:
                return 0
            left = (self.busy if floor(self.busy) >= now else Fraction(now)) + Fraction(length * S, c.rate)
            self.busy = left
            self.leaving.append(left)
        if len(self.flying) >= c.capacity:
            return 0
        self.flying.append((floor(left) + c.delay, k))
        return 1

    def deliver(self, now: int) -> list[int]:
        arrived = [flight for flight in self.flying if flight[0] <= now]
        self.flying = [flight for flight in self.flying if flight[0] > now]
        return [k for _, k in sorted(arrived)]


steps = st.lists(st.tuples(st.integers(0, 3000), st.integers(4, 60), st.booleans()), max_size=60)


class TestEverything:
    @given(
        steps=steps, rate=st.sampled_from([0, 3, 10**7, 10**9 + 7]), queue=st.integers(0, 4), delay=st.sampled_from([0, 1, 5000]),
        capacity=st.sampled_from([1, 5, 100]),
    )  # fmt: skip
    @settings(deadline=None)
    def test_without_chance_it_is_the_model(
        self, steps: list[tuple[int, int, bool]], rate: int, queue: int, delay: int, capacity: int
    ) -> None:
        config = LinkConfig(rate=rate, queue=queue, delay=delay, capacity=capacity)
        model, p = Model(config), Pipe(new_link(config, mtu=60), rows=3, mtu=60)
        now = 0
        for k, (step, length, look) in enumerate(steps):
            now += step
            assert p.send(numbered(k, length), now) == model.send(k, length, now)
            if look:
                assert [number_of(packet) for packet in p.deliver(now)] == model.deliver(now)
        assert order(p) == model.deliver(FAR) and accounted(p)

    @given(
        n=st.integers(1, 60), step=st.sampled_from([0, 1, 7, 100]), jitter=st.integers(0, 200), delay=st.integers(0, 300),
        reorder=st.sampled_from([0.0, 0.3, 0.7]), reorder_delay=st.integers(-300, 300), seed=st.integers(0, 1000),
    )  # fmt: skip
    @settings(deadline=None)
    def test_arrivals_are_by_time_and_then_by_the_order_sent(self, n: int, step: int, **config: Any) -> None:
        link = LinkConfig(**config)
        spread = flights(n, 1000, link)  # so far apart that none can overtake, each is as long under way as in any other run
        assert [k for _, k in spread] == list(range(n))
        assert flights(n, step, link) == sorted((at - 1000 * k + step * k, k) for at, k in spread)

    probability = st.sampled_from([0.0, 0.2, 1.0])

    @given(
        steps=steps, loss=probability, burst_start=probability, burst_end=probability, reorder=probability,
        duplicate=probability, reorder_delay=st.integers(-4000, 4000), jitter=st.integers(0, 3000), delay=st.integers(0, 3000),
        rate=st.sampled_from([0, 10**7]), queue=st.integers(0, 3), capacity=st.sampled_from([2, 100]),
        seed=st.integers(0, 2**64 - 1),
    )  # fmt: skip
    @settings(deadline=None)
    def test_every_packet_is_accounted_for_and_whole(self, steps: list[tuple[int, int, bool]], **config: Any) -> None:
        p = Pipe(new_link(LinkConfig(**config), mtu=60), rows=3, mtu=60)
        now = 0
        sent_at, found = {}, []
        for k, (step, length, look) in enumerate(steps):
            now += step
            sent_at[k] = now
            p.send(numbered(k, length), now)
            found += [(now, number_of(packet)) for packet in (p.deliver(now) if look else [])]
            assert accounted(p)
        found += arrivals(p)
        numbers = [k for _, k in found]
        assert -1 not in numbers and max(map(numbers.count, numbers), default=0) <= 2
        slowest = config["delay"] + config["jitter"] + max(0, config["reorder_delay"]) + ceil(60 * S / 10**7) * len(steps)
        assert all(sent_at[k] <= at for at, k in found)
        assert all(at <= max(now, sent_at[k] + slowest) for at, k in found)
        assert len(numbers) == counts(p)["delivered"] and counts(p)["in_flight"] == 0
