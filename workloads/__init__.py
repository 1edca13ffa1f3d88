"""What the app workers do: one module per workload, found by name.

A workload module has ``prepare(config) -> Prepared`` (in the launcher, before any fork), ``serve_compiled(worker,
prepared, config, running)`` and ``serve_python(...)`` (in each worker, until ``running()`` is false),
``simulated(prepared, config) -> (kernel, state, memory)`` for a simulator that calls ``kernel(handle, epoll, listener, 0,
state)`` whenever it is the worker's turn, ``touch(...)`` to have the kernel compiled, and ``defaults(given) -> dict`` for
flags that the user left open.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from stackcore.registry import switch

WORKLOAD = switch("workload", "what the app workers do", "http")
WORKLOAD.add("http", "HTTP/1.1 replies from real files, keep-alive or N requests per connection", "workloads.http")
WORKLOAD.add("fanout", "storms of more ready sessions than maxevents, edge-triggered (D2)", "workloads.fanout")
WORKLOAD.add("transfer", "one long reply per connection, closed by the server, some clients provoke (D1)", "workloads.transfer")


@dataclass
class Prepared:
    """What the launcher hands to core and workers: one request, its reply, and the workload's own data."""

    request: bytes
    reply: bytes
    data: Any = None
    storm: bool = False
    once: bool = False
    """Each client fetches one reply, and the run is over when all have theirs."""
    cleanups: list[Any] = field(default_factory=list)

    def close(self) -> None:
        while self.cleanups:
            self.cleanups.pop()()


def load(name: str) -> Any:
    """The module of workload ``name``; UnknownMode with the choices for any other name."""
    return importlib.import_module(WORKLOAD[name].value)
