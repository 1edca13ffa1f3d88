"""How many small objects a second pass from one process to another: shmq.Queue, multiprocessing.Queue, faster-fifo.

    python examples/shmq/queue_speed.py [--rounds 5] [--seconds 0.5]

The queues take turns in every round, so that a machine that changes its speed changes it for all; the ratios are of
medians. Every object is checked. Producer and consumer are pinned to the first two allowed CPUs.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import shmq


def others() -> dict[str, Callable[[], Any]]:
    """The queues that are installed, by name."""
    made: dict[str, Callable[[], Any]] = {"shmq.Queue": shmq.Queue, "multiprocessing.Queue": multiprocessing.Queue}
    try:
        import faster_fifo
    except ImportError:
        print("faster-fifo is not installed: left out")
    else:
        made["faster-fifo"] = lambda: faster_fifo.Queue(1 << 20)
    return made


def produce(queue: Any, count: int, cpu: int) -> None:
    """Put numbered objects of about 32 bytes."""
    os.sched_setaffinity(0, {cpu})
    for i in range(count):
        queue.put((i, "a small object"))


def rate(make: Callable[[], Any], count: int) -> float:
    """Objects per second, from the first that arrives to the last."""
    cpus = sorted(os.sched_getaffinity(0))
    queue = make()
    producer = multiprocessing.get_context("fork").Process(target=produce, args=(queue, count + 1, cpus[0]))
    producer.start()
    os.sched_setaffinity(0, {cpus[-1]})
    assert queue.get(timeout=10) == (0, "a small object")
    began = time.perf_counter()
    for i in range(1, count + 1):
        assert queue.get(timeout=10) == (i, "a small object")
    took = time.perf_counter() - began
    os.sched_setaffinity(0, cpus)
    producer.join()
    if hasattr(queue, "close"):
        queue.close()
    return count / took


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare queues of objects.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="about this long per queue and round")
    args = parser.parse_args()
    makers = others()
    counts = {name: max(1000, int(rate(make, 2000) * args.seconds)) for name, make in makers.items()}
    rates: dict[str, list[float]] = {name: [] for name in makers}
    for i in range(args.rounds):
        for name in makers if i % 2 == 0 else reversed(makers):
            rates[name].append(rate(makers[name], counts[name]))
    own = statistics.median(rates["shmq.Queue"])
    for name, values in rates.items():
        middle = statistics.median(values)
        print(f"{name:24}{middle:12,.0f} objects/s   shmq is {own / middle:5.1f} times as fast")


if __name__ == "__main__":
    main()
