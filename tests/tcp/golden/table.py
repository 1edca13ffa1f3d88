"""What the two tables are made of: seeded downloads under the simulator, one row each.

``loss``: two downloads of half a megabyte through a bottleneck of 1.25 MB/s, over congestion control x random loss x one-way
delay x queue. ``fairness``: eight downloads without end through the same bottleneck; Jain's index (R. Jain, D. Chiu, W. Hawe,
DEC-TR-301, 1984) of what each has got in six seconds, after two in which they find their places. A jitter of less than a
packet's time keeps them from losing by the clock's phase (S. Floyd, V. Jacobson, "Traffic phase effects", 1991).

Everything in a row is a count, or follows from counts and the virtual clock, so a row is the same on every machine. Clients
count what they have verified; retransmits, recoveries and timeouts are the sender's.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import stackcore.native  # noqa: F401  (before any module with kernels)
import workloads
from stackcore import configuration
from stackcore.simulate import Simulation

FOLDER = Path(__file__).parent
RATE = 1_250_000
"""Bytes per second."""
CONTROLS = ("newreno", "cubic")
LOSSES = (0.0, 0.001, 0.01, 0.03)
DELAYS_MS = (1, 10, 50)
QUEUES = {"small": 15, "large": 150}
"""Packets: a fraction of the longest round trip, and more than all of it."""
FLOWS, SIZE = 2, 1 << 19
FAIR_FLOWS, FAIR_FROM, FAIR_UNTIL = 8, 2.0, 8.0
FAIR_QUEUES = {"small": 30, "large": 150}
Row = dict[str, str]


def download(**modes: Any) -> tuple[dict[str, Any], list[int]]:
    """A run of ``transfer`` without provocations: its result, and the bytes that each client got after ``FAIR_FROM``."""
    config = configuration.make(
        workload="transfer", wire="sim", unread=0.0, abort=0.0, link_rate=RATE, fifo=1 << 18, seed=1, timeout=600.0, **modes
    )
    prepared = workloads.load("transfer").prepare(config)
    try:
        with Simulation(config, prepared) as simulation:
            began, before = simulation.now, simulation.player.cli["got"].copy()

            def look(share: float, requests: int) -> None:
                if simulation.now - began <= FAIR_FROM * 1e9:
                    before[:] = simulation.player.cli["got"]

            data = simulation.run(look).data
            return data, (simulation.player.cli["got"] - before).tolist()
    finally:
        prepared.close()


def counted(data: dict[str, Any]) -> Row:
    names = ("retransmits", "fast_recoveries", "timeouts")
    return {name: str(data["tcp"].get(name, 0)) for name in names}


def loss_row(cc: str, loss: float, delay_ms: int, queue: str) -> Row:
    data, _ = download(cc=cc, loss=loss, delay=delay_ms * 1_000_000, queue=QUEUES[queue], clients=FLOWS, size=SIZE)
    assert data["transfers"]["completed"] == FLOWS and not any(data["errors"].values()), data
    goodput = {"goodput_kb_s": f"{data['bytes_per_s'] / 1000:.1f}"}
    return {"cc": cc, "loss": str(loss), "delay_ms": str(delay_ms), "queue": queue} | goodput | counted(data)


def jain(shares: list[int]) -> float:
    """(sum of x)**2 / (n * sum of x**2): 1 when all are equal, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(x * x for x in shares))


def fairness_row(cc: str, delay_ms: int, queue: str) -> Row:
    data, got = download(
        cc=cc, delay=delay_ms * 1_000_000, jitter=1_000_000, queue=FAIR_QUEUES[queue], clients=FAIR_FLOWS, size=1 << 23,
        limit=FAIR_UNTIL, close_timeout=0.001,
    )  # fmt: skip
    assert len(got) == FAIR_FLOWS and min(got) > 0 and not any(data["errors"].values()), data
    found = {"jain": f"{jain(got):.4f}", "least_kb": str(min(got) // 1000), "most_kb": str(max(got) // 1000)}
    return {"cc": cc, "delay_ms": str(delay_ms), "queue": queue} | found | counted(data)


def loss_rows() -> Iterator[Row]:
    for key in itertools.product(CONTROLS, LOSSES, DELAYS_MS, QUEUES):
        yield loss_row(*key)


def fairness_rows() -> Iterator[Row]:
    for key in itertools.product(CONTROLS, (1, 10), FAIR_QUEUES):
        yield fairness_row(*key)


TABLES: dict[str, Callable[[], Iterator[Row]]] = {"loss": loss_rows, "fairness": fairness_rows}


def path(name: str) -> Path:
    return FOLDER / f"{name}.csv"


def text(rows: list[Row]) -> str:
    """As it is committed: comma-separated, one row a line."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
