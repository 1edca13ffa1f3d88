"""Wire ``sim``: the same seed is the same run, the virtual clock is kept, and a drive comes to an end whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dpkt
import pytest

import workloads
from stackcore import configuration
from stackcore.result import Result
from stackcore.simulate import Simulation
from tests.stackcore.simulated import TINY, simulated, virtual

ROOT = Path(__file__).resolve().parents[2]
ROUGH: dict[str, Any] = {
    "clients": 30, "size": "30K", "loss": 0.03, "burst_loss": 0.01, "delay": "5ms", "jitter": "1ms", "reorder": 0.05,
    "duplicate": 0.02, "corrupt": 0.01, "link_rate": "4M", "queue": 100, "unread": 0.2, "abort": 0.2,
}  # fmt: skip
SHORT: dict[str, Any] = {"clients": 16, "duration": 0.1, "warmup": 0.02}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "transfer": ("transfer", ROUGH | {"cc": "newreno"}),
    "transfer, two workers": ("transfer", ROUGH | {"workers": 2, "recovery": "flag"}),
    "http": ("http", SHORT | {"workers": 2, "requests_per_connection": 5}),
    "http, open loop": ("http", SHORT | {"rate": 2000.0, "loss": 0.01, "delay": "1ms", "duration": 1.0}),
    "fanout": ("fanout", {"clients": 64, "maxevents": 8, "duration": 0.05, "warmup": 0.01, "events": "bounded"}),
}


def errors(result: Result) -> dict[str, int]:
    return {name: count for name, count in result.data["errors"].items() if count}


# ---- the same run ----


@pytest.mark.parametrize(("workload", "modes"), RUNS.values(), ids=RUNS)
def test_same_seed_same_run(workload: str, modes: dict[str, Any], tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.pcap" for k in range(3)]
    found = [virtual(simulated(workload, pcap=str(p), seed=seed, **modes)) for p, seed in zip(paths, (4, 4, 5), strict=True)]
    captures = [p.read_bytes() for p in paths]
    assert len(captures[0]) > 10_000
    assert captures[0] == captures[1] != captures[2]
    assert found[0] == found[1]


def test_compiled_and_interpreted_give_the_same_packets(tmp_path: Path) -> None:
    found, captures = [], []
    for jit in ("1", "0"):
        path = tmp_path / f"{jit}.pcap"
        done = subprocess.run(
            [sys.executable, "-m", "tests.stackcore.simulated", str(path)], env=os.environ | {"STACKCORE_JIT": jit},
            cwd=ROOT, capture_output=True, text=True, timeout=170, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
        captures.append(path.read_bytes())
    assert [f["compiled"] for f in found] == [True, False]
    assert found[0]["found"] == found[1]["found"]
    assert captures[0] == captures[1] and captures[0]
    assert found[0]["found"]["recovery"]["retransmits"] > 0  # or it says little


def test_the_capture_is_of_the_run(tmp_path: Path) -> None:
    """Every packet of the core's, in the order of its virtual time."""
    path = tmp_path / "run.pcap"
    tcp = simulated("transfer", pcap=str(path), **TINY).data["tcp"]
    with path.open("rb") as file:
        packets = [(at, dpkt.ip.IP(frame)) for at, frame in dpkt.pcap.Reader(file)]
    times = [at for at, _ in packets]
    assert times == sorted(times)
    server = bytes([10, 0, 0, 1])
    assert sum(p.src == server for _, p in packets) == tcp["segments_out"]
    assert sum(p.dst == server for _, p in packets) <= tcp["segments_in"]


# ---- workloads and modes ----


