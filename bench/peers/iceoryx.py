"""iceoryx2: publish and subscribe over shared memory, with back-pressure instead of overwriting.

`blocking` and `idle` add an event service, since a subscriber itself cannot sleep. The messages are copied into the loaned
memory and out of it, except for `view`.
"""

from __future__ import annotations

import ctypes
import glob
import os
from typing import Any

from bench.peers.base import Adapter, FolderLink, Receiver, Sender, load, unique_name
from shmq.measure import slots


class IceoryxAdapter(Adapter):
    name = "iceoryx2"
    package = "iceoryx2"
    module = "iceoryx2"
    kinds = frozenset({"single", "view", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> _IceoryxLink:
        return _IceoryxLink(size, sleeps=kind in ("blocking", "idle"))


class _IceoryxLink(FolderLink):
    def __init__(self, size: int, sleeps: bool) -> None:
        super().__init__()
        self._size, self._sleeps = size, sleeps
        self._prefix = unique_name() + "_"
        self._open: list[Any] = []

    def _node(self) -> Any:
        iox = load("iceoryx2")

        iox.set_log_level(iox.LogLevel.Error)
        config = iox.config.default()
        config.global_cfg.prefix = iox.FileName.new(self._prefix)
        config.global_cfg.root_path = iox.Path.new(self.folder)
        return iox.NodeBuilder.new().config(config).create(iox.ServiceType.Ipc)

    def _service(self, node: Any) -> Any:
        iox = load("iceoryx2")

        service = node.service_builder(iox.ServiceName.new("messages")).publish_subscribe(iox.Slice[ctypes.c_uint8])
        service = service.enable_safe_overflow(False).subscriber_max_buffer_size(slots(self._size)).history_size(0)
        return service.max_publishers(1).max_subscribers(1).open_or_create()

    def _events(self, node: Any) -> Any:
        iox = load("iceoryx2")

        return node.service_builder(iox.ServiceName.new("doorbell")).event().open_or_create()

    def sender(self) -> Sender:
        iox = load("iceoryx2")

        node = self._node()
        service = self._service(node)
        builder = service.publisher_builder().initial_max_slice_len(self._size)
        publisher = builder.backpressure_strategy(iox.BackpressureStrategy.RetryUntilDelivered).create()
        notifier: Any = self._events(node).notifier_builder().create() if self._sleeps else None
        size, loan, memmove = self._size, publisher.loan_slice_uninit, ctypes.memmove
        loaned: list[Any] = []

        def send(message: bytes) -> None:
            sample = loan(size)
            memmove(sample.payload_ptr, message, size)
            sample.assume_init().send()

        def send_and_notify(message: bytes) -> None:
            send(message)
            notifier.notify()

        def lend() -> memoryview:
            sample = loan(size)
            loaned.append(sample)
            return sample.payload().as_memory_view().cast("B")

        def publish() -> None:
            loaned.pop().assume_init().send()

        self._open += [node, service, publisher, notifier]
        return Sender(send_and_notify if notifier else send, waits=True, lend=lend, publish=publish, close=self._open.clear)

    def receiver(self) -> Receiver:
        node = self._node()
        service = self._service(node)
        subscriber = service.subscriber_builder().create()
        listener: Any = self._events(node).listener_builder().create() if self._sleeps else None
        receive_sample, size, string_at = subscriber.receive, self._size, ctypes.string_at
        borrowed: list[Any] = []

        def receive() -> bytes | None:
            sample = receive_sample()
            return None if sample is None else string_at(sample.payload_ptr, size)

        def wait() -> bytes:
            while (message := receive()) is None:
                listener.blocking_wait()
            return message

        def borrow() -> memoryview | None:
            sample = receive_sample()
            if sample is None:
                return None
            borrowed.append(sample)
            return sample.payload().as_memory_view().cast("B")

        self._open += [node, service, subscriber, listener]
        return Receiver(
            receive, poll=receive, wait=wait if listener else None, borrow=borrow, give_back=borrowed.clear,
            close=self._open.clear,
        )  # fmt: skip

    def close(self) -> None:
        super().close()
        for path in glob.glob(f"/dev/shm/{self._prefix}*"):  # what its processes leave there
            os.unlink(path)
