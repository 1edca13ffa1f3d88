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
from stackcore.tcp.congestion import load_plugin
from stackcore.tcp.retransmit import policy as _policy  # noqa: F401  (registers its choices)
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
TRANSPORT.add("tcp", "the stack's own TCP")
WIRE = switch("wire", "what carries TCP's packets", "none")
WIRE.add("none", "transport null has no packets")
WIRE.add("shm", "a client host in another process, packets over shared-memory rings, real clock")
WIRE.add("sim", "a simulated network under a virtual clock, everything in one process")
NAGLE = switch("nagle", "coalesce small segments (RFC 9293 section 3.7.4)", "off")
NAGLE.add("off", "TCP_NODELAY on every connection, as servers set it", "off")
NAGLE.add("on", "as TCP does by default", "on")
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


LOSSY_TIMEOUT_S = 60.0
"""A client's patience where packets are lost: the retransmission timeout doubles from a second or less."""
_LOSSY = ("loss", "burst_loss", "corrupt", "link_rate")
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s)?")


def parse_time(text: str | int) -> int:
    """Nanoseconds from ``10ms``, ``2us``, ``1.5s``, or a plain number of ns; ConfigError for anything else."""
    if isinstance(text, int):
        return text
    match = _TIME.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"{text!r} is no time: write a number with ns, us, ms or s, as in 10ms")
    return int(Fraction(match[1]) * _UNITS[match[2] or "ns"])


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
    wire: str = "none"
    mtu: int = 1500
    cc: str = "cubic"
    recovery: str = "state-aware"
    retransmit_policy: str = "fifo"
    budget: int = 256
    retries: int = 8
    close_timeout: float = 2.0
    rto_init: float = 1.0
    nagle: str = "off"
    loss: float = 0.0
    burst_loss: float = 0.0
    delay: int = 0
    jitter: int = 0
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    link_rate: int = 0
    queue: int = 1000
    limit: float = 600.0
    unread: float = 0.0
    abort: float = 0.0
    pcap: str = ""
    plugin: str = ""
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
    "mtu": (128, 65535, "bytes"),
    "limit": (0.1, 10**6, "seconds"),
    "budget": (1, 256, "the retransmit pass sends a frame at most"),
    "retries": (1, 64, ""),
    "close_timeout": (0.001, 86400, "seconds"),
    "rto_init": (0.2, 60, "seconds"),
    "loss": (0, 0.9, "a fraction"),
    "burst_loss": (0, 0.9, "a fraction"),
    "reorder": (0, 1, "a fraction"),
    "duplicate": (0, 1, "a fraction"),
    "corrupt": (0, 1, "a fraction"),
    "delay": (0, 60 * 10**9, "nanoseconds"),
    "jitter": (0, 2 * 10**9, "nanoseconds"),
    "link_rate": (0, 10**12, "bytes per second, 0: no limit"),
    "queue": (1, 1 << 20, "packets"),
    "unread": (0, 1, "a fraction of the clients"),
    "abort": (0, 1, "a fraction of the clients"),
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


def _check_network(values: dict[str, Any], given: dict[str, Any]) -> None:
    """What goes with which transport and wire. A wire implies TCP; TCP without a wire goes over ``shm``."""
    if values["wire"] != "none" and "transport" not in given:
        values["transport"] = "tcp"
    if values["transport"] == "tcp":
        if values["wire"] == "none":
            values["wire"] = "shm"
        if values["wire"] == "sim" and values["listener"] != "duplicated":
            raise ConfigError("--wire sim has its workers in one process: only --listener duplicated makes sense there")
        for flag in ("unread", "abort"):
            if values[flag] and values["workload"] != "transfer":
                raise ConfigError(f"--{flag} provokes clients of the workload transfer, not of {values['workload']}")
        if values["unread"] + values["abort"] > 1:
            raise ConfigError("--unread and --abort are fractions of the same clients: together at most 1")
        return
    if values["wire"] != "none":
        raise ConfigError(f"--wire {values['wire']} carries TCP's packets: leave --transport null out")
    for name in ("loss", "burst_loss", "delay", "jitter", "reorder", "duplicate", "corrupt", "link_rate", "pcap"):
        if values[name]:
            raise ConfigError(f"--{name.replace('_', '-')} is about packets: add --transport tcp")


def make(**given: Any) -> RunConfig:
    """A checked configuration from flags; None means: not given. ConfigError, or UnknownMode listing the choices."""
    import workloads

    given = {name: value for name, value in given.items() if value is not None}
    unknown = set(given) - set(RunConfig.__dataclass_fields__)
    if unknown:
        raise ConfigError(f"unknown setting: {', '.join(sorted(unknown))}")
    values = asdict(RunConfig()) | given
    if values["plugin"]:
        try:
            load_plugin(values["plugin"])
        except ValueError as error:
            raise ConfigError(f"--plugin: {error}") from None
    for name in SWITCHES:
        key = name.replace("-", "_")
        if key in values:
            SWITCHES[name][values[key]]
    for key in ("size", "fifo"):
        values[key] = parse_size(values[key])
    for key in ("delay", "jitter"):
        values[key] = parse_time(values[key])
    values["link_rate"] = parse_size(values["link_rate"])
    workload = workloads.load(values["workload"])
    values |= {k: v for k, v in workload.defaults(values).items() if k not in given}
    if any(values[name] for name in _LOSSY) and "timeout" not in given:
        values["timeout"] = max(values["timeout"], LOSSY_TIMEOUT_S)
    for key in ("size", "fifo"):
        values[key] = parse_size(values[key])
    _check_ranges(values)
    _check_network(values, given)
    if not values["sessions"]:
        values["sessions"] = max(1024, 2 * values["clients"])
    if values["sessions"] < values["clients"] or values["sessions"] > 1 << 22:
        raise ConfigError(f"--sessions must be --clients ({values['clients']}) .. {1 << 22}, not {values['sessions']}")
    _check_power_of_two("--ring", values["ring"], 2, 1 << 24)
    _check_power_of_two("--fifo", values["fifo"], 256, 1 << 26)
    if not values["name"]:
        values["name"] = os.environ.get("STACKCORE_NAME") or f"run-{os.getpid()}"
    return RunConfig(**values)
