"""queue.h under every interleaving, with bugs planted that must be found, and with a holder of a mutex killed at any step.

Several producers and consumers; a line of the ring is one variable and holds 10 * the message's number + its lines, so
that a stale, torn or doubled message is noticed. Waiting for a mutex is polling here (mutex.h looks again after 20 ms, and
its sleeping is that of lock.h); waiting for a message or for room, with the mutex held, is a sleep on the side's cell, and
polling where somebody may die. The fence of the waker is not among the bugs: the mutex that it gave up is one as well.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from tests.shmq.interleave import Op, Violation, explore, ghost, is_dead, load, rmw, store, swap, until
from tests.shmq.test_interleavings import Steps, wait_until_not, wake_other


class Case(NamedTuple):
    size: int  # lines
    puts: tuple[tuple[int, ...], ...]  # per producer: the lines of its messages
    gets: tuple[int, ...]  # per consumer: how many messages it takes
    bug: str = ""
    mortal: tuple[int, ...] = ()

    @property
    def producers(self) -> range:
        return range(len(self.puts))

    @property
    def consumers(self) -> range:
        return range(len(self.puts), len(self.puts) + len(self.gets))


def inherit(lock: str, owner: int, me: int) -> Op:
    return rmw(lock, lambda now: me + 1 if now == owner else now)


def take(side: str, me: int, case: Case) -> Steps:
    """shmq_mutex_acquire, and shmq_queue_mend after a death."""
    while True:
        yield until(lambda memory, dead: not memory[f"{side}.lock"] or memory[f"{side}.lock"] - 1 in dead)
        owner = yield rmw(f"{side}.lock", lambda now: now or me + 1)
        if not owner:
            return
        if (yield is_dead(owner - 1)):
            was = yield inherit(f"{side}.lock", owner, me)
            if was == owner:
                break
    cursor = yield load(f"{side}.cursor")
    planned = yield load(f"{side}.next_cursor")
    if case.bug != "nobody mends" and (cursor == planned or case.bug == "mended though not published"):
        items = yield load(f"{side}.next_items")
        yield store(f"{side}.items", items)


def got(number: int) -> Op:
    """A ghost: a bit per message that a consumer took out."""

    def account(memory: dict[str, int], dead: set[int]) -> int:
        assert not memory["got"] >> number & 1, f"message {number} comes twice"
        memory["got"] |= 1 << number
        return 0

    return ghost(account)


ORDERS = {
    "": ("next_cursor", "next_items", "cursor", "items"),
    "plan written after the cursor": ("cursor", "next_cursor", "next_items", "items"),
    "count planned before the cursor": ("next_items", "next_cursor", "cursor", "items"),
    "counted before it is published": ("next_cursor", "next_items", "items", "cursor"),
}


def publish(side: str, cursor: int, number: int, case: Case) -> Steps:
    """shmq_queue_publish for one message."""
    items = yield load(f"{side}.items")
    for word in ORDERS.get(case.bug, ORDERS[""]):
        ordered = word in ("cursor", "items") and case.bug != f"{side} is published relaxed"
        yield store(f"{side}.{word}", cursor if "cursor" in word else items + 1, release=ordered)
        if side == "get" and word == "cursor":
            yield got(number)
        elif case.mortal:
            yield ghost(lambda memory, dead: 0)  # a step of its own, so that a kill can fall between two stores


def ended(me: int) -> Op:
    return ghost(lambda memory, dead: memory.update(ended=memory["ended"] | 1 << me) or 0)


def gone(threads: Iterable[int], memory: dict[str, int], dead: set[int]) -> bool:
    """Whether these threads have ended, or are dead."""
    return all(i in dead or memory["ended"] >> i & 1 for i in threads)


def producer(me: int, case: Case) -> Steps:
    for i, lines in enumerate(case.puts[me]):
        number = 4 * me + i
        yield from take("put", me, case)
        cursor = yield load("put.cursor")
        head = yield load("put.seen")
        if case.size - (cursor - head) < lines:
            head = yield load("get.cursor")
            while case.size - (cursor - head) < lines:
                head = yield from wait_until_not("producer_cell", "get.cursor", head, case.bug)
            yield store("put.seen", head)
        if case.bug == "published before the data":
            yield from publish("put", cursor + lines, number, case)
        for k in range(lines):
            yield store(f"line{(cursor + k) % case.size}", 10 * number + lines)
        if case.bug != "published before the data":
            yield from publish("put", cursor + lines, number, case)
        yield swap("put.lock", 0)
        yield from wake_other("consumer_cell", case.bug)
    yield ended(me)


def consumer(me: int, case: Case) -> Steps:
    for _ in range(case.gets[me - len(case.puts)]):
        yield from take("get", me, case)
        head = yield load("get.cursor")
        tail = yield load("get.seen")
        if tail == head:
            tail = yield load("put.cursor", acquire=case.bug != "no acquire of tail")
            if tail == head and case.mortal:
                yield until(lambda memory, dead, head=head: memory["put.cursor"] != head or gone(case.producers, memory, dead))
                tail = yield load("put.cursor")
            elif tail == head:
                tail = yield from wait_until_not("consumer_cell", "put.cursor", head, case.bug)
            yield store("get.seen", tail)
        if head != tail:
            yield from get_one(head, tail, case)
        yield swap("get.lock", 0)
        yield from wake_other("producer_cell", case.bug)
    yield ended(me)


def get_one(head: int, tail: int, case: Case) -> Steps:
    """shmq_queue_look, the copy, and shmq_queue_get_done."""
    message = yield load(f"line{head % case.size}")
    lines = message % 10
    assert 0 < lines <= tail - head <= case.size, f"message {message} between {head} and {tail}"
    if case.bug == "taken out before the copy":
        yield from publish("get", head + lines, message // 10, case)
    for i in range(1, lines):
        line = yield load(f"line{(head + i) % case.size}")
        assert line == message, f"a line of message {message} holds {line}"
    if case.bug != "taken out before the copy":
        yield from publish("get", head + lines, message // 10, case)


def heir(me: int, case: Case) -> Steps:
    """Takes out what is there once the others have ended or died, and looks whether everything adds up."""
    yield until(lambda memory, dead: gone((*case.producers, *case.consumers), memory, dead))
    yield from take("put", me, case)
    yield from take("get", me, case)
    tail = yield load("put.cursor")
    head = yield load("get.cursor")
    while head < tail:
        yield from get_one(head, tail, case)
        head = yield load("get.cursor")
    puts = yield load("put.items")
    gets = yield load("get.items")
    got = yield load("got")
    lost = puts - got.bit_count()
    assert puts == gets, f"{puts} puts, {gets} gets"
    assert 0 <= lost <= len(set(case.consumers) & set(case.mortal)), f"{lost} messages were lost"


def check(case: Case) -> int:
    words = ("lock", "cursor", "items", "next_cursor", "next_items", "seen")
    memory = {f"{side}.{word}": 0 for side in ("put", "get") for word in words}
    lines = {f"line{i}": 0 for i in range(case.size)}
    memory |= {"consumer_cell": 0, "producer_cell": 0, "got": 0, "ended": 0} | lines
    threads: list[Any] = [lambda me=me: producer(me, case) for me in case.producers]
    threads += [lambda me=me: consumer(me, case) for me in case.consumers]
    if case.mortal:
        threads.append(lambda: heir(len(threads) - 1, case))

    def end(memory: dict[str, int]) -> None:
        total = sum(map(len, case.puts))
        assert case.mortal or memory["put.items"] == memory["get.items"] == memory["got"].bit_count() == total
        assert memory["put.cursor"] == memory["get.cursor"]

    return explore(threads, memory, end, case.mortal, {i: set(lines) for i in range(len(case.puts), len(threads))})


@pytest.mark.parametrize(
    ("size", "puts", "gets"),
    [(1, [(1, 1)], [2]), (2, [(1, 2, 2)], [3]), (4, [(3, 1, 2)], [3]), (2, [(1,), (2,)], [2]), (1, [(1, 1)], [1, 1])],
)
def test_queue(size: int, puts: list[tuple[int, ...]], gets: list[int]) -> None:
    assert check(Case(size, tuple(puts), tuple(gets))) > 100


@pytest.mark.parametrize(
    "bug",
    [
        "published before the data",
        "put is published relaxed",
        "no acquire of tail",
        "taken out before the copy",
        "no fence in announce",
        "no futex wake",
    ],
)
def test_queue_bugs_are_found(bug: str) -> None:
    with pytest.raises(Violation):
        check(Case(2, ((2, 2, 1),), (3,), bug))


# ---- deaths: a producer, a consumer, or one of each


@pytest.mark.parametrize(
    ("puts", "gets", "mortal"), [([(1, 2)], [], [0]), ([(1,), (1,)], [], [0]), ([(1, 1)], [1], [1]), ([(1,)], [1], [0, 1])]
)
def test_deaths_at_any_step(puts: list[tuple[int, ...]], gets: list[int], mortal: list[int]) -> None:
    assert check(Case(4, tuple(puts), tuple(gets), mortal=tuple(mortal))) > 100


@pytest.mark.parametrize(
    "bug",
    [
        "nobody mends",
        "mended though not published",
        "plan written after the cursor",
        "count planned before the cursor",
        "counted before it is published",
    ],
)
@pytest.mark.parametrize("mortal", [0, 1])
def test_death_bugs_are_found(bug: str, mortal: int) -> None:
    with pytest.raises(Violation):
        check(Case(4, ((1, 1),), (1,), bug, (mortal,)))
