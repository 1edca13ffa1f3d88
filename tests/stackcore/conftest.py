"""Fixtures for all tests of the stack."""

from collections.abc import Iterator

import pytest

from stackcore import configuration
from stackcore.warmup import warm_up
from tests.stackcore.left import nothing_left_behind
from workloads import load

__all__ = ["nothing_left_behind"]


@pytest.fixture(scope="session")
def kernels() -> Iterator[None]:
    """All kernels are loaded, or compiled the first time, before the first process that uses them is forked."""
    for workload in ("http", "fanout", "transfer"):
        config = configuration.make(workload=workload)
        prepared = load(workload).prepare(config)
        warm_up(config, prepared, lambda text: None)
        prepared.close()
    yield
