"""A small model checker for algorithms over atomics: every interleaving, with stores that become visible late.

An algorithm is written as one generator per thread that yields operations on shared variables and receives their
results. `explore` runs all schedules of the threads and of their store buffers, and raises `Violation` when an
assertion fails in a thread or in the final check, or when nobody can go on (a lost wake-up).

The model. A store enters the thread's buffer and leaves it at any later time; a relaxed store may overtake others of
different variables, a release store leaves only after everything before it. A thread sees its own stores at once. A
sequentially consistent read-modify-write, a fence, and a system call wait until the own buffer is empty. That is weaker
than x86 and, for stores, as weak as AArch64. A load may overtake loads before it where `explore` is told so (`early`):
it then gives any value that the variable had since the thread's last acquire, but none older than one it has seen. Every
other load is an acquire unless it says otherwise. What is not modelled: loads that overtake a relaxed read-modify-write
of another variable, and stores that overtake loads.

Why it ends: states are remembered, and a state is the memory, the buffers, and where each thread stands: the positions
and local variables of its generator and of those it delegates to. So threads must keep everything in local variables,
never a value on the evaluation stack across a yield (`x + (yield op)`). A thread's own stores enter its buffer without a
step of their own, since nobody sees that. Bounds are small on purpose.
"""

import functools
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

Value = int
Op = tuple[Any, ...]
Thread = Callable[[], Generator[Op, Value, None]]


def load(var: str, acquire: bool = True) -> Op:
    """Receive the value of a variable."""
    return ("load", var, acquire)


def store(var: str, value: Value, release: bool = False) -> Op:
    """Write a variable, relaxed or with release."""
    return ("store", var, value, release)


def rmw(var: str, change: Callable[[Value], Value], relaxed: bool = False) -> Op:
    """Change a variable atomically, receive the old value."""
    return ("rmw", var, change, relaxed)


def swap(var: str, value: Value, relaxed: bool = False) -> Op:
    """Exchange."""
    return rmw(var, lambda _: value, relaxed)


def fence() -> Op:
    """A sequentially consistent fence."""
    return ("fence",)


def take(var: str) -> Op:
    """Wait until a counter is positive and decrement it: a semaphore, a message that was sent."""
    return ("take", var)


def sleep(var: str, expected: Value) -> Op:
    """FUTEX_WAIT: return at once unless the variable holds `expected`, else sleep until woken."""
    return ("sleep", var, expected)


def wake(var: str) -> Op:
    """FUTEX_WAKE: all who sleep on the variable."""
    return ("wake", var)


def until(condition: Callable[[dict[str, Value], set[int]], bool]) -> Op:
    """Wait, polling, for a condition over memory and the threads known to be dead."""
    return ("until", condition)


def ghost(change: Callable[[dict[str, Value], set[int]], Value]) -> Op:
    """Look at and change memory in no time and without ordering anything: for assertions, not for algorithms."""
    return ("ghost", change)


def is_dead(thread: int) -> Op:
    """Ask the kernel: 1 when the thread was killed. What it had stored is visible by then."""
    return ghost(lambda memory, dead: thread in dead)


class Violation(AssertionError):
    """Some schedule breaks the algorithm; the text is that schedule."""


WOKEN = ""
Buffer = tuple[tuple[str, Value, bool], ...]  # (variable, value, release) in program order


class State(NamedTuple):
    memory: tuple[tuple[str, Value], ...]
    buffers: tuple[Buffer, ...]
    received: tuple[tuple[Value, ...], ...]  # per thread: what took it where it stands; the first way that was found
    asleep: tuple[str | None, ...]  # the variable that a thread sleeps on, WOKEN when its sleep is over
    killed: tuple[bool, ...]
    old: tuple[tuple[tuple[str, Value], ...], ...]  # per thread: (variable, value) that an early load may still give


def position(generator: Any) -> tuple[Any, ...]:
    """Where a suspended generator stands, with those it delegates to; all ended ones are alike."""
    frames = []
    while generator is not None and generator.gi_frame is not None:
        frame = generator.gi_frame
        frames.append((frame.f_code.co_name, frame.f_lasti, tuple(sorted(frame.f_locals.items()))))
        generator = generator.gi_yieldfrom
    return tuple(frames)


