"""How the clients of a run behave, and putting that into the core's arrays for those of the null transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stackcore.session.state import Core
from stackcore.wire.pace import make_ready

GAPS = 1 << 16


@dataclass(frozen=True)
class ClientConfig:
    """``request`` and ``reply`` are what goes out and what must come back, byte for byte.

    ``rate``: open-loop requests per second over all clients, 0 for a closed loop; ``poisson`` chooses the schedule.
    ``requests_per_connection`` 0 keeps connections for ever. ``storm``: all clients send at the same time.

    The rest concerns clients behind TCP only. ``once``: each fetches one whole reply and is done. ``unread``: the fraction of
    those that send a second request, which the server never reads, when the first part of the reply has come; ``abort``: the
    fraction that resets its connection somewhere in the middle. Both happen in a client's first fetch only. ``ramp_ns``:
    clients begin one after another, spread over that time.
    """

    count: int
    request: bytes
    reply: bytes
    port: int = 80
    verify_full: bool = True
    requests_per_connection: int = 0
    rate: float = 0.0
    poisson: bool = True
    storm: bool = False
    seed: int = 0
    timeout_s: float = 1.0
    once: bool = False
    unread: float = 0.0
    abort: float = 0.0
    ramp_ns: int = 0


def schedule(config: ClientConfig) -> np.ndarray[Any, Any]:
    """Gaps between intended send times, ns, int64; used round and round."""
    if config.rate <= 0:
        return np.zeros(1, "i8")
    mean = 1e9 / config.rate
    if not config.poisson:
        return np.diff(np.round(np.arange(GAPS + 1) * mean)).astype("i8")
    return np.random.default_rng(config.seed).exponential(mean, GAPS).astype("i8")


def configure_clients(core: Core, config: ClientConfig) -> list[Any]:
    """Fill in the client part of the configuration; the result keeps the memory of both messages alive."""
    request = np.frombuffer(config.request, "u1").copy()
    reply = np.frombuffer(config.reply, "u1").copy()
    cfg = core.cfg[0]
    cfg["clients"] = config.count
    cfg["request_at"], cfg["request_len"] = request.ctypes.data, len(request)
    cfg["reply_at"], cfg["reply_len"] = reply.ctypes.data, len(reply)
    cfg["verify_full"] = int(config.verify_full)
    cfg["requests_per_connection"] = config.requests_per_connection
    cfg["port"], cfg["storm"] = config.port, int(config.storm)
    cfg["open_loop"] = int(config.rate > 0)
    cfg["timeout_ns"] = int(config.timeout_s * 1e9)
    for client in range(config.count):
        make_ready(core.cfg, core.cli, core.ready, client)
    return [request, reply]
