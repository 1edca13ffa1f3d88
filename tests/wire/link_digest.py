"""Print a digest of everything that links did in a long mixed run: the same number compiled and interpreted."""

from __future__ import annotations

import hashlib

import numpy as np

from stackcore import kernel
from stackcore.wire.link import LinkConfig, link_soonest, link_statistics, new_link
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
    for config in CONFIGS:
        pipe = Pipe(new_link(config), rows=3)
        steps = np.random.default_rng(config.seed).integers(0, 20_000, 600)
        now = 0
        for k, step in enumerate(steps.tolist()):
            now += step
            digest.update(b"%d" % pipe.send(numbered(k, 4 + step % 600), now))
            for packet in pipe.deliver(now):
                digest.update(b"%d:" % now + packet)
            digest.update(b"%d" % int(link_soonest(pipe.link)))
        digest.update(repr(link_statistics(pipe.link)).encode())
    print(int(kernel.JIT), digest.hexdigest())


if __name__ == "__main__":
    main()
