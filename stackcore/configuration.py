"""A run's configuration: every flag of ``stackcore run``, checked once, before anything is created.

:func:`make` fills in what a workload chooses by default and raises :class:`ConfigError` with one sentence about what
is wrong and what would be right. Everything behind this module may rely on a :class:`RunConfig` being possible.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from stackcore.abi import abi
from stackcore.registry import SWITCHES, switch
from stackcore.session import accept as _accept  # noqa: F401  (registers its choices)
from stackcore.vcl import _vcl

LISTENER = switch("listener", "how forked workers share a listening socket (D3)", "duplicated")
for _name, (_doc, _shared) in _vcl.listener_modes.items():
    LISTENER.add(_name, _doc, _name)
EVENTS = switch("events", "what happens to events that one epoll_wait cannot return (D2)", "single-queue")
for _name, _doc in _vcl.event_modes.items():
    EVENTS.add(_name, _doc, _name)
LOCK = switch("lock", "the read-write lock of listener modes that lock", "spin-rw")
LOCK.add("spin-rw", "spin, yield when it takes long", False)
LOCK.add("futex-rw", "spin briefly, then sleep in the kernel", True)
WAIT = switch("wait", "how core and workers wait for work", "adaptive")
WAIT.add("spin", "never sleep", "spin")
WAIT.add("adaptive", "spin, yield, then sleep", "adaptive")
WAIT.add("park", "sleep at once", "park")
TRIGGER = switch("trigger", "how workers are told of readiness", "edge")
TRIGGER.add("edge", "once per change (EPOLLET)", "edge")
TRIGGER.add("level", "as long as it holds", "level")
APP = switch("app", "what the workers' loop is written in", "compiled")
APP.add("compiled", "a kernel, so that the path under test is not hidden under the interpreter", "compiled")
APP.add("python", "plain Python", "python")
VERIFY = switch("verify", "what the null transport's clients check", "full")
VERIFY.add("full", "every byte of every reply", True)
VERIFY.add("length", "the number of bytes", False)
SCHEDULE = switch("schedule", "open-loop arrivals (--rate)", "poisson")
SCHEDULE.add("poisson", "exponential gaps", True)
SCHEDULE.add("constant", "equal gaps", False)
TRANSPORT = switch("transport", "what carries the sessions", "null")
TRANSPORT.add("null", "the core plays the clients at session level")
PIN = switch("pin", "which CPU each process runs on", "auto")
PIN.add("auto", "core on the first allowed CPU, worker i on the (i+1)-th, round and round")
PIN.add("none", "wherever the kernel puts it")

MAX_APP_WORKERS = abi.MAX_WORKERS - 1  # one record is the master's
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)i?b?", re.IGNORECASE)


class ConfigError(ValueError):
    """A flag, or two together, that cannot work; the message says which and what would."""


def parse_size(text: str | int) -> int:
    """Bytes from ``4096``, ``16K``, ``1M``; ConfigError for anything else."""
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"{text!r} is no size: write bytes, or a number with K, M or G, as in 16K")
    value = Fraction(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[match[2].lower()]
    if value.denominator != 1:
        raise ConfigError(f"{text!r} is no whole number of bytes")
    return int(value)


@dataclass(frozen=True)
class RunConfig:
    """One run. Sizes in bytes, times in seconds unless the name says ns."""

    workload: str = "http"
    transport: str = "null"
    workers: int = 1
    clients: int = 64
    size: int = 1024
    duration: float = 2.0
    warmup: float = 0.2
    listener: str = "duplicated"
    lock: str = "spin-rw"
    events: str = "single-queue"
    accept: str = "round-robin"
    ring_full: str = "congest"
    wait: str = "adaptive"
    app: str = "compiled"
    trigger: str = "edge"
    maxevents: int = 256
    ring: int = 2048
    fifo: int = 16384
    sessions: int = 0
    frame: int = 256
    requests_per_connection: int = 0
    rate: float = 0.0
    schedule: str = "poisson"
    verify: str = "full"
    work_ns: int = 0
    timeout: float = 1.0
    pin: str = "auto"
    seed: int = 0
    name: str = ""

    @property
    def modes(self) -> dict[str, str]:
        """Every switch with its choice."""
        values = asdict(self)
        return {name: values[name.replace("-", "_")] for name in SWITCHES if name.replace("-", "_") in values}


_RANGES: dict[str, tuple[float, float, str]] = {
    "workers": (1, MAX_APP_WORKERS, "a reader-writer lock has one bit per worker"),
    "clients": (1, 1 << 20, ""),
    "size": (0, 64 << 20, "files of up to 64 MB are made for a run"),
    "duration": (0.01, 86400, "seconds"),
    "warmup": (0, 3600, "seconds"),
    "maxevents": (1, 65536, ""),
    "frame": (1, 256, "a frame is a vector of at most 256"),
    "requests_per_connection": (0, 1 << 40, "0 keeps connections for ever"),
    "rate": (0, 1e9, "requests per second, 0 for a closed loop"),
    "work_ns": (0, 10**10, "nanoseconds"),
    "timeout": (0.05, 3600, "seconds"),
    "seed": (0, 2**63 - 1, ""),
}


def _check_ranges(values: dict[str, Any]) -> None:
    for name, (low, high, why) in _RANGES.items():
        value = values[name]
        if not low <= value <= high:
            flag = "--" + name.replace("_", "-").removesuffix("-ns")
            raise ConfigError(f"{flag} must be {low:g}..{high:g}, not {value:g}" + (f" ({why})" if why else ""))


def _check_power_of_two(flag: str, value: int, low: int, high: int) -> None:
    if value < low or value > high or value & (value - 1):
        raise ConfigError(f"{flag} must be a power of two, {low}..{high}, not {value}")


def make(**given: Any) -> RunConfig:
    """A checked configuration from flags; None means: not given. ConfigError, or UnknownMode listing the choices."""
    import workloads

    given = {name: value for name, value in given.items() if value is not None}
    unknown = set(given) - set(RunConfig.__dataclass_fields__)
    if unknown:
        raise ConfigError(f"unknown setting: {', '.join(sorted(unknown))}")
    values = asdict(RunConfig()) | given
    for name in SWITCHES:
        key = name.replace("-", "_")
        if key in values:
            SWITCHES[name][values[key]]
    for key in ("size", "fifo"):
        values[key] = parse_size(values[key])
    _check_ranges(values)
    workload = workloads.load(values["workload"])
    values |= {k: v for k, v in workload.defaults(values).items() if k not in given}
    if not values["sessions"]:
        values["sessions"] = max(1024, 2 * values["clients"])
    if values["sessions"] < values["clients"] or values["sessions"] > 1 << 22:
        raise ConfigError(f"--sessions must be --clients ({values['clients']}) .. {1 << 22}, not {values['sessions']}")
    _check_power_of_two("--ring", values["ring"], 2, 1 << 24)
    _check_power_of_two("--fifo", values["fifo"], 256, 1 << 26)
    if not values["name"]:
        values["name"] = os.environ.get("STACKCORE_NAME") or f"run-{os.getpid()}"
    return RunConfig(**values)
