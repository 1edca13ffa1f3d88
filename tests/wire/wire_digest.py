"""Print a digest of what links did in a long mixed run, and of its capture: the same number compiled and interpreted."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np

from stackcore import kernel
from stackcore.wire.link import LinkConfig, link_soonest, link_statistics, new_link
from stackcore.wire.pcap import PcapWriter, pcap_put
from tests.wire.frames import Pipe, numbered

CONFIGS = (
    LinkConfig(),
    LinkConfig(rate=1_000_003, delay=70_000, queue=5, seed=1),
    LinkConfig(delay=3_000, jitter=9_000, loss=0.1, duplicate=0.2, corrupt=0.3, seed=2),
    LinkConfig(rate=7_777_777, jitter=5, burst_start=0.1, burst_end=0.3, burst_loss=0.8, seed=3),
    LinkConfig(rate=7_777_777, loss=0.01, reorder=0.2, reorder_delay=40_000, seed=4),
    LinkConfig(delay=50_000, reorder=0.3, reorder_delay=-60_000, duplicate=0.5, capacity=12, seed=2**64 - 1),
)


def main() -> None:
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.pcap"
        with PcapWriter(path, epoch=10**18, snaplen=200) as writer:
            exercise(digest, writer)
        digest.update(path.read_bytes())
    print(int(kernel.JIT), digest.hexdigest())


def exercise(digest: hashlib._Hash, writer: PcapWriter) -> None:
    for config in CONFIGS:
        pipe = Pipe(new_link(config), rows=3)
        steps = np.random.default_rng(config.seed).integers(0, 20_000, 600)
        now = 0
        for k, step in enumerate(steps.tolist()):
            now += step
            digest.update(b"%d" % pipe.send(numbered(k, 4 + step % 600), now))
            pcap_put(writer.capture, pipe.frame.buf, 0, 4 + step % 600, now)
            for packet in pipe.deliver(now):
                digest.update(b"%d:" % now + packet)
            digest.update(b"%d" % int(link_soonest(pipe.link)))
        digest.update(repr(link_statistics(pipe.link)).encode())


if __name__ == "__main__":
    main()
