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
        return len(self.workers) + 1 > self.cpus

    def core_shares(self) -> bool:
        """Must the core yield when idle?"""
        return self.oversubscribed if self.core is None else self.core in self.workers

    def worker_shares(self, i: int) -> bool:
        if self.workers[i] is None:
            return self.oversubscribed
        return self.workers[i] == self.core or self.workers.count(self.workers[i]) > 1


def auto(workers: int) -> Placement:
    """Core on the first allowed CPU, worker i on the (i+1)-th, round and round."""
    cpus = sorted(os.sched_getaffinity(0))
    return Placement(cpus[0], tuple(cpus[(i + 1) % len(cpus)] for i in range(workers)), len(cpus))


def none(workers: int) -> Placement:
    return Placement(None, (None,) * workers, len(os.sched_getaffinity(0)))


def pin(cpu: int | None) -> None:
    """Bind the calling process to ``cpu``."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
