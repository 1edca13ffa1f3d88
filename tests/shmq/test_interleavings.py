"""The algorithms of the C headers under every interleaving, and with bugs planted that must be found.

Each model follows its header line by line (ring.h with wait.h, fifo.h, lock.h); a `bug` names the line that is changed.
Timeouts and periodic re-checks are left out: they would hide a lost wake-up, which shows here as threads that wait for
ever.
"""

from collections.abc import Generator

import pytest

from tests.shmq.interleave import (
    Op,
    Violation,
    explore,
    fence,
    ghost,
    is_dead,
    load,
    rmw,
    sleep,
    store,
    swap,
    take,
    until,
    wake,
)

Steps = Generator[Op, int, None]
Answer = Generator[Op, int, int]


# ---- ring.h and wait.h: both ends sleep when they can


def wait_until_not(cell: str, var: str, value: int, bug: str) -> Answer:
    """shmq_cell_wait with the strategy park: return a value of `var` other than `value`."""
    while True:
        yield store(cell, 1)
        if bug != "no fence in announce":
            yield fence()
        seen = yield load(var)
        if seen == value:
            yield sleep(cell, 1)
        yield store(cell, 0)
        seen = yield load(var, acquire=bug != "no acquire of tail")
        if seen != value:
            return seen


def wake_other(cell: str, bug: str) -> Steps:
    """shmq_cell_wake."""
    if bug != "no fence in wake":
        yield fence()
    parked = yield load(cell)
    if parked:
        was = yield swap(cell, 0, relaxed=True)
        if was and bug != "no futex wake":
            yield wake(cell)


def producer(count: int, capacity: int, bug: str) -> Steps:
    head = 0
    for tail in range(count):
        if tail - head == capacity:
            head = yield load("head")
            if tail - head == capacity:
                head = yield from wait_until_not("producer_cell", "head", head, bug)
        slot = f"slot{tail % capacity}"
        if bug == "published before the data":
            yield store("tail", tail + 1, release=True)
            yield store(slot, tail + 100)
        else:
            yield store(slot, tail + 100)
            yield store("tail", tail + 1, release=bug != "publish is relaxed")
        yield from wake_other("consumer_cell", bug)


def consumer(count: int, capacity: int, bug: str) -> Steps:
    tail = 0
    for head in range(count):
        if tail == head:
            tail = yield load("tail", acquire=bug != "no acquire of tail")
            if tail == head:
                tail = yield from wait_until_not("consumer_cell", "tail", head, bug)
        assert head < tail <= head + capacity
        if bug == "released before the read":
            yield store("head", head + 1, release=True)
        value = yield load(f"slot{head % capacity}")
        assert value == head + 100, f"record {head} holds {value}"
        if bug != "released before the read":
            yield store("head", head + 1, release=True)
        yield from wake_other("producer_cell", bug)


def ring(capacity: int, count: int, bug: str) -> int:
    slots = {f"slot{i}": 0 for i in range(capacity)}
    memory = {"head": 0, "tail": 0, "producer_cell": 0, "consumer_cell": 0} | slots
    threads = [lambda: producer(count, capacity, bug), lambda: consumer(count, capacity, bug)]
    return explore(threads, memory, lambda end: assert_equal(end["tail"], end["head"], count), early={1: set(slots)})


def assert_equal(*values: int) -> None:
    assert len(set(values)) == 1, values


@pytest.mark.parametrize(("capacity", "count"), [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4)])
def test_ring(capacity: int, count: int) -> None:
    assert ring(capacity, count, bug="") > 50


@pytest.mark.parametrize(
    "bug",
    [
        "publish is relaxed",
        "published before the data",
        "no acquire of tail",
        "released before the read",
        "no fence in announce",
        "no fence in wake",
        "no futex wake",
    ],
)
def test_ring_bugs_are_found(bug: str) -> None:
    with pytest.raises(Violation):
        ring(1, 3, bug)


# ---- fifo.h: the event flag, and `want`; messages between the ends are semaphores


