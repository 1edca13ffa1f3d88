"""A process is killed while it holds a lock. The next holder is told, repairs what the lock protects, and goes on."""

import os
import signal

from shmq import Mutex, OwnerDied, Segment

with Segment.create(16, "two counters", "1") as memory, Mutex.create() as lock:
    counters = memory.buf.cast("Q")  # kept equal under the lock
    child = os.fork()
    if child == 0:
        lock.acquire()
        counters[0] += 1
        os.kill(os.getpid(), signal.SIGKILL)  # before the second counter
    os.waitpid(child, 0)
    try:
        lock.acquire(timeout=5)
    except OwnerDied:
        print(f"found {list(counters)} half written, repaired")  # the lock is held all the same
        counters[1] = counters[0]
    lock.release()
    with lock.hold():
        print(f"now {list(counters)}")
    counters.release()
