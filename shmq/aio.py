"""asyncio for the ends of rings and channels: what `await consumer.apop()` and `await producer.apush(record)` run; and for
those of byte fifos: `await reader.aread(n)`, `await writer.awrite(data)`.

Promise. A record is taken or given between two steps of the event loop, never across an `await`: a cancelled or
timed-out call (`asyncio.timeout`) has moved nothing. No wake-up is lost and nothing is polled, because a try that
fails arms the end's eventfd and looks once more (the proof is in `shmq/native/wait.h`), and the loop sleeps on that
descriptor. Only the death of the other process is looked for by a timer, twice a second, and raises PeerDied.

An end serves one task at a time, as it serves one thread at a time; a second one gets RuntimeError. Like asyncio's own
queues, a call that need not wait does not yield to the loop.

The native ends import this module at the first such call; importing shmq does not import asyncio.
"""

from __future__ import annotations

import asyncio
from queue import Empty, Full
from typing import Any

__all__ = ["apop", "apush", "aread", "awrite"]

_LOOK_FOR_PEER_S = 0.5
_AT_ONCE_S = 1e-9  # not 0: a call that waits, if only so long, asks whether the peer lives

_awaited: set[int] = set()  # descriptors that a task of this process waits for


async def apop(end: Any) -> Any:
    """Take the oldest record out of a consuming end, when there is one."""
    fd = end.fileno()
    while True:
        record = end.try_pop()
        if record is not None:
            return record
        if not await _readable(fd):
            try:
                return end.pop(_AT_ONCE_S)
            except Empty:
                pass  # and the peer lives


async def apush(end: Any, record: Any) -> None:
    """Copy one record into a producing end, when there is room."""
    fd = end.fileno()
    while not end.try_push(record):
        if not await _readable(fd):
            try:
                end.push(record, _AT_ONCE_S)
                return
            except Full:
                pass  # and the peer lives


async def aread(end: Any, n: int) -> bytes:
    """Take up to n bytes out of a reading end, when there is at least one."""
    fd = end.fileno()
    while True:
        data = end.try_read(n)
        if data or not n:
            return data
        if not await _readable(fd):
            try:
                return end.read(n, _AT_ONCE_S)
            except Empty:
                pass  # and the peer lives


async def awrite(end: Any, data: Any) -> int:
    """Copy the first bytes into a writing end, when at least one fits; how many."""
    fd = end.fileno()
    while True:
        done = end.try_write(data)
        if done or not memoryview(data).nbytes:
            return done
        if not await _readable(fd):
            try:
                return end.write(data, _AT_ONCE_S)
            except Full:
                pass  # and the peer lives


async def _readable(fd: int) -> bool:
    """Wait for the descriptor; False when it is time to look for the peer."""
    if fd in _awaited:
        raise RuntimeError("another task waits with this end: one task at a time")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bool] = loop.create_future()
    _awaited.add(fd)
    timer = loop.call_later(_LOOK_FOR_PEER_S, _settle, done, False)
    loop.add_reader(fd, _settle, done, True)
    try:
        return await done
    finally:
        timer.cancel()
        loop.remove_reader(fd)
        _awaited.discard(fd)


def _settle(done: asyncio.Future[bool], result: bool) -> None:
    if not done.done():
        done.set_result(result)
