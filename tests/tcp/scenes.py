"""Scenes whose every packet is recorded: streams over bad links under several configurations, and an attack.

``python -m tests.tcp.scenes FOLDER`` writes a capture of each scene and side there and prints what the hosts counted, so
that two processes can be compared byte by byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

from stackcore.wire.pcap import PcapWriter
from tests.tcp.fuzz import attack
from tests.tcp.pair import Faults, Pair, Talker

ROUGH = Faults(loss=0.05, duplicate=0.05, reorder=0.1, corrupt=0.02)
SCENES: dict[str, tuple[Faults, dict[str, Any]]] = {
    "clean": (Faults(), {}),
    "rough": (ROUGH, {}),
    "newreno without options": (ROUGH, {"cc": "newreno", "sack": False, "timestamps": False, "wscale": None}),
    "small": (ROUGH, {"fifo": 1024, "mtu": 256}),
    "paced": (Faults(loss=0.02), {"pacing": True, "nagle": False}),
    "one packet per step": (ROUGH, {"frame": 1, "budget": 1}),
    "flag": (ROUGH, {"recovery": "flag"}),
    "state-aware, by deadline": (ROUGH, {"recovery": "state-aware", "policy": "earliest-deadline"}),
    "purge, drop-front": (ROUGH, {"recovery": "purge", "policy": "drop-front", "queue_limit": 2}),
}


def play(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One scene: two connections at once, captures of both sides in ``folder``. What was counted, and what arrived."""
    faults, config = SCENES[name]
    pair = Pair(seed=seed, faults=faults, connections=8, retries=20, syn_retries=20, rto_max=4.0, **config)
    data = random.Random(seed).randbytes(20_000)
    with contextlib.ExitStack() as stack:
        for side in ("left", "right"):
            getattr(pair, side).pcap = stack.enter_context(PcapWriter(folder / f"{name} {side}.pcap"))
        talkers = []
        for port in (80, 81):
            for socket in pair.connect(port):
                talkers.append(Talker(socket, data[: 5000 * len(talkers) + 1000], [1500, 3], [4000, 1]))

        def done() -> bool:
            for talker in talkers:
                talker.pump()
            return all(talker.finished for talker in talkers)

        pair.drive(done)
        for talker in talkers:
            talker.socket.close()
        pair.drive(pair.empty)
    arrived = [hashlib.sha256(talker.got).hexdigest() for talker in talkers]
    return {"left": pair.left.stats(), "right": pair.right.stats(), "arrived": arrived, "end": pair.now_ns}


def attacked(seed: int) -> dict[str, Any]:
    """What became of a host under attack."""
    victim = attack(seed, 200, retries=3, syn_retries=2)
    return {"stats": victim.host.stats(), "sent": hashlib.sha256(b"".join(p for _, _, p in victim.pair.sent)).hexdigest()}


def main(folder: Path) -> None:
    from stackcore.kernel import JIT

    counted = {name: play(name, 11, folder) for name in SCENES} | {"attack": attacked(11)}
    print(json.dumps({"compiled": JIT, "counted": counted}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
