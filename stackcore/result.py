"""What a run found: one JSON object (DESIGN section 8), and the verdict whether anything was wrong.

``lost`` is found by subtraction: slots that a worker consumed, minus events that its oracle put to an account, plus
events that were dropped, plus requests that were delivered and stayed unanswered.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stackcore import __version__
from stackcore.configuration import RunConfig
from stackcore.histogram import percentile
from stackcore.launch import Child
from stackcore.placement import Placement
from stackcore.session.state import NODE_NAMES
from stackcore.tcp.state import REASONS, STATISTICS

SCHEMA = 1
_LOCKS = (
    ("acquires", "lock_acquires"), ("contended", "lock_contended"), ("wait_ns", "lock_wait_ns"),
    ("owner_deaths", "owner_deaths"),
)  # fmt: skip
_ERRORS = ("stale", "lost", "duplicate", "misdelivered", "unserved", "corrupt")


class Processes(NamedTuple):
    """Whose time it took."""

    workers: list[Child]
    core: Child
    client: Child | None
    records: list[Any]
    """Of each worker its sc_worker record, None when it never attached."""


@dataclass(frozen=True)
class Result:
    """``data`` is the JSON object."""

    data: dict[str, Any]

    @property
    def problems(self) -> list[str]:
        """What was wrong, one sentence each; empty for a clean run."""
        data = self.data
        found = [f"{count} {name}" for name, count in data["errors"].items() if count]
        found += data["notes"]
        found += _d1_problems(data)
        if data["core"]["worker_deaths"]:
            found.append(f"{data['core']['worker_deaths']} workers died; their sessions were reset, the others went on")
        if data["requests"] == 0:
            found.append("no request was completed")
        if data["core"]["exit"] != "0":
            found.append(f"the core's exit status is {data['core']['exit']}")
        return found

    @property
    def ok(self) -> bool:
        return not self.problems


def _d1_problems(data: dict[str, Any]) -> list[str]:
    """What is wrong with retransmissions and transfers."""
    recovery, transfers = data["recovery"], data["transfers"]
    found = []
    if recovery["crashes"]:
        found.append(f"{recovery['crashes']} accesses to a freed connection: a real core dies of the first")
    if recovery["strangers"] and data["modes"].get("recovery") == "unchecked":
        found.append(f"{recovery['strangers']} segments retransmitted for a stranger")
    missing = data["settings"]["clients"] - transfers["completed"] if transfers else 0
    if missing:
        found.append(f"{missing} transfers were not completed")
    return found


def collect(
    config: RunConfig,
    where: Placement,
    tel: Any,
    processes: Processes,
    notes: list[str],
    wall_s: float,
    transfers: dict[str, int],
) -> Result:
    """Put together telemetry (sc_telemetry), what the processes left, and of a run of transfers what became of them."""
    workers, core, apps = processes.workers, processes.core, processes.records
    known = [r for r in apps if r is not None]
    end = int(tel["measure_end_ns"]) or int(tel["heartbeat_ns"])  # a killed core could not note the end
    duration = max(0.0, (end - int(tel["measure_start_ns"])) / 1e9) if tel["measure_start_ns"] else 0.0
    requests = int(tel["requests"])
    data = {
        "schema": SCHEMA,
        "version": __version__,
        "workload": config.workload,
        "transport": config.transport,
        "wire": config.wire,
        "modes": config.modes,
        "settings": _settings(config),
        "seed": config.seed,
        "workers": config.workers,
        "app": config.app,
        "wall_s": round(wall_s, 4),
        "duration_s": duration,
        "requests": requests,
        "requests_per_s": requests / duration if duration else 0.0,
        "bytes_per_s": int(tel["reply_bytes"]) / duration if duration else 0.0,
        "latency_ns": _latency(tel, config),
        "errors": _errors(tel, known),
        "events": _events(tel, known),
        "locks": {name: _sum(known, field) for name, field in _LOCKS},
        "recovery": _recovery(tel),
        "tcp": _tcp(tel) if config.transport == "tcp" else {},
        "transfers": transfers,
        "connections": {name: int(tel[name]) for name in ("connects", "refused", "closes", "resets", "timeouts", "invalid")},
        "per_worker": [_per_worker(child, record) for child, record in zip(workers, apps, strict=True)],
        "core": _core(tel, core, config.transport),
        "client": _client(processes.client),
        "machine": machine(where),
        "notes": notes,
    }
    return Result(data)


CLIENTS_FIND = (
    "requests", "reply_bytes", "refused", "timeouts", "corrupt", "latency", "latency_max_ns", "measure_start_ns",
    "measure_end_ns",
)  # fmt: skip
"""Fields of the telemetry record that the side of the clients fills in."""


def merge(core: Any, clients: Any, transfers: bool) -> Any:
    """Over TCP: the core's telemetry with what the clients found in its place. A request that made no progress in time, on a
    wire that brings everything in the end, was lost by somebody; a transfer is begun anew, and reported as such."""
    tel = core.copy()
    for name in CLIENTS_FIND:
        tel[name] = clients[name]
    tel["lost"] = 0 if transfers else clients["timeouts"]
    return tel


def record_of(records: Any, pid: int) -> Any:
    """The shared record of the worker with that pid; None when it never attached."""
    matches = [r for r in records if int(r["pid"]) == pid]
    return matches[-1] if matches else None


def _sum(records: list[Any], field: str) -> int:
    return sum(int(r[field]) for r in records)


def _settings(config: RunConfig) -> dict[str, Any]:
    names = (
        "clients", "size", "maxevents", "ring", "fifo", "sessions", "frame", "requests_per_connection", "rate",
        "work_ns", "warmup", "mtu", "budget", "retries", "close_timeout", "rto_init", "loss", "burst_loss", "delay", "jitter",
        "reorder", "duplicate", "corrupt", "link_rate", "queue", "unread", "abort",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names}


def _latency(tel: Any, config: RunConfig) -> dict[str, Any]:
    counts = np.asarray(tel["latency"])
    found: dict[str, Any] = {
        name: min(percentile(counts, fraction), int(tel["latency_max_ns"]))  # a bucket may reach beyond the largest in it
        for name, fraction in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))
    }
    return found | {"max": int(tel["latency_max_ns"]), "count": int(counts.sum()), "open_loop": config.rate > 0}


def _errors(tel: Any, workers: list[Any]) -> dict[str, int]:
    errors = {name: _sum(workers, name) for name in ("stale", "duplicate", "misdelivered")}
    accounts = ("delivered", "late", "stale", "duplicate", "misdelivered")
    vanished = sum(max(0, int(w["consumed"]) - sum(int(w[a]) for a in accounts)) for w in workers)
    errors["lost"] = int(tel["lost"]) + int(tel["dropped"]) + vanished
    errors["unserved"], errors["corrupt"] = int(tel["unserved"]), int(tel["corrupt"])
    return {name: errors[name] for name in _ERRORS}


def _events(tel: Any, workers: list[Any]) -> dict[str, Any]:
    handled = _sum(workers, "delivered") + _sum(workers, "late") + _sum(workers, "stale")
    return {
        "count": handled,
        "ns_per_event": _sum(workers, "harvest_ns") / handled if handled else 0.0,
        "bytes": _sum(workers, "vector_bytes"),
        "ring_high_water": max((int(w["ring_high_water"]) for w in workers), default=0),
        "growth_copies": _sum(workers, "growth_copies"),
        "vector_high_water": max((int(w["vector_high_water"]) for w in workers), default=0),
        "late": _sum(workers, "late"),
        "dropped": int(tel["dropped"]),
    }


def tcp_counters(tel: Any) -> dict[str, int]:
    """The engine's counters by name."""
    return {name: int(tel["tcp"][i]) for i, name in enumerate(STATISTICS.names or ())}