def fifo_writer(count: int, size: int, want: int, bug: str) -> Steps:
    tail, head = 0, 0
    while tail < count:
        free = size - (tail - head)
        if free == 0:
            yield store("want", want)
            if bug != "no fence in want":
                yield fence()
            head = yield load("head")
            asked = True
            if size - (tail - head) >= want:
                asked = not (yield swap("want", 0, relaxed=True))
            if asked:
                yield take("to_writer")
                head = yield load("head")
            continue
        tail += 1
        if bug == "event before tail":
            event = yield swap("event", 1)
            yield store("tail", tail, release=True)
        else:
            yield store("tail", tail, release=True)
            event = yield swap("event", 1)
        if not event:
            yield rmw("to_reader", lambda n: n + 1)


def fifo_reader(count: int, size: int, bug: str) -> Steps:
    head = 0
    while head < count:
        yield take("to_reader")
        if bug == "tail before clear":
            tail = yield load("tail")
            yield swap("event", 0)
        else:
            yield swap("event", 0)
            tail = yield load("tail")
        assert head <= tail <= head + size
        while head < tail:
            head += 1
            yield store("head", head, release=True)
            if bug != "no fence in wanted":
                yield fence()
            want = yield load("want")
            if want:
                now = yield load("tail")
                if size - (now - head) >= want and (yield swap("want", 0, relaxed=True)):
                    yield rmw("to_writer", lambda n: n + 1)


def fifo(count: int, size: int, want: int, bug: str) -> int:
    memory = {"head": 0, "tail": 0, "event": 0, "want": 0, "to_reader": 0, "to_writer": 0}
    threads = [lambda: fifo_writer(count, size, want, bug), lambda: fifo_reader(count, size, bug)]
    return explore(threads, memory, lambda end: assert_equal(end["head"], end["tail"], count))


@pytest.mark.parametrize(("count", "size", "want"), [(2, 1, 1), (3, 1, 1), (4, 2, 1), (4, 2, 2), (5, 3, 2)])
def test_fifo(count: int, size: int, want: int) -> None:
    assert fifo(count, size, want, bug="") > 50


@pytest.mark.parametrize("bug", ["no fence in want", "no fence in wanted", "event before tail", "tail before clear"])
def test_fifo_bugs_are_found(bug: str) -> None:
    with pytest.raises(Violation, match="for ever"):
        fifo(4, 2, 1, bug)


# ---- lock.h: the read-write lock with sleeping waiters

WRITE, READERS = 64, 63


def rw_wake(bug: str) -> Steps:
    waiters = yield load("waiters")
    if waiters:
        if bug == "flag cleared last":
            yield rmw("wake_seq", lambda n: n + 1)
            yield swap("waiters", 0)
        else:
            yield swap("waiters", 0)
            yield rmw("wake_seq", lambda n: n + 1)
        yield wake("wake_seq")


def rw_pause(var: str, mask: int, bug: str) -> Steps:
    while (yield load(var)) & mask:
        if bug == "flag before sequence":
            yield store("waiters", 1)
            yield fence()
            seq = yield load("wake_seq")
        else:
            seq = yield load("wake_seq")
            yield store("waiters", 1)
            if bug != "flag not sequentially consistent":
                yield fence()
        if (yield load(var)) & mask:
            yield sleep("wake_seq", seq)


def enter(amount: int, alone: bool) -> Steps:
    """A ghost: who is inside, counted without ordering anything."""
    inside = yield rmw("inside", lambda n: n + amount, relaxed=True)
    assert inside == 0 if alone else inside < 10, "a writer is not alone"
    yield rmw("inside", lambda n: n - amount, relaxed=True)


