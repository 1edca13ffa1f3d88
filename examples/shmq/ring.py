"""Fixed-size records from a forked producer to its parent, through an unnamed ring that nothing can leak."""

import os
import struct

from shmq import PeerDied, Ring

RECORD = struct.Struct("<Qd")  # a number and a value

with Ring.create(1024, RECORD.size) as ring:
    if os.fork() == 0:
        with ring.producer() as tx:
            for i in range(10_000):
                tx.push(RECORD.pack(i, i / 2))
        os._exit(0)
    with ring.consumer() as rx:
        total = 0.0
        seen = 0
        while seen < 10_000:
            try:
                records = [rx.pop(timeout=5), *rx.pop_many(255)]
            except PeerDied as error:
                raise SystemExit(f"the producer is gone: {error}") from None
            for number, value in map(RECORD.unpack, records):
                assert number == seen
                seen += 1
                total += value
    os.wait()
    print(f"{seen} records, their sum is {total:.0f}")
