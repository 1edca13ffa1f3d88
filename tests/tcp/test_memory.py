"""Memory of a stack: initial contents, what the configuration refuses, what an idle connection costs."""

import pytest

from stackcore.tcp.config import HostConfig, dotted_address, packed_address
from stackcore.tcp.memory import HEADERS, FifoMemory, new_tcp
from stackcore.tcp.sockets import new_ends
from stackcore.tcp.state import TIMERS


def test_everything_is_free_and_the_lowest_index_comes_first() -> None:
    t, _keep = new_tcp(HostConfig(connections=5, slots=3, seed=1))
    cfg = t.cfg[0]
    assert t.free[cfg["con_free"] - 1] == 0 and cfg["con_free"] == 5
    assert list(t.slots_free[cfg["slot_head"] : cfg["slot_tail"]]) == [0, 1, 2]
    assert t.boards_free[cfg["board_free"] - 1] == 0
    assert (t.wheel == -1).all() and (t.hash == -1).all() and not t.wheel_map.any()
    assert (t.con["slot"] == -1).all() and (t.con["board"] == -1).all() and not t.con["state"].any()
    assert (t.tmr["due"] == -1).all() and len(t.tmr) == 5 * TIMERS
    assert (t.slot["con"] == -1).all() and not t.slot["used"].any() and not t.lis["port"].any()


def test_rings_are_powers_of_two_that_hold_everything() -> None:
    for count in (1, 2, 3, 64, 65):
        t, _keep = new_tcp(HostConfig(connections=count, seed=1))
        for ring, mask in ((t.slots_free, "slot_mask"), (t.ready, "con_mask"), (t.hash, "hash_mask"), (t.queue, "queue_mask")):
            assert len(ring) == t.cfg[0][mask] + 1 >= count
            assert len(ring) & (len(ring) - 1) == 0
        assert len(t.notes) == len(t.slots_free)


def test_constants_are_in_nanoseconds_and_bytes() -> None:
    t, _keep = new_tcp(HostConfig(addr="10.1.2.3", delack=0.025, fifo=1 << 20, seed=1))
    cfg = t.cfg[0]
    assert cfg["rto_init"] == 10**9 and cfg["rto_min"] == 2 * 10**8 and cfg["delack"] == 25_000_000
    assert dotted_address(int(cfg["addr"])) == "10.1.2.3" and cfg["fifo_size"] == 1 << 20
    assert cfg["wscale"] == 5, "65535 << 4 would not reach the end of a fifo of 1 MiB"


@pytest.mark.parametrize(
    ("fifo", "wscale", "offered"), [(256, -1, 0), (65536, -1, 1), (1 << 30, -1, 14), (65536, 7, 7), (65536, None, -1)]
)
def test_window_scale(fifo: int, wscale: int | None, offered: int) -> None:
    assert HostConfig(fifo=fifo, wscale=wscale).offered_scale == offered


def test_secrets_follow_from_the_seed() -> None:
    def secrets(seed: int | None) -> tuple[int, ...]:
        cfg = new_tcp(HostConfig(connections=1, seed=seed))[0].cfg[0]
        return tuple(int(cfg[name]) for name in ("secret0", "secret1", "next_port", "ip_id"))

    assert secrets(7) == secrets(7) != secrets(8)
    assert secrets(None) != secrets(None)
    assert 49152 <= secrets(7)[2] <= 65535


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"addr": "10.0.0"}, "addr must be an IPv4 address"),
        ({"addr": "224.0.0.1"}, "unicast"),
        ({"mask": "255.0.255.0"}, "ones followed by zeros"),
        ({"mtu": 60}, "mtu must be 128..65535"),
        ({"fifo": 1000}, "power of two"),
        ({"connections": 0}, "connections must be 1"),
        ({"frame": 257}, "frame must be 1..256"),
        ({"rto_min": 5.0}, "rto_min <= rto_init <= rto_max"),
        ({"rto_max": float("nan")}, "rto_max must be"),
        ({"delack": 0.6}, "delack must be 0..0.5"),
        ({"wscale": 15}, "wscale must be 0..14"),
        ({"retries": 2.5}, "whole number"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HostConfig(**wrong)


def test_fifos_of_somebody_else_are_taken_as_they_are() -> None:
    t, keep = new_tcp(HostConfig(fifo=4096, seed=1), FifoMemory(1 << 20, 9000, 4096, 1 << 21))
    cfg = t.cfg[0]
    assert [int(cfg[n]) for n in ("fifos_at", "fifo_stride", "ends_at")] == [1 << 20, 9000, 1 << 21]
    assert not keep
    with pytest.raises(ValueError, match="4096 bytes, the configuration says 8192"):
        new_tcp(HostConfig(fifo=8192), FifoMemory(0, 0, 4096, 0))


def test_an_idle_connection_costs_less_than_a_kilobyte() -> None:
    """Beside its fifos, everything counted that is allocated: arrays, the engine's ends of the fifos and the owner's."""
    count = 100_000
    t, keep = new_tcp(HostConfig(connections=count, fifo=256, seed=1))
    fifos = count * (HEADERS + 2 * 256)
    arrays = sum(getattr(t, name).nbytes for name in type(t).__annotations__)
    beside = arrays + sum(block.nbytes for block in keep) - fifos + new_ends(count).nbytes
    assert 500 < beside / count < 1000


def test_addresses() -> None:
    assert packed_address("1.2.3.4") == 0x01020304
    assert dotted_address(0xFFFFFFFF) == "255.255.255.255"
