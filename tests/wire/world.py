"""Clients, a server that answers them, two links between, and a clock that jumps from one event to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

import stackcore.native  # noqa: F401  (before any module with kernels)
from stackcore.abi import abi
from stackcore.core.client import ClientConfig
from stackcore.tcp.config import HostConfig, packed_address
from stackcore.tcp.engine import tcp_input, tcp_output, tcp_retransmit, tcp_time
from stackcore.tcp.memory import new_tcp
from stackcore.tcp.state import HEADROOM
from stackcore.tcp.wheel import timer_soonest
from stackcore.wire.frames import new_frames
from stackcore.wire.link import LinkConfig, link_deliver, link_send, link_soonest, new_link
from stackcore.wire.player import new_player, play, play_soonest
from tests.wire.answering import KEEP, answer, new_answerer

MS, S = 1_000_000, 1_000_000_000
CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
MTU = 1500
REQUEST = bytes(range(64))
MEASURE, DRAIN = abi.PHASE_MEASURE, abi.PHASE_DRAIN
TURNS = 200_000


def pattern(size: int) -> bytes:
    return np.random.default_rng(size).integers(0, 256, size, "u1").tobytes()


class Stuck(AssertionError):
    """A drive that came to no end."""


class World:
    """``delay`` ns each way; ``link`` and ``host`` override what links and hosts are configured with, the rest is the
    clients' :class:`ClientConfig`. ``packets`` digests everything that was sent."""

    def __init__(
        self, clients: int = 4, size: int = 1000, mode: int = KEEP, delay: int = MS, link: dict[str, Any] | None = None,
        host: dict[str, Any] | None = None, request: bytes = REQUEST, listening: bool = True, **behaviour: Any,
    ) -> None:  # fmt: skip
        self.now, self.size, self.turns = 0, size, 0
        self.pause = self.play_at = 0
        """The clients act once in so many ns, and not before that time."""
        seed = behaviour.get("seed", 0)
        common: dict[str, Any] = {"connections": 4 * clients + 8, "fifo": 16384, "half_open_limit": 1024} | (host or {})
        self.client, self._k1 = new_tcp(HostConfig(addr=CLIENT, seed=2 * seed, **common))
        self.server, self._k2 = new_tcp(HostConfig(addr=SERVER, seed=2 * seed + 1, **(common | {"slots": 0})))
        self.tel = np.zeros(1, abi.TELEMETRY)
        self.config = ClientConfig(clients, request, pattern(size), **behaviour)
        self.player, self._k3 = new_player(self.client, self.config, self.tel, packed_address(SERVER))
        self.mode = mode
        if listening:
            self.listen()
        settings: dict[str, Any] = {"delay": delay} | (link or {})
        self.up, self.down = (new_link(LinkConfig(**settings, seed=2 * seed + k), MTU) for k in range(2))
        self.frames = new_frames(MTU)
        self.packets = hashlib.sha256()
        self.count = 0
        """Packets sent so far, both ways."""

    def listen(self) -> None:
        self.answerer, self.reply = new_answerer(self.server, self.config.request, self.config.reply, self.mode)

    def phase(self, phase: int = MEASURE) -> None:
        self.player.cfg[0]["phase"] = phase

    # ---- time ----

    def turn(self) -> int:
        """Both hosts once at the present time. How much there was to do."""
        self.turns += 1
        n = self._host(self.client, self._play, self.up, self.down)
        act = (lambda: answer(self.server, self.answerer, self.now)) if hasattr(self, "answerer") else (lambda: 0)
        return n + self._host(self.server, act, self.down, self.up)

    def _play(self) -> int:
        if self.now < self.play_at:
            return 0
        self.play_at = self.now + self.pause
        return int(play(self.client, self.player, self.now))

    def _host(self, t: Any, act: Callable[[], Any], outward: Any, inward: Any) -> int:
        f, now = self.frames, self.now
        n = int(tcp_time(t, now))
        got = int(link_deliver(inward, f.rx, f.rx_len, 0, 64, now))
        tcp_input(t, f.rx, f.rx_len, got, now)
        n += got + int(act())
        used = int(tcp_retransmit(t, f.tx, f.tx_len, 0, now))
        used = int(tcp_output(t, f.tx, f.tx_len, used, now))
        for i in range(used):
            length = int(f.tx_len[i])
            self.packets.update(b"%d " % now + f.tx[i, HEADROOM : HEADROOM + length].tobytes())
            link_send(outward, f.tx, i, length, now)
        self.count += used
        return n + used

    def soonest(self) -> int:
        """When something happens next by itself; -1: never."""
        times = (
            link_soonest(self.up), link_soonest(self.down), timer_soonest(self.client), timer_soonest(self.server),
            self.play_at if self.pause else play_soonest(self.player, self.now),
        )  # fmt: skip
        return min((int(at) for at in times if at >= 0), default=-1)

    def until(self, finished: Callable[[], Any], seconds: float = 100) -> None:
        """Drive until ``finished()``; Stuck when nothing is left to happen before, or time runs out."""
        stop = self.now + round(seconds * S)
        for _ in range(TURNS):
            if finished():
                return
            if self.turn() == 0:
                at = self.soonest()
                if at < 0 or at > stop:
                    break
                self.now = max(self.now + 1, at)
        if not finished():
            raise Stuck(f"at {self.now / S:.3f} s after {self.turns} turns: {self.counts()}")

    def run(self, ns: int) -> None:
        """Let that much time pass."""
        stop = self.now + ns
        for _ in range(TURNS):
            if self.turn() == 0:
                at = self.soonest()
                if at < 0 or at > stop:
                    self.now = stop
                    return
                self.now = max(self.now + 1, at)
        raise Stuck(f"no end of turns at {self.now / S:.3f} s: {self.counts()}")

    # ---- looking ----

    def counts(self) -> dict[str, int]:
        """What was counted, as a run's result has it, and what the player knows beside."""
        names = (
            "requests", "reply_bytes", "connects", "refused", "closes", "resets", "timeouts", "corrupt", "open_sessions",
            "latency_max_ns",
        )  # fmt: skip
        own = ("outstanding", "completed", "refetched", "cut_by_reset", "cut_by_abort", "cut_by_timeout", "cut_by_corruption")
        return {n: int(self.tel[0][n]) for n in names} | {n: int(self.player.cfg[0][n]) for n in own}

    def __getitem__(self, name: str) -> int:
        return self.counts()[name]
