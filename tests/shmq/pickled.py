"""What spawned children run: importable by name, as multiprocessing asks."""

import os
from multiprocessing.connection import Connection

from shmq import ByteFifo, FutexRwLock, Mutex, PthreadRwLock, Queue, Ring, Segment, SpinLock, SpinRwLock

EXCLUSIVE = (SpinLock, Mutex)
SHARED = (SpinRwLock, FutexRwLock, PthreadRwLock)


def echo(there: Ring, back: Ring, count: int, wait: str) -> None:
    """Send back every record with its bytes reversed."""
    with there.consumer(wait) as rx, back.producer(wait) as tx:
        for _ in range(count):
            tx.push(rx.pop(timeout=20)[::-1], timeout=20)
    there.close()
    back.close()


def echo_bytes(there: ByteFifo, back: ByteFifo, total: int, wait: str) -> None:
    """Send back every byte, lower case as upper."""
    with there.reader(wait) as rx, back.writer(wait) as tx:
        while total:
            data = rx.read(1000, timeout=20)
            total -= len(data)
            for byte in data.upper():
                tx.write(bytes([byte]), timeout=20)
    there.close()
    back.close()


def hold_all(locks: list, segment: Segment, conn: Connection) -> None:
    """Write the pid, then hold every lock until told."""
    segment.buf[:8] = os.getpid().to_bytes(8, "little")
    for lock in locks:
        (lock.acquire if isinstance(lock, EXCLUSIVE) else lock.acquire_write)(timeout=20)
    conn.send("held")
    conn.recv()
    for lock in locks:
        (lock.release if isinstance(lock, EXCLUSIVE) else lock.release_write)()
        lock.close()
    segment.close()
    conn.close()


def from_pipe(conn: Connection, count: int) -> None:
    """Receive a ring, then pop from it and send back what came."""
    with conn.recv() as ring, ring.consumer("park") as rx:
        conn.send([rx.pop(timeout=20) for _ in range(count)])
    conn.close()


def serve(there: Queue, back: Queue) -> None:
    """Answer every (number, data) with (number, length of data), until None."""
    while (item := there.get(timeout=60)) is not None:
        back.put((item[0], len(item[1])), timeout=60)
    there.close()
    back.close()
