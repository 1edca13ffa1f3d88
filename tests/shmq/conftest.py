"""What holds for every test of shmq: no name, no descriptor and no process is left behind."""

import gc
import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from tests.shmq.helpers import Child, Flag

PREFIX = f"shmq-test-{os.getpid()}-"


def _open_files() -> set[tuple[str, str]]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:  # the listing's own
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = _open_files()
    yield
    if _open_files() - before:
        gc.collect()  # what sits in a reference cycle is not leaked
    assert [name for name in os.listdir("/dev/shm") if name.startswith(PREFIX)] == []
    assert _open_files() - before == set()


@pytest.fixture
def name() -> str:
    """A name in /dev/shm that nobody else uses and that is checked to be gone afterwards."""
    return PREFIX + "a"


@pytest.fixture
def names() -> Iterator[str]:
    return (f"{PREFIX}{i}" for i in itertools.count())


@pytest.fixture
def flag(nothing_left: None) -> Iterator[Callable[[], Flag]]:
    flags: list[Flag] = []

    def make() -> Flag:
        flags.append(Flag())
        return flags[-1]

    yield make
    for each in flags:
        each.close()


@pytest.fixture
def fork(nothing_left: None) -> Iterator[Callable[[Callable[[], None]], Child]]:
    """Fork a child; whatever happens to the test, the child is reaped."""
    children: list[Child] = []

    def start(work: Callable[[], None]) -> Child:
        children.append(Child(work))
        return children[-1]

    yield start
    for child in children:
        child.kill()
