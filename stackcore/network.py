"""A run's TCP and wire: flags into configurations of hosts and links.

Both hosts of a run live on one private subnet. The client host gives up TIME-WAIT quickly: on this wire no segment lives
longer than the queue between two processes, and a load generator that closes first would else run out of ports.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from stackcore import configuration
from stackcore.core.client import ClientConfig
from stackcore.core.tcp import TcpTransportConfig
from stackcore.tcp.config import HostConfig, packed_address
from stackcore.tcp.memory import PORTS
from stackcore.wire.link import LinkConfig

SERVER, CLIENT = "10.0.0.1", "10.0.0.2"
SERVER_NUMBER = packed_address(SERVER)
CLIENT_MSL_S = 0.05
PORT = 80
LINK_FLAGS = ("loss", "burst_loss", "delay", "jitter", "reorder", "duplicate", "corrupt", "link_rate", "queue")
BURST_END = 0.25
"""A burst of losses lasts four packets in the mean, and loses all of them."""
REORDER_NS = 1_000_000
"""How much later a reordered packet arrives."""


def link_of(config: Any) -> LinkConfig | None:
    """The link model of a run, None when no flag asks for one (the simulator always has one)."""
    if config.wire != "sim" and not any(getattr(config, name) for name in LINK_FLAGS if name != "queue"):
        return None
    burst = config.burst_loss
    return LinkConfig(
        rate=config.link_rate, delay=config.delay, jitter=config.jitter, loss=config.loss,
        burst_start=burst * BURST_END / (1 - burst) if burst else 0.0, burst_end=BURST_END, burst_loss=1.0 if burst else 0.0,
        reorder=config.reorder, reorder_delay=REORDER_NS, duplicate=config.duplicate, corrupt=config.corrupt,
        queue=config.queue, seed=config.seed, capacity=capacity(config),
    )  # fmt: skip


def capacity(config: Any) -> int:
    """Packets in flight at most: all windows full, in both directions."""
    per_connection = 2 * (config.fifo // 1400 + 8)
    return int(min(1 << 20, max(4096, config.clients * per_connection)))


def server_host(config: Any) -> partial[HostConfig]:
    """The core's TCP but for what its layout decides."""
    return partial(
        HostConfig, addr=SERVER, mtu=config.mtu, seed=config.seed, cc=config.cc, recovery=config.recovery,
        policy=config.retransmit_policy, budget=config.budget, retries=config.retries, close_timeout=config.close_timeout,
        rto_init=config.rto_init, trap=config.wire == "sim", half_open_limit=max(256, config.clients),
        nagle=config.nagle == "on",
    )  # fmt: skip


def client_host(config: Any) -> HostConfig:
    """The TCP of the other side: no provocations of its own, room for every client twice. Clients that close their connections
    leave them in TIME-WAIT, as many as there are ports: what limits their rate must not be this."""
    waiting = PORTS if config.requests_per_connection else 0
    return HostConfig(
        addr=CLIENT, mtu=config.mtu, seed=config.seed + 1, cc=config.cc, connections=4 * config.clients + 64 + waiting,
        slots=2 * config.clients + 16, fifo=config.fifo, frame=config.frame, msl=CLIENT_MSL_S, rto_init=config.rto_init,
        nagle=config.nagle == "on",
    )  # fmt: skip


def connections_for(config: Any) -> int:
    """Records of the core's TCP: sessions, and several times as many in TIME-WAIT."""
    return int(8 * config.sessions)


def client_config(config: Any, prepared: Any) -> ClientConfig:
    """How the clients of a run behave, whoever plays them."""
    return ClientConfig(
        count=config.clients,
        request=prepared.request,
        reply=prepared.reply,
        port=PORT,
        verify_full=configuration.VERIFY[config.verify].value,
        requests_per_connection=config.requests_per_connection,
        rate=config.rate,
        poisson=configuration.SCHEDULE[config.schedule].value,
        storm=prepared.storm,
        seed=config.seed,
        timeout_s=config.timeout,
        once=prepared.once,
        unread=config.unread,
        abort=config.abort,
    )


def core_tcp(config: Any, wire: Any) -> TcpTransportConfig:
    pcap = Path(config.pcap) if config.pcap else None
    return TcpTransportConfig(server_host(config), wire, connections_for(config), pcap)
