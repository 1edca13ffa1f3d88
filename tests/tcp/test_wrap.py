"""Sequence numbers run over the end of their 32 bits on both sides, at every distance from it that matters."""

from __future__ import annotations

import errno

import pytest

from stackcore.tcp import Host
from stackcore.tcp.state import SYN_RCVD, SYN_SENT
from tests.tcp.pair import RIGHT, Faults, Pair, Talker
from tests.tcp.test_stream import check, content

WIRE = 1 << 32
SIZE = 30_000
BEFORE = (0, 1, 2, 100, 1447, 1448, 1449, 10_000, SIZE - 1, SIZE, SIZE + 1, SIZE + 2, WIRE // 2, WIRE // 2 + SIZE // 2)
"""Initial sequence numbers are this much below 2**32: the SYN, a byte, the FIN or nothing of a stream is the one to wrap.
Near 2**31 the sign of a 32-bit difference would change."""


def begin_at(host: Host, state: int, number: int) -> None:
    """Let the only connection, which has sent nothing yet, start with ``number``; RFC 6528 would choose it."""
    (c,) = (i for i in range(len(host.tcp.con)) if host.tcp.con[i]["state"] == state)
    con = host.tcp.con[c]
    con["iss"] = con["snd_una"] = con["recover"] = WIRE + number % WIRE
    con["snd_nxt"] = con["iss"] + 1


def connected(pair: Pair, left: int, right: int) -> tuple[Talker, Talker]:
    """A connection whose ends begin ``left`` and ``right`` below 2**32, with as much to send each way."""
    listener, client = pair.right.socket(), pair.left.socket()
    listener.listen(80)
    assert client.connect_ex((RIGHT, 80)) == errno.EINPROGRESS
    begin_at(pair.left, SYN_SENT, -left)
    while pair.right.stats()["connections"] == 0:
        pair.step()
    begin_at(pair.right, SYN_RCVD, -right)
    pair.drive(lambda: listener.poll() and client.poll())
    assert {-pair.segments(host)[0].seq % WIRE for host in (pair.left, pair.right)} == {left % WIRE, right % WIRE}
    server, _ = listener.accept()
    listener.close()
    return Talker(client, content(SIZE, left), [4000], [3000]), Talker(server, content(SIZE, right + 1), [5000], [700])


@pytest.mark.parametrize("faults", [Faults(), Faults(loss=0.1, reorder=0.2, duplicate=0.2)], ids=["clean", "rough"])
@pytest.mark.parametrize("sack", [True, False], ids=["sack", "no-sack"])
@pytest.mark.parametrize("below", BEFORE)
def test_a_stream_across_the_end(below: int, sack: bool, faults: Faults) -> None:
    pair = Pair(seed=below, sack=sack, fifo=16384, rto_max=2.0, retries=30, syn_retries=30)
    talkers = connected(pair, below, BEFORE[-1 - BEFORE.index(below)])
    pair.faults = faults

    def done() -> bool:
        for talker in talkers:
            talker.pump()
        return all(talker.finished for talker in talkers)

    pair.drive(done)
    assert talkers[0].error is talkers[1].error is None
    pair.faults = Faults()
    check(pair, talkers, content(SIZE, below), content(SIZE, BEFORE[-1 - BEFORE.index(below)] + 1))
    if not faults.loss:
        assert pair.left.stats()["retransmits"] == pair.right.stats()["retransmits"] == 0


@pytest.mark.parametrize("below", [0, 1, 500])
def test_what_is_old_stays_old_across_the_end(below: int) -> None:
    """A segment of before the end that comes again after it is a duplicate, not new data far ahead."""
    pair = Pair(timestamps=False)
    client, server = connected(pair, below + 1, 5)
    start = len(pair.sent)
    client.socket.send(b"a" * 1000)
    pair.run(1.0)
    old = [packet for _, host, packet in pair.sent[start:] if host is pair.left]
    assert server.socket.recv(2000) == b"a" * 1000
    for packet in old:
        pair.inject(pair.right, packet)
    client.socket.send(b"b" * 1000)
    pair.run(1.0)
    assert server.socket.recv(3000) == b"b" * 1000
    assert pair.right.stats()["dropped"]["old-duplicate"] == len(old) > 0


def test_timestamps_run_over_their_end() -> None:
    """RFC 7323 section 5.4: PAWS compares in 32 bits, too."""
    pair = Pair(delay=0.002)
    client, server = connected(pair, 7, 9)
    for host in (pair.left, pair.right):
        (con,) = (host.tcp.con[i] for i in range(len(host.tcp.con)) if host.tcp.con[i]["state"])
        con["ts_offset"] = -pair.now_ns // 10**6 - 3
        con["ts_recent"] = WIRE - 4

    def done() -> bool:
        client.pump()
        server.pump()
        return client.finished and server.finished

    start = len(pair.sent)
    pair.drive(done)
    stamps = [segment.options.ts[0] for segment in pair.segments(pair.left, start)]
    assert min(stamps) < 1000 and max(stamps) > WIRE - 1000, "they did run over it"
    assert not any(pair.left.stats()["dropped"].values()) and not any(pair.right.stats()["dropped"].values())
    check(pair, (client, server), content(SIZE, 7), content(SIZE, 10))
