"""Print a digest of what clients and their server sent and counted: the same number compiled and interpreted."""

from __future__ import annotations

import hashlib

from stackcore import kernel
from stackcore.wire.player import transfers
from tests.wire.answering import ACTIVE_CLOSE
from tests.wire.world import S, World

ROUGH = {"loss": 0.05, "reorder": 0.05, "reorder_delay": 300_000, "corrupt": 0.02, "duplicate": 0.02}


def main() -> None:
    digest = hashlib.sha256()
    downloads = World(clients=8, size=30_000, mode=ACTIVE_CLOSE, once=True, unread=0.25, abort=0.25, ramp_ns=10**6, link=ROUGH)
    downloads.phase()
    downloads.until(lambda: downloads["completed"] == 8)
    schedule = World(clients=3, size=2000, rate=300.0, requests_per_connection=4, timeout_s=0.2, seed=5, link=ROUGH)
    schedule.phase()
    schedule.run(S // 2)
    for world in (downloads, schedule):
        found = (world.packets.hexdigest(), world.counts(), transfers(world.player))
        digest.update(repr(found).encode())
    print(int(kernel.JIT), digest.hexdigest())


if __name__ == "__main__":
    main()
