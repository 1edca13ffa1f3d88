"""A stand-in for the processes that a benchmark visits: answers at once, always the same."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bench.runner import Outcome

Answer = Callable[[list[str]], tuple[int, dict[str, Any] | str]]


def flag(argv: Sequence[str], name: str, default: str = "") -> str:
    return argv[argv.index(name) + 1] if name in argv else default


class FakeRunner:
    """Answers `stackcore run`, `stackcore.calls`, `stackcore.tcp.*`, `bench.peers.run` and `shmq-ref` plausibly; remembers what
    was asked.

    Rates are fixed per mode: duplicated is 1.25 times as fast as shared-rwlock, with a little noise from a counter.
    `override` may answer first; it returns None for what it leaves to the stand-in.
    """

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.override: Callable[[list[str]], Outcome | None] = lambda argv: None

    def __call__(self, command: Sequence[str], timeout: float) -> Outcome:
        argv = list(command)
        self.commands.append(argv)
        special = self.override(argv)
        if special is not None:
            return special
        status, result = self._answer(argv)
        return Outcome(status, json.dumps(result), "")

    @property
    def visits(self) -> list[list[str]]:
        return [argv for argv in self.commands if "-m" in argv and "warmup" not in argv]

    def _answer(self, argv: list[str]) -> tuple[int, dict[str, Any]]:
        if "--mode" in argv:
            return 0, {"mode": flag(argv, "--mode"), "operations": 1000, "per_second": 10e6, "ns": 100.0}
        if "warmup" in argv:
            return 0, {}
        if "stackcore.calls" in argv:
            slow = 2.0 if flag(argv, "--lock") else 1.0
            noise = 1 + 0.01 * (len(self.commands) % 5)
            processes = int(flag(argv, "--processes"))
            return 0, {"ns_per_call": {"recv": 50 * slow * noise, "epoll_wait": 80 * slow * noise}, "processes": processes}
        if "bench.peers.run" in argv:
            return self._peer(argv)
        if "stackcore.tcp.speed" in argv:
            return self._speed(argv)
        if "stackcore.tcp.queue_cost" in argv:
            return self._queue_cost()
        if "transfer" in argv:
            return self._transfer(argv)
        if "fanout" in argv:
            return self._fanout(argv)
        return self._http(argv)

    def _peer(self, argv: list[str]) -> tuple[int, dict[str, Any]]:
        """Every peer takes as many microseconds for a message as its name has letters."""
        peer, kind = argv[argv.index("bench.peers.run") + 1], flag(argv, "--kind")
        ns = 1000.0 * len(peer) * (1 + 0.01 * (len(self.commands) % 5))
        errors = {"lost": 0, "duplicate": 0, "misplaced": 0, "corrupt": 0}
        figures = {"trip_ns": ns, "p50_ns": ns, "p99_ns": 3 * ns, "cpu_share": 0.001, "operations": 1000, "ns": ns}
        return 0, {"peer": peer, "kind": kind, "errors": errors, **figures}

    def _speed(self, argv: list[str]) -> tuple[int, dict[str, Any]]:
        """400 ns a segment and 200 more for a frame of one; a request takes twice as long when it goes anywhere."""
        noise = 1 + 0.01 * (len(self.commands) % 5)
        ns = (400 + 200 / int(flag(argv, "--frame", "256"))) * noise
        spread = {"p10": 0.9 * ns, "p50": ns, "p90": 1.2 * ns, "p99": 2 * ns}
        return 0, {
            "ns_per_segment": ns, "segments": 1000, "bytes_per_s": 1460e9 / ns, "step_ns_per_segment": spread,
            "ns_per_request": 2 * ns * (2 if "--anywhere" in argv else 1), "requests": 500,
            "record_bytes_per_connection": 750.0, "resident_bytes_per_connection": 2000.0,
        }  # fmt: skip

    def _queue_cost(self) -> tuple[int, dict[str, Any]]:
        looks = {"unchecked": 6.0, "state-aware": 7.0, "generation": 6.5, "purge": 6.0, "flag": 4.0}
        return 0, {
            "connections": 16,
            "modes": {
                mode: {"connections": 16, "rounds": 9, "ns": {"program": 14.0, "look": ns, "stale": ns,
                                                              "free": 4.0 if mode == "purge" else 0.0}}
                for mode, ns in looks.items()
            },
        }  # fmt: skip

    def _transfer(self, argv: list[str]) -> tuple[int, dict[str, Any]]:
        """Crashes are three times the percentage of loss, unchecked only; goodput falls with the loss."""
        loss, clients = float(flag(argv, "--loss", "0")), int(flag(argv, "--clients"))
        crashes = int(300 * loss) if flag(argv, "--recovery") == "unchecked" else 0
        recovery = {
            "crashes": crashes, "strangers": 0, "freed_queued": int(300 * loss), "dropped": 5, "max_depth": 40,
            "retransmits": int(1e4 * loss),
            "queue_ns": {"p50": 1e5, "p99": 1e6}, "close_to_free_ns": {"p50": 3e7, "p99": 9e7},
        }  # fmt: skip
        return int(crashes > 0), {
            "requests": clients, "requests_per_s": 100.0, "bytes_per_s": 2e9 / (1 + 100 * loss), "wall_s": 40.0,
            "transfers": {"completed": clients, "slowest_ns": 3e9}, "recovery": recovery, "errors": {"lost": 0},
        }  # fmt: skip

    def _http(self, argv: list[str]) -> tuple[int, dict[str, Any]]:
        listener, workers = flag(argv, "--listener"), int(flag(argv, "--workers"))
        if listener == "unlocked-shared":
            return 1, {
                "requests": 0, "requests_per_s": 0.0, "errors": {"unserved": 64},
                "per_worker": [{"accepted": 0, "requests": 0, "cpu_s": 0.1}] * workers,
            }  # fmt: skip
        rate = (1_250_000 if listener == "duplicated" else 1_000_000) * (1 + 0.002 * (len(self.commands) % 7))
        return 0, {
            "requests": 300_000, "requests_per_s": rate, "errors": {"stale": 0, "unserved": 0},
            "locks": {"acquires": 1_200_000 if "--lock" in argv else 0, "wait_ns": 600_000},
            "per_worker": [{"accepted": 32, "requests": 150_000, "cpu_s": 0.3}] * workers,
            "core": {"cpu_s": 0.3, "exit": "0"},
        }  # fmt: skip

    def _fanout(self, argv: list[str]) -> tuple[int, dict[str, Any]]:
        stale = 17 if flag(argv, "--events") == "two-queue" else 0
        events = {"count": 500_000, "ns_per_event": 90.0 + len(self.commands) % 3, "bytes": 8192, "ring_high_water": 200}
        return int(stale > 0), {
            "requests": 500_000, "requests_per_s": 1e6, "events": {**events, "growth_copies": 3},
            "errors": {"stale": stale, "lost": 0, "duplicate": 0, "misdelivered": 0},
        }  # fmt: skip


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()
