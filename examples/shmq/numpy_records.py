"""Structured arrays through a ring: the producer fills shared slots in place, the consumer computes on them in place."""

import os

import numpy as np

from shmq import Ring

SAMPLE = np.dtype([("time", "<f8"), ("channel", "<u4"), ("value", "<f4")])
COUNT = 5000

with Ring.create(256, dtype=SAMPLE) as ring:
    if os.fork() == 0:
        with ring.producer() as tx:
            sent = 0
            while sent < COUNT:
                slots = tx.reserve(min(64, COUNT - sent))  # an array of the free slots themselves
                n = len(slots)
                slots["time"] = np.arange(sent, sent + n)
                slots["channel"] = 1
                slots["value"] = 0.5
                del slots  # commit raises BufferError while a view is alive
                tx.commit(n)
                sent += n
                if n == 0:
                    os.sched_yield()
        os._exit(0)
    total, seen = 0.0, 0
    with ring.consumer() as rx:
        while seen < COUNT:
            samples = rx.peek(256)
            n = len(samples)
            total += float(samples["value"].sum())
            assert n == 0 or samples["time"][0] == seen
            del samples
            rx.release(n)
            seen += n
            if n == 0:
                os.sched_yield()
    os.wait()
    print(f"{seen} samples, their values add up to {total:.0f}")