def replace(items: tuple, index: int, item: Any) -> tuple:
    return (*items[:index], item, *items[index + 1 :])


class Explorer:
    def __init__(
        self,
        threads: list[Thread],
        memory: dict[str, Value],
        final: Callable[[dict[str, Value]], None],
        mortal: tuple[int, ...],
        early: dict[int, set[str]],
    ) -> None:
        self.threads = threads
        self.final = final
        self.mortal = mortal
        self.early = early
        self.known: dict[tuple[int, tuple[Value, ...]], tuple[Op | None, tuple[Value, ...], Buffer]] = {}
        self.first_way: dict[Any, tuple[Value, ...]] = {}
        n = len(threads)
        self.start = State(tuple(sorted(memory.items())), (), (), (None,) * n, (False,) * n, ((),) * n)
        for thread in range(len(threads)):
            _, received, stores = self.go(thread, ())
            self.start = self.start._replace(
                buffers=(*self.start.buffers, stores), received=(*self.start.received, received)
            )

    def go(self, thread: int, received: tuple[Value, ...]) -> tuple[Op | None, tuple[Value, ...], Buffer]:
        """Let the thread receive these values and go on to its next operation that is not a store.

        Return the operation (None at the end), the values by which its position was reached first, and the stores.
        """
        key = (thread, received)
        if key not in self.known:
            generator = self.threads[thread]()
            stores: list[tuple[str, Value, bool]] = []
            given = list(received)
            try:
                op: Op | None = next(generator)
                for value in received:
                    op = generator.send(value)
                while op is not None and op[0] == "store":
                    stores.append(op[1:])
                    given.append(0)
                    op = generator.send(0)
            except StopIteration:
                op = None
            way = self.first_way.setdefault((thread, position(generator)), tuple(given))
            self.known[key] = op, way, tuple(stores)
            self.known.setdefault((thread, way), (op, way, ()))
            generator.close()
        return self.known[key]

    def next_op(self, thread: int, state: State) -> Op | None:
        """Return what the thread is about to do, None when it has ended."""
        return self.go(thread, state.received[thread])[0]

    def run(self) -> int:
        """Visit every reachable state; return how many there are."""
        came_from: dict[State, tuple[State, str] | None] = {self.start: None}
        todo = [self.start]
        while todo:
            state = todo.pop()
            try:
                steps = list(self.steps(state))
                if not steps:
                    self.check_end(state)
            except AssertionError as error:
                raise Violation(f"{error}\n" + "\n".join(self.path(state, came_from))) from None
            for label, successor in steps:
                if successor not in came_from:
                    came_from[successor] = (state, label)
                    todo.append(successor)
        return len(came_from)

    def path(self, state: State, came_from: dict[State, tuple[State, str] | None]) -> list[str]:
        labels = []
        while (origin := came_from[state]) is not None:
            state, label = origin
            labels.append(label)
        return labels[::-1]

    def check_end(self, state: State) -> None:
        stuck = [i for i, killed in enumerate(state.killed) if not killed and self.next_op(i, state) is not None]
        assert not stuck, f"threads {stuck} wait for ever"
        self.final(dict(state.memory))

    def steps(self, state: State):
        memory = dict(state.memory)
        for thread, buffer in enumerate(state.buffers):
            for i, (var, value, release) in enumerate(buffer):
                if i and (release or any(var == earlier for earlier, _, _ in buffer[:i])):
                    continue
                drained = replace(state.buffers, thread, buffer[:i] + buffer[i + 1 :])
                yield f"{thread}: {var}={value} becomes visible", state._replace(
                    memory=self.written(memory, var, value), buffers=drained, old=self.outdated(state, thread, var, memory[var])
                )
            op = self.next_op(thread, state)
            if op is None or state.killed[thread]:
                continue
            if thread in self.mortal:
                yield f"{thread}: killed", state._replace(killed=replace(state.killed, thread, True))
            if op[0] == "load" and state.old[thread]:
                yield from self.early_loads(state, thread, op[1])
            if not state.asleep[thread]:
                successor = self.perform(state, memory, thread, op)
                if successor is not None:
                    yield f"{thread}: {op[:3]}", successor

    def written(self, memory: dict[str, Value], var: str, value: Value) -> tuple[tuple[str, Value], ...]:
        return tuple(sorted((memory | {var: value}).items()))

    def outdated(self, state: State, writer: int, var: str, value: Value) -> tuple[tuple[tuple[str, Value], ...], ...]:
        """Return what early loads may give when this value of the variable is about to be overwritten."""
        return tuple(
            (*old, (var, value)) if thread != writer and var in self.early.get(thread, ()) else old
            for thread, old in enumerate(state.old)
        )

    def early_loads(self, state: State, thread: int, var: str):
        """The load was performed before others that precede it, when the variable still had an old value."""
        old = state.old[thread]
        for i, (name, value) in enumerate(old):
            if name == var:
                newer = tuple(entry for k, entry in enumerate(old) if entry[0] != var or k >= i)
                seen = replace(state.old, thread, newer)
                yield f"{thread}: early load of {var}, {value}", self.after(state, thread, value, old=seen)

    def after(self, state: State, thread: int, result: Value, **changes: Any) -> State:
        """Return the state after the thread has received the result of its operation and gone on to the next one."""
        _, way, stores = self.go(thread, (*state.received[thread], result))
        return state._replace(
            received=replace(state.received, thread, way),
            buffers=replace(state.buffers, thread, state.buffers[thread] + stores),
            **changes,
        )

    def perform(self, state: State, memory: dict[str, Value], thread: int, op: Op) -> State | None:
        """Return the state after the operation, None when it cannot happen now."""
        buffer = state.buffers[thread]
        after = functools.partial(self.after, state, thread)
        acquired = replace(state.old, thread, ())

        dead = {i for i, killed in enumerate(state.killed) if killed and not state.buffers[i]}
        match op:
            case ("ghost", change):
                changed = dict(memory)
                result = int(change(changed, dead))
                return after(result, memory=tuple(sorted(changed.items())))
            case ("until", condition):
                return after(0, old=acquired) if not buffer and condition(memory, dead) else None
            case ("load", var, acquire):
                own = [value for name, value, _ in buffer if name == var]
                old = state.old
                if var in self.early.get(thread, ()):
                    old = replace(old, thread, tuple(entry for entry in old[thread] if entry[0] != var))
                elif acquire:
                    old = acquired
                return after(own[-1] if own else memory[var], old=old)
            case ("rmw", var, change, relaxed):
                if any(name == var for name, _, _ in buffer) if relaxed else buffer:
                    return None
                changed = self.written(memory, var, change(memory[var]))
                return after(memory[var], memory=changed, old=state.old if relaxed else acquired)
        if buffer:  # all that follow wait for the own stores
            return None
        match op:
            case ("fence",):
                return after(0, old=acquired)
            case ("take", var):
                taken = self.written(memory, var, memory[var] - 1)
                return after(0, memory=taken, old=acquired) if memory[var] > 0 else None
            case ("sleep", var, expected):
                if memory[var] != expected or state.asleep[thread] == WOKEN:
                    return after(0, asleep=replace(state.asleep, thread, None))
                return state._replace(asleep=replace(state.asleep, thread, var))
            case ("wake", var):
                return after(0, asleep=tuple(WOKEN if name == var else name for name in state.asleep))
        raise ValueError(f"unknown operation {op}")


def explore(
    threads: list[Thread],
    memory: dict[str, Value],
    final: Callable[[dict[str, Value]], None] = lambda memory: None,
    mortal: tuple[int, ...] = (),
    early: dict[int, set[str]] | None = None,
) -> int:
    """Check all executions, those included in which the mortal threads are killed at any moment.

    early: per thread the variables, written by others with plain stores, whose loads are no acquires and may overtake
    loads before them that are none either. Return the number of states. Raises Violation.
    """
    return Explorer(threads, memory, final, mortal, early or {}).run()
