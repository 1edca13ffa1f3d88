"""Two hosts over the link model, recorded: the bytes arrive, the same seed is the same file, and Wireshark has no complaint."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from stackcore.tcp import Host, HostConfig
from stackcore.wire.link import LinkConfig, link_soonest, link_statistics, new_link
from stackcore.wire.pcap import PcapWriter
from tests.wire import tshark
from tests.wire.frames import Pipe

MS, S = 1_000_000, 1_000_000_000
LEFT, RIGHT = "10.0.0.1", "10.0.0.2"
PORT = 49_000
"""No protocol that Wireshark would take the bytes for."""
SIZE = 300_000
LIMIT_NS = 300 * S
CALM = LinkConfig(rate=12_500_000, delay=5 * MS, queue=100)
ROUGH = LinkConfig(
    rate=12_500_000, delay=5 * MS, jitter=MS, queue=20, loss=0.02, burst_start=0.02, burst_end=0.5, reorder=0.02,
    reorder_delay=3 * MS, duplicate=0.02, corrupt=0.02,
)  # fmt: skip


class Path2:
    """A host on each side of two links, under a virtual clock."""

    def __init__(self, config: LinkConfig, seed: int) -> None:
        self.hosts = [Host(HostConfig(addr=addr, seed=seed + k)) for k, addr in enumerate((LEFT, RIGHT))]
        both = [LinkConfig(**(config.__dict__ | {"seed": seed + k})) for k in range(2)]
        self.links = [Pipe(new_link(link)) for link in both]
        self.now = 0

    def step(self) -> bool:
        """What is to be sent, then the next thing that happens; False when nothing ever will."""
        for host, link in zip(self.hosts, self.links, strict=True):
            for packet in host.transmit(self.now / S):
                link.send(packet, self.now)
        arrivals = [int(link_soonest(link.link)) for link in self.links]
        timers = [round(timer * S) for host in self.hosts if (timer := host.next_timer()) is not None]
        events = [at for at in arrivals if at >= 0] + timers
        if not events:
            return False
        self.now = max(self.now, min(events))
        assert self.now < LIMIT_NS, "the hosts go on for ever"
        for k, link in enumerate(self.links):
            for packet in link.deliver(self.now):
                self.hosts[1 - k].receive(packet, self.now / S)
        return True


def download(config: LinkConfig, seed: int, capture: Path) -> bytes:
    """What the left host got of SIZE bytes from the right one; all that it saw and said is in ``capture``."""
    path = Path2(config, seed)
    left, right = path.hosts
    with PcapWriter(capture) as writer:
        left.pcap = writer
        listener, client = right.socket(), left.socket()
        listener.listen(PORT)
        assert client.connect_ex((RIGHT, PORT)) == errno.EINPROGRESS
        server, waiting, got = None, bytes(k * k % 251 for k in range(SIZE)), b""
        while len(got) < SIZE:
            assert path.step(), "the hosts have given up"
            if server is None:
                try:
                    server, _ = listener.accept()
                except BlockingIOError:
                    continue
            try:
                waiting = waiting[server.send(waiting) :] if waiting else b""
            except BlockingIOError:
                pass
            try:
                got += client.recv(1 << 20)
            except BlockingIOError:
                pass
        assert server is not None
        server.close()
        client.close()
        while path.step():
            pass
        assert writer.missed == 0
    statistics = [link_statistics(link.link) for link in path.links]
    if config is ROUGH:
        assert all(statistics[1][name] > 0 for name in ("lost", "burst", "duplicated", "corrupted", "reordered", "out_of_order"))
    return got


@pytest.mark.parametrize("config", [CALM, ROUGH], ids=["calm", "rough"])
class TestDownload:
    def test_arrives_whole(self, config: LinkConfig, tmp_path: Path) -> None:
        assert download(config, 3, tmp_path / "x.pcap") == bytes(k * k % 251 for k in range(SIZE))

    def test_the_same_seed_is_the_same_capture(self, config: LinkConfig, tmp_path: Path) -> None:
        for name, seed in (("1", 5), ("2", 5), ("3", 6)):
            download(config, seed, tmp_path / name)
        one, two, three = ((tmp_path / name).read_bytes() for name in "123")
        assert one == two != three


@pytest.mark.skipif(not tshark.installed(), reason="tshark is not installed")
def test_wireshark_has_nothing_against_a_calm_link(tmp_path: Path) -> None:
    download(CALM, 3, tmp_path / "x.pcap")
    assert tshark.complaints(tmp_path / "x.pcap") == []
    assert len(tshark.frames(tmp_path / "x.pcap", "tcp.stream")) > SIZE // 1460
