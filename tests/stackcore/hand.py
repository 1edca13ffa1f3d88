"""The core, played by hand: a real app worker of the C library on one side, a test on the other.

The segment is laid out as the core lays it out and lives in memory that forked children share; the test writes events
into the worker's ring and bytes into its sessions' fifos, and reads what the worker says. Only the calls that wait for
an answer (listen, unlisten) need somebody who answers at the same time: a forked child does (:meth:`Hand.answering`).
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Self

import numpy as np

import stackcore.vcl.native  # noqa: F401  (tells the C names to stackcore.kernel)
from stackcore.abi import abi
from stackcore.abi.layout import Layout
from stackcore.kernel import c_function
from stackcore.vcl import _vcl
from stackcore.warmup import private_stack

ring_push = c_function("shmq_x_push", 2)
slot = c_function("shmq_x_slot", 2)
producer_bind = c_function("shmq_x_producer_bind", 3)
consumer_bind = c_function("shmq_x_consumer_bind", 3)
ring_ready = c_function("shmq_x_ready", 2)
ring_head = c_function("shmq_x_head", 1)
ring_tail = c_function("shmq_x_tail", 1)
ring_release = c_function("shmq_x_release", 2)
fifo_reset = c_function("shmq_x_fifo_reset", 1)
fifo_bind = c_function("shmq_x_fifo_bind", 4)
fifo_write = c_function("shmq_x_fifo_write", 3)
fifo_set_event = c_function("shmq_x_fifo_set_event", 1)
fifo_clear_event = c_function("shmq_x_fifo_clear_event", 1)
fifo_avail = c_function("shmq_x_fifo_avail", 2)
fifo_read = c_function("shmq_x_fifo_read", 3)
fifo_wanted = c_function("shmq_x_fifo_wanted", 1)
event_put = c_function("sc_x_event_put", 8)
event_publish = c_function("sc_x_event_publish", 2)
event_read = c_function("sc_x_event_read", 3)
reply = c_function("sc_x_reply", 2)

FIFO_HEADER = 2 * abi.LINE
REQUESTS = (abi.EV_LISTEN, abi.EV_UNLISTEN)
PATIENCE_S = 10.0

EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP = 0x001, 0x004, 0x008, 0x010
EPOLLRDHUP, EPOLLONESHOT, EPOLLET = 0x2000, 1 << 30, 1 << 31
ADD, DEL, MOD = 1, 2, 3


class Message(NamedTuple):
    """What a worker said."""

    type: int
    worker: int
    session: int
    generation: int
    arg: int


class Session:
    """One connection as the core sees it: its slot in the table and its ends of the two fifos."""

    def __init__(self, index: int, generation: int, worker: int) -> None:
        self.index, self.generation, self.worker = index, generation, worker
        self.seq = 0
        self.rx = ctypes.create_string_buffer(40)
        self.tx = ctypes.create_string_buffer(40)


class Hand:
    """A stack without a core. Sizes as in :class:`Layout`; used as a context manager."""

    def __init__(self, workers: int = 2, sessions: int = 8, ring: int = 64, fifo: int = 256, app_size: int = 0) -> None:
        self.layout = Layout(workers=workers, sessions=sessions, ring_slots=ring, fifo_size=fifo, app_size=app_size)
        self._exit = ExitStack()
        self.payload, self.view = self._exit.enter_context(private_stack(self.layout))
        self.generations = [0] * sessions
        self.attached: list[Any] = []
        self.said: list[Message] = []
        self._producers = [ctypes.create_string_buffer(64) for _ in range(workers)]
        self._consumers = [ctypes.create_string_buffer(64) for _ in range(workers)]
        self._accepts = [ctypes.create_string_buffer(64) for _ in range(self.layout.listeners)]
        self.stride = self.layout.offsets["ring_stride"]
        for i in range(workers):
            assert producer_bind(self.producer(i), self.view.ring_at(i, to_core=False), self.stride) == 0
            self._bind_consumer(i)
        for i in range(self.layout.listeners):
            at = ctypes.addressof(self._accepts[i])
            assert producer_bind(at, self.view.accept_ring_at(i), self.layout.offsets["accept_stride"]) == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.attached:
            worker.detach()
        self._exit.close()

    # ---- workers ----

    def attach(
        self, index: int = 0, listener: str = "duplicated", events: str = "bounded", futex: bool = False, wait: str = "adaptive",
        table: int = 32, control_fd: int = -1,
    ) -> Any:  # fmt: skip
        """A worker of the C library, attached to record ``index``."""
        self.view.workers[index]["state"] = abi.WORKER_ATTACHED
        self.view.workers[index]["generation"] += 1
        worker = _vcl.Worker(
            segment=self.payload, index=index, control_fd=control_fd, doorbell=-1, listener=listener, events=events,
            futex_lock=futex, wait=wait, spins=0, table_capacity=table,
        )  # fmt: skip
        self.attached.append(worker)
        return worker

    def counters(self, worker: Any) -> dict[str, int]:
        """What ``worker`` has counted, by the names of sc_worker."""
        worker.publish()
        record = self.view.workers[worker.index]
        return {f.name: int(record[f.name]) for f in abi.RECORDS["sc_worker"] if f.writer == "worker"}

    # ---- rings ----

    def producer(self, worker: int) -> int:
        """Address of the core's end of the ring to ``worker``."""
        return ctypes.addressof(self._producers[worker])

    def consumer(self, worker: int) -> int:
        return ctypes.addressof(self._consumers[worker])

    def _bind_consumer(self, worker: int) -> None:
        assert consumer_bind(self.consumer(worker), self.view.ring_at(worker, to_core=True), self.stride) == 0

    def put(self, worker: int, kind: int, session: int = -1, generation: int = 0, seq: int = 0, arg: int = 0) -> bool:
        """An event into the worker's ring; False when that is full."""
        if event_put(self.producer(worker), 0, kind, worker, session, generation, seq, arg) != 0:
            return False
        event_publish(self.producer(worker), 1)
        return True

    def forge(self, worker: int, kind: int, session: int, generation: int, seq: int, **wrong: int) -> None:
        """An event with fields as no correct core writes them; the check word fits unless it is among ``wrong``.

        ``worker_field`` overrides the event's own worker.
        """
        named = wrong.pop("worker_field", worker)
        assert event_put(self.producer(worker), 0, kind, named, session, generation, seq, wrong.pop("arg", 0)) == 0
        event = np.frombuffer((ctypes.c_char * 32).from_address(slot(self.producer(worker), 0)), abi.EVENT)
        for name, value in wrong.items():
            event[name] = value
        event_publish(self.producer(worker), 1)

    def ring_words(self, worker: int, to_core: bool) -> tuple[Any, Any]:
        """(tail, head) of a worker's ring as writable numpy scalars: for corrupting them."""
        at = self.view.ring_at(worker, to_core)
        words = np.frombuffer((ctypes.c_char * (3 * abi.LINE)).from_address(at), "u8")
        return words[abi.LINE // 8 :][:1], words[2 * abi.LINE // 8 :][:1]

    def messages(self, worker: int = 0) -> list[Message]:
        """Everything the worker has said since the last time."""
        self.said += self._take(worker)
        found, self.said = [m for m in self.said if m.worker == worker], [m for m in self.said if m.worker != worker]
        return found

    def _take(self, worker: int) -> list[Message]:
        event = np.zeros(1, abi.EVENT)
        found = []
        while ring_ready(self.consumer(worker), 1) > 0:
            assert event_read(self.consumer(worker), ring_head(self.consumer(worker)), event.ctypes.data) == 1
            found.append(Message(*(int(event[0][n]) for n in ("type", "worker", "session", "generation", "arg"))))
            ring_release(self.consumer(worker), 1)
        return found

    @contextmanager
    def answering(self, *answers: int, worker: int = 0) -> Iterator[None]:
        """While this lasts, the worker's next requests are answered in this order by a forked child."""
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._answer(worker, list(answers), write_fd)
        os.close(write_fd)
        try:
            yield
        finally:
            with os.fdopen(read_fd) as told:
                text = told.read()
            os.waitpid(pid, 0)
            self._bind_consumer(worker)
        assert text, "the worker did not ask"
        self.said += [Message(*m) for m in json.loads(text)]

    def _answer(self, worker: int, answers: list[int], fd: int) -> None:
        try:
            heard: list[Message] = []
            record = self.view.address + self.layout.offsets["workers_at"] + worker * abi.WORKER.itemsize
            deadline = time.monotonic() + PATIENCE_S
            while answers and time.monotonic() < deadline:
                new = self._take(worker)
                heard += new
                for message in new:
                    if message.type in REQUESTS:
                        reply(record, answers.pop(0))
                os.sched_yield()
            if not answers:
                os.write(fd, json.dumps(heard).encode())
        finally:
            os._exit(0)

    # ---- sessions ----

    def open(self, worker: int = 0, index: int | None = None) -> Session:
        """A new connection in the lowest free slot, or that one, with empty fifos. Nobody is told yet."""
        records = self.view.sessions
        if index is None:
            index = int(np.flatnonzero(records["state"] == abi.SESSION_FREE)[0])
        self.generations[index] += 1
        session = Session(index, self.generations[index], worker)
        base = self.view.address + self.layout.offsets["fifos_at"] + index * self.layout.offsets["fifo_stride"]
        size = self.layout.fifo_size
        for end, header, data in ((session.rx, base, 2 * FIFO_HEADER), (session.tx, base + FIFO_HEADER, 2 * FIFO_HEADER + size)):
            fifo_reset(header)
            fifo_bind(ctypes.addressof(end), header, base + data, size)
        records[index]["state"] = abi.SESSION_OPEN
        records[index]["generation"] = session.generation
        return session

    def offer(self, session: Session, listener: int = 0, shared: bool = False) -> None:
        """Bring a connection to its worker: by event, or through the listener's accept ring."""
        if not shared:
            session.seq += 1
            assert self.put(session.worker, abi.EV_ACCEPTED, session.index, session.generation, session.seq, listener)
            return
        entry = np.zeros(1, abi.PENDING)
        entry[0] = (session.index, session.generation, session.seq, listener)
        assert ring_push(ctypes.addressof(self._accepts[listener]), entry.ctypes.data) == 0
        assert self.put(session.worker, abi.EV_ACCEPT_READY, arg=listener)

    def tell(self, session: Session, kind: int) -> bool:
        """An event about ``session``, next in its sequence; False when the ring is full."""
        if not self.put(session.worker, kind, session.index, session.generation, session.seq + 1):
            return False
        session.seq += 1
        return True

    def write(self, session: Session, data: bytes) -> int:
        """Bytes from the peer, and the event if one is due. How many fitted."""
        end = ctypes.addressof(session.rx)
        box = ctypes.create_string_buffer(data, len(data) + 1)
        put = int(fifo_write(end, ctypes.addressof(box), len(data)))
        if put and fifo_set_event(end):
            assert self.tell(session, abi.EV_RX)
        return put

    def read(self, session: Session, n: int = 1 << 20) -> bytes:
        """Bytes for the peer; the worker is told of the room if it waits for that."""
        end = ctypes.addressof(session.tx)
        fifo_clear_event(end)
        n = min(n, int(fifo_avail(end, n)))
        box = ctypes.create_string_buffer(max(1, n))
        got = int(fifo_read(end, ctypes.addressof(box), n))
        if fifo_wanted(end):
            assert self.tell(session, abi.EV_TX_ROOM)
        return box.raw[:got]

    def hang_up(self, session: Session) -> None:
        """The peer sends no more."""
        self.view.sessions[session.index]["state"] = abi.SESSION_PEER_CLOSED
        assert self.tell(session, abi.EV_DISCONNECTED)

    def reset(self, session: Session) -> None:
        self.view.sessions[session.index]["state"] = abi.SESSION_RESET
        assert self.tell(session, abi.EV_RESET)

    def free(self, session: Session) -> None:
        self.view.sessions[session.index]["state"] = abi.SESSION_FREE


class Server:
    """A worker with a listening socket and an epoll set that watches it."""

    def __init__(self, hand: Hand, listener: str, events: str = "bounded", *, mask: int = EPOLLIN, **attach: Any) -> None:
        self.hand, self.shared = hand, _vcl.listener_modes[listener][1]
        self.worker = hand.attach(listener=listener, events=events, **attach)
        with hand.answering(0):
            self.listener = self.worker.listen(80)
        self.epoll = self.worker.epoll_create()
        self.worker.epoll_ctl(self.epoll, ADD, self.listener, mask, self.listener)
        hand.messages()

    def connect(self, mask: int | None = EPOLLIN) -> tuple[int, Session]:
        """(fd, session) of a new connection, accepted, and watched for ``mask`` unless that is None."""
        session = self.hand.open()
        self.hand.messages()  # a small ring is soon full
        self.hand.offer(session, shared=self.shared)
        ready = self.wait()
        assert (self.listener, EPOLLIN) in ready, ready
        fd = self.worker.accept(self.listener)
        if mask is not None:
            self.worker.epoll_ctl(self.epoll, ADD, fd, mask, fd)
        return fd, session

    def wait(self, maxevents: int = 64) -> list[tuple[int, int]]:
        """What is ready now, without waiting."""
        found: list[tuple[int, int]] = self.worker.epoll_wait(self.epoll, maxevents, 0)
        return found

    def close(self) -> None:
        """Close the listening socket, which the core is asked about."""
        with self.hand.answering(0):
            self.worker.close(self.listener)


def area(capacity: int = 32) -> int:
    """Bytes of the app area for a shared table of that many entries."""
    bytes_: int = _vcl.table_bytes(capacity)
    return bytes_
