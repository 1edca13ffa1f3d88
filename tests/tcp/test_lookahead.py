"""Looking ahead over a vector changes nothing but the time it takes: packets together do what they do one by one."""

import numpy as np
import pytest

from stackcore.tcp import Host, HostConfig, engine
from stackcore.tcp.lookahead import FEWEST_CONNECTIONS, FEWEST_PACKETS, worthwhile
from stackcore.tcp.state import HEADROOM, MAX_FRAME, REASONS

CLIENTS = 12
NOW = 1_000_000_000


def exchange(a: Host, b: Host, now: float) -> None:
    while True:
        there, back = a.transmit(now), b.transmit(now)
        for packet in there:
            b.receive(packet, now)
        for packet in back:
            a.receive(packet, now)
        if not there and not back:
            return


def established(connections: int) -> tuple[Host, list[bytes]]:
    """A server with ``connections`` records and CLIENTS of them in use, and what the clients send next: data, some of it
    followed by a reset, and the data again, which then finds nobody."""
    client = Host(HostConfig(addr="10.0.0.2", seed=2))
    server = Host(HostConfig(addr="10.0.0.1", seed=1, connections=connections, fifo=4096))
    listener = server.socket()
    listener.listen(80)
    sockets = [client.socket() for _ in range(CLIENTS)]
    for socket in sockets:
        socket.connect_ex(("10.0.0.1", 80))
    exchange(client, server, 1.0)
    for number, socket in enumerate(sockets):
        socket.send(b"request %d" % number)
    data = client.transmit(1.0)
    for socket in sockets[::3]:
        socket.abort()
    resets = client.transmit(1.0)
    garbage = bytes(range(60))
    with_options = bytearray(data[1][:20] + bytes(4) + data[1][20:])  # the ports are not where a hint looks for them
    with_options[0] = 0x46
    return server, [*data, *resets, garbage, bytes(with_options), *data]


def frame_of(packets: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    buf, lengths = np.zeros((MAX_FRAME, 2048), "u1"), np.zeros(MAX_FRAME, "i8")
    for i, packet in enumerate(packets):
        buf[i, HEADROOM : HEADROOM + len(packet)] = np.frombuffer(packet, "u1")
        lengths[i] = len(packet)
    return buf, lengths


def output(t) -> list[bytes]:
    buf, lengths = frame_of([])
    used = engine.tcp_output(t, buf, lengths, 0, NOW)
    return [buf[i, HEADROOM : HEADROOM + lengths[i]].tobytes() for i in range(used)]


def test_a_vector_does_what_its_packets_do_one_by_one() -> None:
    together, packets = established(FEWEST_CONNECTIONS)
    apart, same = established(FEWEST_CONNECTIONS)
    assert packets == same
    assert worthwhile(together.tcp, len(packets)) and not worthwhile(apart.tcp, 1)
    engine.tcp_input(together.tcp, *frame_of(packets), len(packets), NOW)
    for packet in packets:
        engine.tcp_input(apart.tcp, *frame_of([packet]), 1, NOW)
    assert together.tcp.stat[0]["resets_in"] == 4, "connections ended within the vector"
    assert together.tcp.con.tobytes() == apart.tcp.con.tobytes()
    assert together.tcp.slot.tobytes() == apart.tcp.slot.tobytes()
    assert together.tcp.stat.tobytes() == apart.tcp.stat.tobytes()
    assert dict(zip(REASONS, together.tcp.dropped, strict=True)) == dict(zip(REASONS, apart.tcp.dropped, strict=True))
    assert output(together.tcp) == output(apart.tcp)


def test_the_number_of_records_does_not_change_the_answers() -> None:
    large, packets = established(FEWEST_CONNECTIONS)
    small, same = established(4 * CLIENTS)
    assert packets == same
    for host in (large, small):
        engine.tcp_input(host.tcp, *frame_of(packets), len(packets), NOW)
    assert large.tcp.stat.tobytes() == small.tcp.stat.tobytes()
    assert len(output(large.tcp)) == len(output(small.tcp)) > 0


@pytest.mark.parametrize(("connections", "packets"), [(FEWEST_CONNECTIONS - 1, 256), (FEWEST_CONNECTIONS, FEWEST_PACKETS - 1)])
def test_small_tables_and_short_vectors_are_left_alone(connections: int, packets: int) -> None:
    assert not worthwhile(Host(HostConfig(connections=connections, fifo=256, seed=1)).tcp, packets)
