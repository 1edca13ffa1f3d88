"""Whatever the link does, each byte stream arrives whole, in order and once, or the connection fails with an error."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tcp.packets import read
from tests.tcp.pair import Faults, Pair, Talker, read_all
from tests.tcp.sound import check_sound

MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def content(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def exchange(pair: Pair, to_right: bytes, to_left: bytes, sizes: list[int]) -> tuple[Talker, Talker]:
    """Both ends send what they have in chunks of ``sizes`` and shut down; drive until both are through."""
    client, server = pair.connect()
    talkers = (
        Talker(client, to_right, sizes, sizes[::-1]),
        Talker(server, to_left, sizes[::-1], sizes),
    )

    def done() -> bool:
        for talker in talkers:
            talker.pump()
        return all(talker.finished for talker in talkers)

    pair.drive(done, limit=3600.0, events=200_000)
    return talkers


def check(pair: Pair, talkers: tuple[Talker, Talker], to_right: bytes, to_left: bytes) -> None:
    """Whole streams or errors; what arrived is in any case the beginning of what was sent. Then nothing is left."""
    for talker, expected in zip(talkers, (to_left, to_right), strict=True):
        if talker.error is None:
            assert bytes(talker.got) == expected
        else:
            assert expected.startswith(bytes(talker.got))
        talker.socket.close()
    pair.drive(pair.empty, limit=3600.0)
    for host in (pair.left, pair.right):
        assert host.stats()["slots"] == 0
        check_sound(host)


FAULTS = st.builds(
    Faults,
    loss=st.sampled_from([0.0, 0.01, 0.1, 0.2]),
    duplicate=st.sampled_from([0.0, 0.1, 0.5]),
    reorder=st.sampled_from([0.0, 0.1, 0.5]),
    corrupt=st.sampled_from([0.0, 0.05, 0.2]),
    reorder_delay=st.sampled_from([0.001, 0.02, 0.3]),
)
CONFIGS = st.fixed_dictionaries(
    {
        "fifo": st.sampled_from([256, 1024, 4096, 65536]),
        "mtu": st.sampled_from([128, 576, 1500]),
        "sack": st.booleans(),
        "timestamps": st.booleans(),
        "nagle": st.booleans(),
        "wscale": st.sampled_from([-1, 0, 7, None]),
        "cc": st.sampled_from(["newreno", "cubic"]),
        "recovery": st.sampled_from(["generation", "state-aware", "purge", "flag"]),
        "policy": st.sampled_from(["fifo", "drop-front", "earliest-deadline"]),
        "pacing": st.booleans(),
    }
)
SIZES = st.lists(st.integers(1, 5000), min_size=1, max_size=5)


@MANY
@given(
    st.integers(0, 1 << 30), st.sampled_from([0.0, 0.001, 0.05]), FAULTS, CONFIGS, SIZES,
    st.integers(0, 20000), st.integers(0, 20000),
)  # fmt: skip
def test_streams_arrive(
    seed: int, delay: float, faults: Faults, config: dict, sizes: list[int], right_size: int, left_size: int
) -> None:
    pair = Pair(seed=seed, delay=delay, faults=faults, retries=30, syn_retries=30, rto_max=2.0, connections=4, **config)
    to_right, to_left = content(right_size, seed), content(left_size, seed + 1)
    talkers = exchange(pair, to_right, to_left, sizes)
    check(pair, talkers, to_right, to_left)
    if faults.loss <= 0.1 and faults.corrupt <= 0.05:
        assert all(talker.error is None for talker in talkers), "thirty retries get through such a wire"



def test_a_clean_wire_repeats_nothing() -> None:
    pair = Pair(delay=0.005)
    to_right, to_left = content(300_000, 1), content(200_000, 2)
    talkers = exchange(pair, to_right, to_left, [65536])
    check(pair, talkers, to_right, to_left)
    for host in (pair.left, pair.right):
        stats = host.stats()
        assert stats["retransmits"] == stats["timeouts"] == stats["resets_out"] == 0
        assert not any(stats["dropped"].values())
        assert stats["bytes_in"] + stats["bytes_out"] == 500_000


@pytest.mark.parametrize("sack", [True, False])
def test_one_lost_segment_is_repaired_without_a_timeout(sack: bool) -> None:
    pair = Pair(delay=0.005, sack=sack)
    data = content(200_000, 3)
    fates = iter([False] * 20 + [True])
    pair.lose(pair.left, 1, lambda packet: len(packet) > 1000 and next(fates, False))
    talkers = exchange(pair, data, b"", [65536])
    check(pair, talkers, data, b"")
    stats = pair.left.stats()
    assert (stats["timeouts"], stats["fast_recoveries"], stats["retransmits"]) == (0, 1, 1)


def test_streams_arrive_without_boards() -> None:
    """All are lent: what comes ahead of the stream is refused, what SACK reports is ignored."""
    pair = Pair(seed=5, faults=Faults(loss=0.1, reorder=0.1), retries=30, rto_max=2.0)
    for host in (pair.left, pair.right):
        host.tcp.cfg[0]["board_free"] = 0
    to_right, to_left = content(30_000, 1), content(20_000, 2)
    talkers = exchange(pair, to_right, to_left, [3000])
    assert [talker.error for talker in talkers] == [None, None]
    assert (bytes(talkers[1].got), bytes(talkers[0].got)) == (to_right, to_left)
    assert pair.left.stats()["sack_ignored"] == 0, "nothing was reported: the other side could keep nothing"
    assert pair.right.stats()["dropped"]["pieces-full"] > 0


def test_acks_from_a_sender_that_has_filled_the_window_count() -> None:
    """Its segments all carry the number at the window's right edge; one of its own is missing for long."""
    pair = Pair(fifo=8192, delay=0.01, nagle=False)
    client, server = pair.connect()
    client.send(bytes(8192))
    first = int(pair.left.tcp.con[int(pair.left.tcp.slot[0]["con"])]["snd_nxt"]) & 0xFFFFFFFF
    pair.lose(pair.left, 5, lambda packet: read(packet).seq == first and len(read(packet).payload) > 0)
    got = bytearray()
    data = content(60_000, 6)
    talker = Talker(server, data, [8192], [8192])

    def done() -> bool:
        talker.pump()
        got.extend(read_all(client))
        return len(got) == len(data)

    pair.drive(done, limit=0.5)
    assert bytes(got) == data and pair.right.stats()["timeouts"] == 0
    assert pair.right.stats()["dropped"]["out-of-window"] == 0


