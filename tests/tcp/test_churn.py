"""Anything an owner may do, in any order, on small hosts over a bad link: nothing leaks, and memory stays sound."""

from __future__ import annotations

import random
import select
import socket as std
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stackcore.tcp import Host
from stackcore.tcp.sockets import Socket
from tests.tcp.pair import LEFT, RIGHT, Faults, Pair
from tests.tcp.sound import check_sound

PORTS = (80, 81)
GOOD, ROUGH, DEAD = Faults(), Faults(loss=0.2, duplicate=0.2, reorder=0.3, corrupt=0.05), Faults(loss=1.0)


class Churn:
    """Two hosts whose owners do as a random generator says."""

    def __init__(self, seed: int, **config: Any) -> None:
        self.rng = random.Random(seed)
        self.pair = Pair(
            seed=seed, connections=6, slots=5, fifo=4096, mtu=300, retries=3, syn_retries=2, msl=0.5, close_timeout=3.0,
            rto_max=4.0, keep_idle=5.0, keep_interval=1.0, keep_probes=2, half_open_limit=3, **config,
        )  # fmt: skip
        self.sockets: dict[Host, list[Socket]] = {self.pair.left: [], self.pair.right: []}
        self.verbs: list[Callable[[Host], Any]] = [
            self.listen, *[self.connect] * 4, *[self.accept] * 4, *[self.send] * 12, *[self.recv] * 8, self.shutdown,
            self.close, self.close, self.abort, self.option, self.weather, *[self.wait] * 12,
        ]  # fmt: skip
        for host in self.sockets:
            self.listen(host)

    def listen(self, host: Host) -> None:
        socket = host.socket()
        socket.listen(self.rng.choice(PORTS), backlog=self.rng.choice((1, 2)))
        self.sockets[host].append(socket)

    def connect(self, host: Host) -> None:
        socket = host.socket()
        peer = RIGHT if host is self.pair.left else LEFT
        local = self.rng.choice((0, 0, 0, 0, *PORTS))
        socket.connect_ex((peer, self.rng.choice(PORTS)), local_port=local)  # both at once: a simultaneous open
        self.sockets[host].append(socket)

    def accept(self, host: Host) -> None:
        for socket in [s for s in self.sockets[host] if s.state == "listening" and s.poll()]:
            self.sockets[host].append(socket.accept()[0])

    def send(self, host: Host) -> None:
        self.any(host).send(self.rng.randbytes(self.rng.choice((1, 100, 1000, 3000))))

    def recv(self, host: Host) -> None:
        self.any(host).recv(self.rng.choice((1, 100, 3000)))

    def shutdown(self, host: Host) -> None:
        self.any(host).shutdown(self.rng.choice((std.SHUT_RD, std.SHUT_WR, std.SHUT_RDWR)))

    def close(self, host: Host) -> None:
        self.any(host).close()

    def abort(self, host: Host) -> None:
        self.any(host).abort()

    def option(self, host: Host) -> None:
        level, option = self.rng.choice(((std.SOL_SOCKET, std.SO_KEEPALIVE), (std.IPPROTO_TCP, std.TCP_NODELAY)))
        self.any(host).setsockopt(level, option, self.rng.randrange(2))

    def weather(self, host: Host) -> None:
        self.pair.faults = self.rng.choice((GOOD, GOOD, ROUGH, ROUGH, DEAD))

    def wait(self, host: Host) -> None:
        self.pair.run(self.rng.choice((0.001, 0.02, 0.02, 0.05, 0.3, 2.0)))

    def any(self, host: Host) -> Socket:
        self.sockets[host] = [s for s in self.sockets[host] if s.poll() != select.POLLNVAL]
        connected = [s for s in self.sockets[host] if s.state == "connected"]
        choices = connected if connected and self.rng.random() < 0.9 else self.sockets[host]
        return self.rng.choice(choices) if choices else host.socket()

    def step(self) -> None:
        host = self.rng.choice((self.pair.left, self.pair.right))
        try:
            self.rng.choice(self.verbs)(host)
        except OSError:
            pass  # most orders are wrong somewhere; the errors themselves are another test's
        for each in self.sockets:
            check_sound(each)

    def end(self) -> None:
        """Everybody closes; after the last timer nothing may be left."""
        for sockets in self.sockets.values():
            for socket in sockets:
                socket.close()
        self.pair.faults = GOOD
        self.pair.drive(self.pair.empty)
        for host in self.sockets:
            check_sound(host)
            stats = host.stats()
            assert stats["connections"] == stats["slots"] == stats["half_open"] == 0
            assert not host.sockets and not host.listeners


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(0, 1 << 32),
    st.sampled_from(["generation", "state-aware", "purge", "flag"]),
    st.sampled_from(["fifo", "drop-front", "earliest-deadline"]),
    st.booleans(),
)
def test_owners_may_do_anything(seed: int, recovery: str, policy: str, sack: bool) -> None:
    churn = Churn(seed, recovery=recovery, policy=policy, sack=sack)
    for _ in range(150):
        churn.step()
    churn.end()
