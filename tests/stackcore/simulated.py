"""Runs under the simulator, in this process; and as a program, one tiny run whose packets go into a file:

python -m tests.stackcore.simulated FILE
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import stackcore.native  # noqa: F401  (before any module with kernels)
import workloads
from stackcore import configuration
from stackcore.kernel import JIT
from stackcore.result import Result
from stackcore.simulate import simulate


def simulated(workload: str, **modes: Any) -> Result:
    """A run of ``workload`` over wire ``sim``; named arguments are the settings of a run."""
    config = configuration.make(workload=workload, wire="sim", **modes)
    prepared = workloads.load(workload).prepare(config)
    try:
        return simulate(config, prepared)
    finally:
        prepared.close()


def virtual(result: Result) -> dict[str, Any]:
    """What a run found but for what was taken from the real clock, the machine and the process."""
    data = copy.deepcopy(result.data)
    for name in ("wall_s", "machine"):
        del data[name]
    del data["events"]["ns_per_event"], data["locks"]["wait_ns"]
    for process in (data["core"], *data["per_worker"]):
        for name in ("pid", "cpu_s", "voluntary_switches", "involuntary_switches"):
            del process[name]
    for node in data["core"]["nodes"].values():
        del node["ns"]
    return data


TINY: dict[str, Any] = {
    "clients": 3, "size": 5000, "loss": 0.1, "duplicate": 0.1, "reorder": 0.1, "corrupt": 0.05, "delay": "1ms", "unread": 0.4,
    "abort": 0.3, "fifo": 2048, "seed": 9, "budget": 1,
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps({"compiled": JIT, "found": virtual(simulated("transfer", pcap=sys.argv[1], **TINY))}))