def test_many_connections_share_the_wire() -> None:
    pair = Pair(connections=16, fifo=4096, faults=Faults(loss=0.05, reorder=0.1, duplicate=0.05))
    pairs = []
    for i in range(8):
        client, server = pair.connect(port=100 + i)
        pairs.append((Talker(client, content(9000 + i, i), [700], [900]), Talker(server, content(i, 99), [7], [8192])))

    def done() -> bool:
        for talkers in pairs:
            for talker in talkers:
                talker.pump()
        return all(talker.finished for talkers in pairs for talker in talkers)

    pair.drive(done)
    for i, (client, server) in enumerate(pairs):
        assert client.error is server.error is None
        assert bytes(server.got) == content(9000 + i, i) and bytes(client.got) == content(i, 99)
        client.socket.close()
        server.socket.close()
    pair.drive(pair.empty)


def test_a_reader_that_pauses_is_waited_for() -> None:
    """A closed window is probed for as long as the peer answers (RFC 9293 section 3.8.6.1), then the stream goes on."""
    pair = Pair(fifo=4096, retries=4)
    client, server = pair.connect()
    data = content(30_000, 4)
    sender, reader = Talker(client, data, [4096], [1]), Talker(server, b"", [1], [4096])

    def writing() -> bool:
        sender.pump()
        return pair.now > 600

    pair.drive(writing, limit=700.0)
    assert 5 < pair.left.stats()["window_probes"] < 30 and sender.error is None

    def both() -> bool:
        sender.pump()
        reader.pump()
        return sender.finished and reader.finished

    pair.drive(both)
    assert bytes(reader.got) == data
    check(pair, (sender, reader), data, b"")
