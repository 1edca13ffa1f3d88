"""Several workers, started by spawn, take jobs from one queue and put results into another."""

import multiprocessing

from shmq import Queue


def worker(jobs: Queue, results: Queue) -> None:
    """Square numbers until told to stop."""
    while (job := jobs.get()) is not None:
        results.put((job, job * job))


def main() -> None:
    with Queue(maxsize=100) as jobs, Queue() as results:
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=worker, args=(jobs, results)) for _ in range(2)]
        for process in workers:
            process.start()
        for number in range(1000):
            jobs.put(number)
        for _ in workers:
            jobs.put(None)
        squares = dict(results.get(timeout=60) for _ in range(1000))
        for process in workers:
            process.join()
    print(f"{len(squares)} squares, the last is {squares[999]}")


if __name__ == "__main__":
    main()