@pytest.mark.parametrize("events", ["bounded", "single-queue"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("requests", [0, 1])
def test_http(events: str, workers: int, requests: int) -> None:
    result = simulated("http", events=events, workers=workers, requests_per_connection=requests, **SHORT)
    data = result.data
    assert result.ok, result.problems
    assert data["requests"] > 16 and data["wire"] == "sim" and data["transport"] == "tcp"
    assert all(w["accepted"] > 0 for w in data["per_worker"])
    assert sum(w["requests"] for w in data["per_worker"]) >= data["requests"]
    assert data["bytes_per_s"] * data["duration_s"] >= data["requests"] * data["settings"]["size"]
    assert data["tcp"]["opened_passive"] == data["connections"]["connects"] == sum(w["accepted"] for w in data["per_worker"])
    assert (data["connections"]["connects"] > 16) == (requests == 1)
    assert data["connections"]["refused"] == 0
    if requests == 1:  # three crossings of a cycle each, and closed connections are in nobody's way
        assert data["requests"] > 16 * 0.1 / 0.0015


def test_d2_goes_stale_here_too() -> None:
    flags: dict[str, Any] = {"clients": 64, "maxevents": 8, "duration": 0.05, "warmup": 0.01}
    stale = {events: errors(simulated("fanout", events=events, **flags)) for events in ("two-queue", "bounded", "single-queue")}
    assert stale["two-queue"]["stale"] > 0
    assert stale["bounded"] == stale["single-queue"] == {}


@pytest.mark.parametrize("listener", ["shared-rwlock", "unlocked-shared"])
def test_only_listeners_that_one_process_can_have(listener: str) -> None:
    with pytest.raises(configuration.ConfigError, match="--listener duplicated"):
        configuration.make(workload="http", wire="sim", listener=listener)


def test_a_transfer_that_is_cut_begins_again() -> None:
    result = simulated("transfer", clients=40, size="50K", unread=0.5, abort=0.25)
    transfers = result.data["transfers"]
    assert result.ok, result.problems
    assert transfers["completed"] == result.data["requests"] == 40
    assert transfers["cut_by_abort"] == 10 and transfers["cut_by_reset"] > 0
    cuts = sum(transfers[name] for name in transfers if name.startswith("cut_by_"))
    assert transfers["refetched"] == cuts


# ---- the virtual clock ----


def test_a_round_trip_takes_two_delays() -> None:
    """One client in a closed loop over 10 ms each way: just under 50 requests a second, however long the machine took."""
    data = simulated("http", clients=1, size=0, duration=2.0, delay="10ms").data
    assert data["duration_s"] == 2.0
    assert 48 <= data["requests_per_s"] <= 50
    assert 20e6 <= data["latency_ns"]["p50"] <= 20.7e6


def test_an_open_loop_keeps_its_rate() -> None:
    data = simulated("http", clients=8, rate=200.0, schedule="constant", delay="1ms", duration=2.0).data
    assert data["requests"] == pytest.approx(400, abs=1)


def test_a_link_has_its_rate() -> None:
    """A megabyte a second for a download of half of one: half a second, and a little for headers and the handshake."""
    data = simulated("transfer", clients=1, size="500K", link_rate="1M", delay="1ms", unread=0.0, abort=0.0).data
    assert 0.90e6 <= data["bytes_per_s"] <= 1 << 20
    assert data["recovery"]["retransmits"] == 0


def test_hours_pass_in_seconds() -> None:
    result = simulated("http", clients=4, rate=1.0, schedule="constant", delay="1ms", duration=3600.0, timeout=10.0)
    assert result.ok, result.problems
    assert result.data["requests"] == pytest.approx(3600, abs=1)
    assert result.data["wall_s"] < 120


# ---- the end of a drive ----


def test_the_limit_ends_a_run_that_gets_nowhere() -> None:
    result = simulated("transfer", clients=4, size="100K", loss=0.9, limit=5.0)
    assert result.data["duration_s"] == pytest.approx(5.0)
    completed = result.data["transfers"]["completed"]
    assert completed < 4 and f"{4 - completed} transfers were not completed" in result.problems


class Forgetful(Simulation):
    """Nobody's timers are ever heard of: a lost wake-up."""

    def soonest(self) -> int:
        return -1


def test_nothing_left_to_happen_is_said() -> None:
    config = configuration.make(workload="transfer", wire="sim", clients=4, size="100K")
    prepared = workloads.load("transfer").prepare(config)
    with Forgetful(config, prepared) as simulation:
        result = simulation.run()
    assert "nothing is left to happen, and transfers are missing" in result.problems
    assert result.data["transfers"]["completed"] == 0
    assert result.data["wall_s"] < 120
