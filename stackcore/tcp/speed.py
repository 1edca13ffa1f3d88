"""``python -m stackcore.tcp.speed``: what a segment costs, with nothing around TCP.

Two stacks in one process hand each other their frames (:mod:`stackcore.tcp.pairing`). A segment is counted once, at
reception; each was made by one stack and taken by the other, on one CPU, so the rate is that of a core which does both.
Rates are per second of CPU time: what other processes take away is not TCP's cost. The spread over steps is by the clock.

``bulk``: a few connections whose fifos are never empty, segments of 1460 bytes. ``echo``: a request and an answer of 64 bytes,
``--active`` of them under way among ``--connections``; with ``--anywhere`` the next one goes out on any of them.
"""

from __future__ import annotations

import json
import resource
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import click
import numpy as np

from stackcore.histogram import BUCKETS, percentile
from stackcore.tcp.config import HostConfig, packed_address
from stackcore.tcp.engine import listen_open
from stackcore.tcp.memory import END_WORDS, HEADERS, new_tcp
from stackcore.tcp.pairing import BULK, DRIVE, ECHO, FIRST_PORT, PATTERN, PER_PORT, Pair, begin, connect_all, run_until
from stackcore.tcp.sockets import new_ends
from stackcore.tcp.state import MAX_FRAME, REASONS, Tcp
from stackcore.wire.frames import new_frames

SERVER, CLIENT = "10.0.0.1", "10.0.0.2"
MTU = 1512
"""1460 bytes of data beside the headers and the timestamps option."""
MESSAGE = 64
LIMITS = {"bulk": (16, 65536), "echo": (100, 256)}
"""Connections and bytes of each fifo, unless given."""
START_NS = 1_000_000_000


class SpeedError(RuntimeError):
    """The two stacks did not do what they were told to; no figure is worth anything then."""


@dataclass(frozen=True)
class Plan:
    """What is timed; ``kind`` is ``bulk`` or ``echo``."""

    kind: str = "bulk"
    connections: int = 0
    active: int = 0
    anywhere: bool = False
    frame: int = 256
    fifo: int = 0
    seconds: float = 0.5
    cc: str = "cubic"

    def filled_in(self) -> Plan:
        connections, fifo = LIMITS[self.kind]
        count = self.connections or connections
        return replace(self, connections=count, active=min(self.active or count, count), fifo=self.fifo or fifo)


class Hosts:
    """Both stacks with their connections established."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        before = resident_bytes()
        count = plan.connections
        host = partial(HostConfig, mtu=MTU, connections=count, fifo=plan.fifo, frame=plan.frame, cc=plan.cc, seed=1, nagle=False)
        self.a, self._keep_a = new_tcp(host(addr=CLIENT))
        self.b, self._keep_b = new_tcp(host(addr=SERVER))
        self.frames = new_frames(MTU), new_frames(MTU)
        self._ends = new_ends(count), new_ends(count)
        self._pattern = np.random.default_rng(1).integers(0, 256, PATTERN, "u1")
        self._pattern = np.concatenate([self._pattern] * (2 + plan.fifo // PATTERN))
        self.pair = Pair(
            cfg=np.zeros(1, DRIVE), busy=np.zeros(count, "u1"), noted=np.zeros(MAX_FRAME, "i4"), hist=np.zeros(BUCKETS, "i8")
        )
        self._set(self.pair.cfg[0])
        self._connect()
        self.resident_bytes = resident_bytes() - before

    def _set(self, cfg: Any) -> None:
        cfg["kind"] = BULK if self.plan.kind == "bulk" else ECHO
        cfg["active"], cfg["anywhere"], cfg["message"] = self.plan.active, int(self.plan.anywhere), MESSAGE
        cfg["pattern"], cfg["now"], cfg["random"] = self._pattern.ctypes.data, START_NS, 1
        cfg["ends_a"], cfg["ends_b"] = (ends.ctypes.data for ends in self._ends)

    def _connect(self) -> None:
        count = self.plan.connections
        for port in range(FIRST_PORT, FIRST_PORT + -(-count // PER_PORT)):
            if listen_open(self.b, 0, port, 1024) < 0:
                raise SpeedError(f"port {port} could not be listened on")
        if not connect_all(self.a, self.b, *self.frames, self.pair, packed_address(SERVER), count):
            raise SpeedError(f"{int(self.pair.cfg[0]['accepted'])} of {count} connections were established")

    def check(self) -> None:
        """SpeedError unless every byte was right and nothing was dropped or sent twice."""
        cfg = self.pair.cfg[0]
        if cfg["wrong"] or cfg["failed"]:
            raise SpeedError(f"{int(cfg['wrong'])} times other bytes arrived than were sent, {int(cfg['failed'])} calls failed")
        for t in (self.a, self.b):
            lost = {name: int(n) for name, n in zip(REASONS, t.dropped, strict=True) if n}
            if lost or t.stat[0]["retransmits"]:
                raise SpeedError(f"{int(t.stat[0]['retransmits'])} retransmissions without loss; dropped: {lost}")


def resident_bytes() -> int:
    """Memory of this process that is there."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()


