"""Which process runs on which CPU, and which ends must yield because they share one."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """CPU of the core and of each worker; None where the kernel decides."""

    core: int | None
    workers: tuple[int | None, ...]
    cpus: int

    @property
    def oversubscribed(self) -> bool:
        """More processes than CPUs: rates say something about scheduling, too."""
        return len(self.workers) + 1 + self.has_client > self.cpus

    client: int | None = None
    """CPU of the client host, where the run has one."""
    has_client: bool = False

    def _shares(self, cpu: int | None) -> bool:
        """Does somebody else run on ``cpu``?"""
        everybody = [self.core, *self.workers, *([self.client] if self.has_client else [])]
        return self.oversubscribed if cpu is None else everybody.count(cpu) > 1

    def core_shares(self) -> bool:
        """Must the core yield when idle?"""
        return self._shares(self.core)

    def client_shares(self) -> bool:
        return self._shares(self.client)

    def worker_shares(self, i: int) -> bool:
        return self._shares(self.workers[i])


def auto(workers: int, has_client: bool = False) -> Placement:
    """Core on the first allowed CPU, worker i on the (i+1)-th, round and round, the client host beside the first worker."""
    cpus = sorted(os.sched_getaffinity(0))
    where = tuple(cpus[(i + 1) % len(cpus)] for i in range(workers))
    return Placement(cpus[0], where, len(cpus), where[0] if has_client else None, has_client)


def none(workers: int, has_client: bool = False) -> Placement:
    return Placement(None, (None,) * workers, len(os.sched_getaffinity(0)), None, has_client)


def pin(cpu: int | None) -> None:
    """Bind the calling process to ``cpu``."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
