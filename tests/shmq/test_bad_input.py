"""The same misuse of every class: impossible times, closed handles, a role that is taken, no memory; each has its documented
exception, and the object is usable afterwards. What only one class can be told wrongly is tested with that class."""

import contextlib
import math
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmq import (
    ByteFifo,
    Channel,
    Event,
    FutexRwLock,
    Mutex,
    PthreadRwLock,
    Queue,
    Ring,
    RoleTaken,
    SpinLock,
    SpinRwLock,
)

# What makes each of them, for here and for the scripts below.
MAKERS: dict[str, Callable[[], Any]] = {
    "Ring": lambda: Ring.create(4, 8),
    "Channel": lambda: Channel.create(64),
    "ByteFifo": lambda: ByteFifo.create(8),
    "Queue": lambda: Queue(4, capacity=4096),
    "Event": Event.create,
    "SpinLock": SpinLock.create,
    "Mutex": Mutex.create,
    "SpinRwLock": SpinRwLock.create,
    "FutexRwLock": FutexRwLock.create,
    "PthreadRwLock": PthreadRwLock.create,
}
ENDS = {"Ring": ("producer", "consumer"), "Channel": ("producer", "consumer"), "ByteFifo": ("writer", "reader")}
RECORD = b"12345678"
DATA = (property, types.GetSetDescriptorType, types.MemberDescriptorType)