def record_bytes(t: Tcp) -> float:
    """Bytes per connection of everything but its fifos' data and their headers: records, timers, its places in queues, the
    fifos' private ends. What does not grow with the number of connections does not count."""
    count = len(t.con)
    per_connection = (t.con, t.slot, t.tmr, t.hash, t.free, t.slots_free, t.notes, t.ready, t.queue)
    return sum(array.nbytes for array in per_connection) / count + 8 * 2 * END_WORDS


def measure(plan: Plan) -> dict[str, Any]:
    """Set up, warm up, time. SpeedError when anything was wrong with what was timed."""
    plan = plan.filled_in()
    hosts = Hosts(plan)
    drive = (hosts.a, hosts.b, *hosts.frames, hosts.pair)
    begin(hosts.a, hosts.pair, plan.connections)
    run_until(*drive, time.monotonic_ns() + int(plan.seconds * 0.25e9))
    hosts.pair.hist[:] = 0
    cfg = hosts.pair.cfg[0]
    before = {name: int(cfg[name]) for name in ("bytes", "requests", "steps")}
    cpu = time.thread_time_ns()
    segments, wall = run_until(*drive, time.monotonic_ns() + int(plan.seconds * 1e9))
    ns = time.thread_time_ns() - cpu
    hosts.check()
    done = {name: int(cfg[name]) - was for name, was in before.items()}
    if not segments or not done["bytes"] + done["requests"]:
        raise SpeedError("nothing was transferred")
    spread = {f"p{q}": percentile(hosts.pair.hist, q / 100) / 1000 for q in (10, 50, 90, 99)}
    return {
        "kind": plan.kind, "connections": plan.connections, "active": plan.active, "anywhere": plan.anywhere,
        "frame": plan.frame, "fifo": plan.fifo, "cc": plan.cc, "segments": int(segments), "cpu_ns": ns, "wall_ns": int(wall),
        "ns_per_segment": ns / segments, "segments_per_s": 1e9 * segments / ns, "bytes_per_s": 1e9 * done["bytes"] / ns,
        "requests": done["requests"], "ns_per_request": ns / done["requests"] if done["requests"] else None,
        "steps": done["steps"], "segments_per_step": segments / done["steps"], "step_ns_per_segment": spread,
        "record_bytes_per_connection": record_bytes(hosts.b),
        "resident_bytes_per_connection": hosts.resident_bytes / plan.connections / 2,
        "fifo_bytes_per_connection": HEADERS + 2 * plan.fifo,
    }  # fmt: skip


@click.command()
@click.argument("kind", type=click.Choice(["bulk", "echo"]), default="bulk")
@click.option("--connections", type=click.IntRange(1, 1 << 20), help="Connections, 16 for bulk and 100 for echo unless given.")
@click.option("--active", type=click.IntRange(1, 1 << 20), help="Requests under way (echo), one per connection unless given.")
@click.option("--anywhere", is_flag=True, help="Each next request goes out on any connection (echo).")
@click.option("--frame", type=click.IntRange(1, 256), default=256, show_default=True, help="Segments per step at most.")
@click.option("--fifo", type=click.IntRange(256, 1 << 24), help="Bytes of each fifo: 64K for bulk, 256 for echo unless given.")
@click.option("--seconds", type=click.FloatRange(0.01, 600), default=0.5, show_default=True, help="Measured time.")
@click.option("--cc", default="cubic", show_default=True, help="Congestion control.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(as_json: bool, **flags: Any) -> None:
    """Time TCP's receive and send path between two stacks in one process."""
    try:
        found = measure(Plan(**{name: value for name, value in flags.items() if value is not None}))
    except (SpeedError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:30} {value:,.1f}" if isinstance(value, float) else f"{name:30} {value}")


if __name__ == "__main__":
    main()