def reader(bit: int, bug: str) -> Steps:
    if bug == "reader looks before it sets its bit":
        yield from rw_pause("word", WRITE, "")
        yield rmw("word", lambda w: w | bit)
    else:
        while (yield rmw("word", lambda w: w | bit)) & WRITE:
            yield rmw("word", lambda w: w & ~bit)
            yield from rw_wake(bug)
            yield from rw_pause("word", WRITE, bug)
    yield from enter(1, alone=False)
    yield rmw("word", lambda w: w & ~bit)
    yield from rw_wake(bug)


def writer(slot: int, bug: str) -> Steps:
    while (yield rmw("writer", lambda w: w or slot)):
        yield from rw_pause("writer", 255, bug)
    word = yield rmw("word", lambda w: w | WRITE)
    if word & READERS and bug != "writer does not wait for readers":
        yield from rw_pause("word", READERS, bug)
    yield from enter(10, alone=True)
    if bug == "writer cleared before WRITE":
        yield swap("writer", 0)
        yield rmw("word", lambda w: w & ~WRITE)
    else:
        yield rmw("word", lambda w: w & ~WRITE)
        yield swap("writer", 0)
    if bug != "no wake":
        yield from rw_wake(bug)


def rwlock(readers: int, writers: int, bug: str) -> int:
    memory = {"word": 0, "writer": 0, "waiters": 0, "wake_seq": 0, "inside": 0}
    threads = [lambda bit=1 << i: reader(bit, bug) for i in range(readers)]
    threads += [lambda slot=i + 1: writer(slot, bug) for i in range(writers)]
    return explore(threads, memory, lambda end: assert_equal(end["word"], end["writer"], end["inside"], 0))


@pytest.mark.parametrize(("readers", "writers"), [(1, 1), (0, 2), (2, 1), (1, 2), (0, 3)])
def test_rwlock(readers: int, writers: int) -> None:
    assert rwlock(readers, writers, bug="") > 100


@pytest.mark.parametrize(
    ("bug", "readers", "writers"),
    [
        ("reader looks before it sets its bit", 1, 1),
        ("writer does not wait for readers", 1, 1),
        ("writer cleared before WRITE", 1, 2),
        ("no wake", 0, 2),
        ("flag not sequentially consistent", 0, 2),
        ("flag before sequence", 0, 3),
        ("flag cleared last", 0, 3),
    ],
)
def test_rwlock_bugs_are_found(bug: str, readers: int, writers: int) -> None:
    with pytest.raises(Violation):
        rwlock(readers, writers, bug)


# ---- lock.h: a holder is killed at any step, and whoever cleans up, too. Waiting is polling here (it is bounded by the
# 20 ms after which a waiter looks for deaths); a slot's token is the thread's number plus one.

DIED = 128


def others_to_look_at(memory: dict[str, int], me: int) -> list[int]:
    """shmq_rw_check_deaths: the slots of the writer and of the readers, but the own."""
    named = [memory["writer"] - 1] if memory["writer"] else []
    return [i for i in named + [i for i in range(3) if memory["word"] & 1 << i] if i != me]


def mortal_pause(var: str, mask: int, me: int, bug: str) -> Steps:
    while True:
        yield until(
            lambda memory, dead: not memory[var] & mask
            or any(memory[f"slot{i}"] - 1 in dead for i in others_to_look_at(memory, me))
        )
        if not (yield load(var)) & mask:
            return
        writer_slot = yield load("writer")
        if writer_slot and writer_slot - 1 != me:
            yield from reap(writer_slot - 1, me, bug)
        for i in range(3):
            bits = yield load("word")
            if bits & 1 << i and i != me:
                yield from reap(i, me, bug)


def reap(i: int, me: int, bug: str) -> Steps:
    """shmq_rw_reap_slot."""
    token = yield load(f"slot{i}")
    if not token or not (yield is_dead(token - 1)):
        return
    if bug != "cleaners do not exclude each other":
        was = yield rmw(f"slot{i}", lambda now: me + 1 if now == token else now)
        if was != token:
            return
    yield rmw("word", lambda w: w & ~(1 << i))
    if (yield load("writer")) == i + 1:
        if bug == "writer freed before WRITE is cleared":
            yield swap("writer", 0)
        if bug != "the death is not marked":
            yield rmw("word", lambda w: w | DIED, relaxed=True)
        yield rmw("word", lambda w: w & ~WRITE)
        yield store("writer", 0, release=True)
    yield store(f"slot{i}", 0, release=True)