@contextlib.contextmanager
def opened(kind: str) -> Iterator[list[Any]]:
    """Yield the object, or its two ends."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(MAKERS[kind]())
        yield [stack.enter_context(getattr(made, role)()) for role in ENDS[kind]] if kind in ENDS else [made]


def cycle(kind: str, things: list[Any], timeout: Any) -> None:
    """One use of an object by its blocking calls, none of which has to wait; all must work and leave it as it was."""
    first, last = things[0], things[-1]
    match kind:
        case "Ring":
            first.push(RECORD, timeout)
            assert last.pop(timeout) == RECORD
        case "Channel":
            for _ in range(2):
                first.push(RECORD, timeout)
            assert last.pop(timeout) == RECORD
            assert last.pop_into(bytearray(8), timeout) == 8
        case "ByteFifo":
            assert first.write(RECORD, timeout) == 8
            assert last.read(4, timeout) == RECORD[:4]
            assert last.read_into(bytearray(8), timeout) == 4
        case "Queue":
            first.put(RECORD, timeout=timeout)
            assert first.get(timeout=timeout) == RECORD
        case "Event":
            first.set()
            assert first.wait(timeout)
            first.clear()
        case "SpinLock" | "Mutex":
            assert first.acquire(timeout)
            first.release()
        case _:
            for how in ("read", "write"):
                assert getattr(first, f"acquire_{how}")(timeout)
                getattr(first, f"release_{how}")()


def blocking_calls(kind: str, things: list[Any]) -> list[Callable[[Any], object]]:
    first, last = things[0], things[-1]
    if kind in ENDS:
        if kind == "ByteFifo":
            return [lambda t: first.write(RECORD, t), lambda t: last.read(8, t), lambda t: last.read_into(bytearray(8), t)]
        calls = [lambda t: first.push(RECORD, t), lambda t: last.pop(t)]
        return calls + [lambda t: last.pop_into(bytearray(8), t)] * (kind == "Channel")
    if kind == "Queue":
        return [lambda t: first.put(RECORD, timeout=t), lambda t: first.get(timeout=t)]
    if kind == "Event":
        return [first.wait]
    if kind in ("SpinLock", "Mutex"):
        return [first.acquire]
    return [first.acquire_read, first.acquire_write]


NEGATIVE = [-1, -0.001, -math.inf]  # a Queue takes that for 0, as multiprocessing.Queue does
NO_TIME = [math.nan, "1", b"1", 1j]


@pytest.mark.parametrize(
    ("kind", "timeout"), [(kind, timeout) for kind in MAKERS for timeout in (NEGATIVE if kind != "Queue" else []) + NO_TIME]
)
def test_impossible_times(kind: str, timeout: Any) -> None:
    with opened(kind) as things:
        for call in blocking_calls(kind, things):
            with pytest.raises(ValueError if isinstance(timeout, (int, float)) else TypeError):
                call(timeout)
        cycle(kind, things, timeout=0)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("timeout", [None, 0, 0.0, 1e-300, 1e300, math.inf, 10**12, True])
def test_possible_times(kind: str, timeout: Any) -> None:
    with opened(kind) as things:
        for _ in range(3):
            cycle(kind, things, timeout)


# What does not need the memory: a closed handle still answers to it. A lock's counters are the handle's own.
HARMLESS = {"create", "attach", "from_fd", "close", "join_thread", "cancel_join_thread", "unlink"}
LOCKS = ("SpinLock", "Mutex", "SpinRwLock", "FutexRwLock", "PthreadRwLock")
# Arguments for the other methods; none where nothing stands.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(["try_push", "push", "apush", "push_array", "try_write", "write", "awrite", "put", "put_nowait"], (RECORD,)),
    **dict.fromkeys(["pop_array", "pop_into", "read_into"], (bytearray(8),)),
    **dict.fromkeys(["pop_many", "reserve", "commit", "peek", "skip", "view", "try_read", "read", "aread"], (1,)),
    "push_many": ([RECORD],),
    "write_at": (0, RECORD),
}


def call_and_begin(kind: str, method: str, thing: Any) -> None:
    """Call a method; enter what is a context manager, and start what is to be awaited."""
    arguments = ARGUMENTS.get(method, ())
    if kind in ENDS and method == "release":
        arguments = (1,)
    elif kind == "ByteFifo" and method == "peek":
        arguments = (0, 1)
    elif kind in LOCKS:
        arguments = ()
    result = getattr(thing, method)(*arguments)
    if kind in LOCKS:
        result.__enter__()
    elif method in ("apush", "apop", "awrite", "aread"):
        result.send(None)


@pytest.mark.parametrize("kind", MAKERS)
def test_closed_handles(kind: str) -> None:
    with opened(kind) as things:
        pass
    harmless = HARMLESS | {"stats"} if kind in LOCKS else HARMLESS
    for thing in things:
        thing.close()  # a second time
        called = 0
        for name in set(dir(type(thing))) | set(vars(thing) if hasattr(thing, "__dict__") else ()):
            if name[0] == "_" or name in harmless or isinstance(getattr(type(thing), name, None), DATA):
                continue
            with pytest.raises(ValueError, match="closed"):
                call_and_begin(kind, name, thing)
            called += 1
        assert called >= 3


@pytest.mark.parametrize("kind", ENDS)
def test_a_role_that_is_taken(kind: str) -> None:
    with MAKERS[kind]() as made:
        for role in ENDS[kind]:
            with getattr(made, role)(), pytest.raises(RoleTaken):
                getattr(made, role)()
            getattr(made, role)().close()
        with contextlib.ExitStack() as stack:
            cycle(kind, [stack.enter_context(getattr(made, role)()) for role in ENDS[kind]], timeout=0)


FULL = """
import errno, os
from tests.shmq.test_bad_input import MAKERS, opened, cycle
from shmq import Segment
held = [Segment.create(4096, "k", "a") for _ in range(16)]
while True:
    try:
        held.append(Segment.create(4096, "k", "a"))
    except OSError:
        break
for kind, make in MAKERS.items():
    try:
        make()
    except OSError as error:
        assert error.errno == errno.ENOSPC and "not enough shared memory" in str(error), (kind, error)
    else:
        raise AssertionError(f"a {kind} without memory")
for segment in held:
    segment.close()
for kind in MAKERS:
    with opened(kind) as things:
        cycle(kind, things, 0)
with opened("Queue") as (queue,):
    queue.put(b"before")
    try:
        queue.put(bytes(2 << 20))
    except OSError as error:
        assert error.errno == errno.ENOSPC and "get some messages first" in str(error), error
    else:
        raise AssertionError("an object larger than /dev/shm went in")
    queue.put(b"after")
    assert [queue.get(), queue.get()] == [b"before", b"after"]
assert os.listdir("/dev/shm") == []
"""


def test_a_full_dev_shm() -> None:
    """In a mount namespace with a /dev/shm of 1 MiB."""
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=1m none /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("this machine does not allow a mount namespace")
    done = subprocess.run([*unshare, f'{mount} && exec "$0" -c "$1"', sys.executable, FULL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