def _quantiles(counts: Any) -> dict[str, float]:
    return {name: percentile(np.asarray(counts), fraction) for name, fraction in (("p50", 0.5), ("p99", 0.99))}


def _recovery(tel: Any) -> dict[str, Any]:
    """D1: the retransmit queue. All zero over the null transport, which retransmits nothing."""
    counters = tcp_counters(tel)
    names = {
        "sent": "rxt_sent", "dropped": "rxt_dropped", "strangers": "strangers", "max_depth": "rxt_depth_max",
        "queued": "rxt_queued", "requeued": "rxt_requeued", "checks": "rxt_checks", "purges": "purges", "crashes": "crashes",
        "freed_queued": "freed_queued", "retransmits": "retransmits", "timeouts": "timeouts",
    }  # fmt: skip
    found: dict[str, Any] = {name: counters[field] for name, field in names.items()}
    return found | {"queue_ns": _quantiles(tel["rxt_queue"]), "close_to_free_ns": _quantiles(tel["close_to_free"])}


def _tcp(tel: Any) -> dict[str, Any]:
    dropped = {reason: int(tel["tcp_dropped"][i]) for i, reason in enumerate(REASONS) if tel["tcp_dropped"][i]}
    return {name: n for name, n in tcp_counters(tel).items() if n} | {"dropped": dropped}


def _client(client: Child | None) -> dict[str, Any]:
    return {} if client is None else {"pid": client.pid, "cpu": client.cpu, **_rusage(client), "exit": client.exit_name}


def _rusage(child: Child) -> dict[str, Any]:
    usage = child.usage
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime if usage else 0.0,
        "voluntary_switches": usage.ru_nvcsw if usage else 0,
        "involuntary_switches": usage.ru_nivcsw if usage else 0,
    }


def _per_worker(child: Child, record: Any) -> dict[str, Any]:
    names = ("accepted", "requests", "spurious", "waits", "parks")
    counts = {name: int(record[name]) if record is not None else 0 for name in names}
    return {"pid": child.pid, "cpu": child.cpu, **counts, **_rusage(child), "exit": child.exit_name}


def _core(tel: Any, core: Child, transport: str) -> dict[str, Any]:
    dispatches = int(tel["dispatches"])
    nodes = {
        name: {"calls": int(tel["node_calls"][i]), "vectors": int(tel["node_vectors"][i]), "ns": int(tel["node_ns"][i])}
        for i, name in enumerate(NODE_NAMES[transport])
    }
    return {
        "pid": core.pid,
        **_rusage(core),
        "dispatches": dispatches,
        "idle_dispatches": int(tel["idle_dispatches"]),
        "vectors_per_dispatch": int(tel["vectors"]) / dispatches if dispatches else 0.0,
        "parks": int(tel["parks"]),
        "worker_deaths": int(tel["worker_deaths"]),
        "nodes": nodes,
        "exit": core.exit_name,
    }


def machine(where: Placement) -> dict[str, Any]:
    """What the numbers were measured on."""
    model = ""
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith(("model name", "Model")):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": model or platform.machine(),
        "cpus": where.cpus,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "core_cpu": where.core,
        "worker_cpus": list(where.workers),
        "oversubscribed": where.oversubscribed,
    }


