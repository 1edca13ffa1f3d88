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
    """Answers `stackcore run`, `stackcore.calls`, `bench.peers.run` and `shmq-ref` plausibly and remembers what was asked.

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
