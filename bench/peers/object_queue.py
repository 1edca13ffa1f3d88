"""Links over queues of Python objects with the interface of `multiprocessing.Queue`; the messages are bytes objects."""

from __future__ import annotations

import queue
from typing import Any

from bench.peers.base import Link, Receiver, Sender


class QueueLink(Link):
    """A queue that is inherited by fork; `many`: it has put_many and get_many."""

    def __init__(self, made: Any, many: bool = False) -> None:
        self._queue, self._many = made, many

    def sender(self) -> Sender:
        put, close = self._queue.put, self._queue.close

        def put_many(messages: list[bytes]) -> int:
            self._queue.put_many(messages)
            return len(messages)

        def finish() -> None:
            close()
            self._queue.join_thread()

        return Sender(put, waits=True, send_batch=put_many if self._many else None, close=finish)

    def receiver(self) -> Receiver:
        get, get_nowait, get_many = self._queue.get, self._queue.get_nowait, getattr(self._queue, "get_many", None)

        def poll() -> bytes | None:
            try:
                return get_nowait()
            except queue.Empty:
                return None

        def receive_batch(most: int) -> list[bytes]:
            assert get_many is not None
            return get_many(max_messages_to_get=most)

        return Receiver(get, waits=True, poll=poll, wait=get, receive_batch=receive_batch if self._many else None)

    def close(self) -> None:
        self._queue.close()
