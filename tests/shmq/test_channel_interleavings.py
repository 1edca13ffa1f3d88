"""channel.h under every interleaving, with bugs planted that must be found, and with a producer killed at any step.

The buffer is a few words of 8 bytes. A header word is (kind, payload words), a payload word names its message, so that a
stale, torn or misplaced one is noticed.
"""

from itertools import accumulate

import pytest

from tests.shmq.interleave import Op, Violation, explore, load, store, until
from tests.shmq.test_interleavings import Steps, assert_equal, wait_until_not, wake_other

MSG, SKIP = 1000, 2000


def lay(tail: int, capacity: int, words: int) -> tuple[int, int, int]:
    """shmq_message_lay: return kind, first word of the payload, and span."""
    at = tail % capacity
    if words <= capacity - at - 1:
        return MSG, at + 1, 1 + words
    return SKIP, 0, capacity - at + words


def tails(capacity: int, messages: tuple[int, ...]) -> tuple[int, ...]:
    """Return the cursor before each message and behind the last."""
    return tuple(accumulate(messages, lambda tail, words: tail + lay(tail, capacity, words)[2], initial=0))


def write(tail: int, capacity: int, words: int, number: int, bug: str) -> tuple[Op, ...]:
    """shmq_channel_seal and the copy before it: the stores of one message, the header where the bug has it."""
    kind, first, _ = lay(tail, capacity, words)
    if bug == "SKIP missing":
        kind = MSG
    payload = (store(f"w{first + i}", 100 + number) for i in range(words))
    return (*payload, store(f"w{tail % capacity}", kind + words))


def producer(capacity: int, messages: tuple[int, ...], bug: str, first: int = 0) -> Steps:
    tail = tails(capacity, messages)[first]
    head = yield load("head")
    for number in range(first, len(messages)):
        words = messages[number]
        span = lay(tail, capacity, words)[2]
        needed = words + 1 if bug == "skipped words need no room" else span
        while capacity - (tail - head) < needed:
            seen = head
            head = yield load("head")
            if head == seen:
                head = yield from wait_until_not("producer_cell", "head", head, bug)
        publish = store("tail", tail + span, release=bug != "publish is relaxed")
        stores = write(tail, capacity, words, number, bug)
        if bug == "header after tail":
            ops = (*stores[:-1], publish, stores[-1])
        elif bug == "published in two steps":
            ops = (stores[-1], store("tail", tail + span - words, release=True), *stores[:-1], publish)
        else:
            ops = (*stores, publish)
        for op in ops:
            yield op
            if bug == "published in two steps":
                yield load("head")  # a step of its own, so that a kill can fall between the two
        tail += span
        yield from wake_other("consumer_cell", bug)


def consumer(capacity: int, messages: tuple[int, ...], bug: str) -> Steps:
    tail, head = 0, 0
    for number in range(len(messages)):
        if tail == head:
            tail = yield load("tail", acquire=bug != "no acquire of tail")
            if tail == head:
                tail = yield from wait_until_not("consumer_cell", "tail", head, bug)
        header = yield load(f"w{head % capacity}")
        kind, words = header // 1000 * 1000, header % 1000
        straight = capacity - head % capacity - 1
        assert kind == SKIP or (kind == MSG and words <= straight), f"message {number}: header {header} at {head}"
        span = words + (1 if kind == MSG else straight + 1)
        assert span <= tail - head, f"message {number} ends behind the tail"
        if bug == "released before the read":
            yield store("head", head + span, release=True)
        for i in range(words):
            value = yield load(f"w{(head % capacity + 1 if kind == MSG else 0) + i}")
            assert value == 100 + number, f"message {number} holds {value}"
        assert words == messages[number]
        head += span
        if bug != "released before the read":
            yield store("head", head, release=True)
        yield from wake_other("producer_cell", bug)


def shared(capacity: int) -> dict[str, int]:
    cursors = {"head": 0, "tail": 0, "producer_cell": 0, "consumer_cell": 0}
    return cursors | {f"w{i}": 0 for i in range(capacity)}


def channel(capacity: int, messages: tuple[int, ...], bug: str = "") -> int:
    end = tails(capacity, messages)[-1]
    threads = [lambda: producer(capacity, messages, bug), lambda: consumer(capacity, messages, bug)]
    words = {f"w{i}" for i in range(capacity)}
    return explore(threads, shared(capacity), lambda final: assert_equal(final["head"], final["tail"], end), early={1: words})


@pytest.mark.parametrize(
    ("capacity", "messages"),
    [(2, (1, 0, 1)), (2, (0, 1, 0, 1)), (4, (2, 2, 2)), (4, (1, 0, 2, 1)), (4, (2, 1, 2, 0)), (4, (0, 0, 2, 1, 2))],
)
def test_channel(capacity: int, messages: tuple[int, ...]) -> None:
    assert channel(capacity, messages) > 100


@pytest.mark.parametrize(
    "bug",
    [
        "publish is relaxed",
        "no acquire of tail",
        "header after tail",
        "SKIP missing",
        "skipped words need no room",
        "released before the read",
        "no fence in announce",
        "no fence in wake",
        "no futex wake",
    ],
)
def test_channel_bugs_are_found(bug: str) -> None:
    with pytest.raises(Violation):
        channel(4, (0, 0, 2, 2, 1, 2), bug)


# ---- the producer is killed at any step, another one goes on


def successor(capacity: int, messages: tuple[int, ...], bug: str) -> Steps:
    yield until(lambda memory, dead: 0 in dead or memory["tail"] == tails(capacity, messages)[-1])
    tail = yield load("tail")  # shmq_channel_producer_bind
    yield store("producer_cell", 0)
    starts = tails(capacity, messages)
    assert tail in starts, f"the tail {tail} is inside a message"
    yield from producer(capacity, messages, bug, first=starts.index(tail))


def inherited(capacity: int, messages: tuple[int, ...], bug: str = "") -> int:
    threads = [
        lambda: producer(capacity, messages, bug),
        lambda: patient_consumer(capacity, messages, bug),
        lambda: successor(capacity, messages, bug),
    ]
    end = tails(capacity, messages)[-1]
    return explore(
        threads, shared(capacity), lambda final: assert_equal(final["head"], final["tail"], end), mortal=(0,)
    )


def patient_consumer(capacity: int, messages: tuple[int, ...], bug: str) -> Steps:
    """A waker killed between its publish and its wake leaves a sleeper to its time slice: here, to polling."""
    head = 0
    for number in range(len(messages)):
        yield until(lambda memory, _, seen=head: memory["tail"] != seen)
        tail = yield load("tail")
        header = yield load(f"w{head % capacity}")
        kind, words = header // 1000 * 1000, header % 1000
        assert kind in (MSG, SKIP) and words == messages[number], f"message {number}: header {header}"
        _, first, span = lay(head, capacity, words)
        assert span <= tail - head, f"message {number} is not whole"
        for i in range(words):
            value = yield load(f"w{first + i}")
            assert value == 100 + number, f"message {number} holds {value}"
        head += span
        yield store("head", head, release=True)
        yield from wake_other("producer_cell", bug)


@pytest.mark.parametrize(("capacity", "messages"), [(2, (1, 1)), (4, (1, 2)), (4, (2, 1, 2))])
def test_a_killed_producer_leaves_nothing_half_done(capacity: int, messages: tuple[int, ...]) -> None:
    assert inherited(capacity, messages) > 100


def test_a_message_published_in_two_steps_is_found() -> None:
    with pytest.raises(Violation, match=r"inside a message|not whole|holds"):
        inherited(4, (2, 1), "published in two steps")
