"""The suites by name. A new suite is one file here and one word in `_ALL`."""

from __future__ import annotations

from bench.suites.base import Plan, Suite
from bench.suites.calls import CallsSuite
from bench.suites.events import EventsSuite
from bench.suites.floor import FloorSuite
from bench.suites.listener import ListenerSuite
from bench.suites.peers import PeersSuite
from bench.suites.recovery import RecoverySuite
from bench.suites.tcp import TcpSuite

_ALL = (
    FloorSuite(), ListenerSuite(), EventsSuite(), CallsSuite(), PeersSuite(), TcpSuite(), RecoverySuite(),
)  # fmt: skip
_SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}


def suite_names() -> list[str]:
    """Return the names of all suites, in the order in which `stackcore bench` runs them."""
    return list(_SUITES)


def default_suites() -> list[str]:
    """Return the suites of a run that names none."""
    return [name for name, suite in _SUITES.items() if suite.always]


def get_suite(name: str) -> Suite:
    """Return the suite called `name`; raises KeyError with the choices in its text."""
    try:
        return _SUITES[name]
    except KeyError:
        raise KeyError(f"no suite is called {name!r}; choose from {', '.join(_SUITES)}") from None


__all__ = ["Plan", "Suite", "default_suites", "get_suite", "suite_names"]