def work(me: int, told: int, writes: bool) -> Steps:
    """What a holder does: `inside` and `torn` are ghosts, that is, the truth."""

    def enter(memory: dict[str, int], dead: set[int]) -> bool:
        living = memory["inside"] & ~sum((1 << i) + (8 << i) for i in dead)
        assert living == 0 if writes else living < 8, "a writer is not alone"
        assert told or not memory["torn"], "half-written data, and nobody said so"
        memory["inside"] |= (8 if writes else 1) << me
        memory["torn"] = int(writes or memory["torn"])
        return False

    def leave(memory: dict[str, int], dead: set[int]) -> bool:
        memory["inside"] &= ~((8 if writes else 1) << me)
        if writes:
            memory["torn"] = 0
        return False

    yield ghost(enter)
    yield ghost(leave)


def mortal_reader(me: int, bug: str) -> Steps:
    word = yield rmw("word", lambda w: w | 1 << me)
    while word & WRITE:
        yield rmw("word", lambda w: w & ~(1 << me))
        yield from mortal_pause("word", WRITE, me, bug)
        word = yield rmw("word", lambda w: w | 1 << me)
    if word & DIED and bug == "a reader takes the report away":
        yield rmw("word", lambda w: w & ~DIED)
    yield from work(me, word & DIED, writes=False)
    yield rmw("word", lambda w: w & ~(1 << me))


def mortal_writer(me: int, bug: str) -> Steps:
    while (yield rmw("writer", lambda w: w or me + 1)):
        yield from mortal_pause("writer", 255, me, bug)
    word = yield rmw("word", lambda w: w | WRITE)
    if word & READERS:
        yield from mortal_pause("word", READERS, me, bug)
        word = yield load("word")
    if word & DIED:
        yield rmw("word", lambda w: w & ~DIED, relaxed=True)
    yield from work(me, word & DIED, writes=True)
    yield rmw("word", lambda w: w & ~WRITE)
    yield swap("writer", 0)


def mortal_rwlock(roles: str, mortal: tuple[int, ...], bug: str = "") -> int:
    """roles: a letter per thread, r or w."""
    memory = {"word": 0, "writer": 0, "inside": 0, "torn": 0} | {f"slot{i}": i + 1 for i in range(3)}
    threads = [
        lambda me=me, role=role: (mortal_reader if role == "r" else mortal_writer)(me, bug) for me, role in enumerate(roles)
    ]
    return explore(threads, memory, mortal=mortal)


@pytest.mark.parametrize("roles", ["rw", "wr", "ww", "wrr", "wrw", "www", "rww", "rrw"])
def test_one_death_at_any_step(roles: str) -> None:
    assert mortal_rwlock(roles, mortal=(0,)) > 100


@pytest.mark.parametrize("roles", ["wwr", "www", "wrw", "rww"])
def test_the_cleaner_dies_as_well(roles: str) -> None:
    assert mortal_rwlock(roles, mortal=(0, 1)) > 1000


@pytest.mark.parametrize(
    ("bug", "roles", "mortal"),
    [
        ("the death is not marked", "wr", (0,)),
        ("a reader takes the report away", "wrr", (0,)),
        ("writer freed before WRITE is cleared", "wwr", (0, 1)),
        ("cleaners do not exclude each other", "www", (0,)),
    ],
)
def test_death_bugs_are_found(bug: str, roles: str, mortal: tuple[int, ...]) -> None:
    with pytest.raises(Violation):
        mortal_rwlock(roles, mortal, bug)


def test_a_violation_tells_the_schedule() -> None:
    with pytest.raises(Violation, match=r"0: tail=1 becomes visible"):
        ring(1, 1, "publish is relaxed")
