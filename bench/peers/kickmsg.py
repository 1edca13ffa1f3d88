"""kickmsg: publish and subscribe; a subscriber that is too slow loses what was overwritten, by design."""

from __future__ import annotations

from typing import Any

from bench.peers.base import Adapter, Link, Receiver, Sender, load, unique_name
from shmq.measure import slots

_LONG = 3600.0


class KickmsgAdapter(Adapter):
    name = "kickmsg"
    package = "kickmsg"
    module = "kickmsg"
    lossless = False
    kinds = frozenset({"single", "view", "busy", "blocking", "idle"})

    def link(self, size: int, kind: str) -> _KickmsgLink:
        return _KickmsgLink(size)


class _KickmsgLink(Link):
    def __init__(self, size: int) -> None:
        kickmsg = load("kickmsg")

        config = kickmsg.Config()
        config.max_subscribers = 1
        config.sub_ring_capacity = slots(size)
        config.pool_size = 4 * slots(size)
        config.max_payload_size = size
        self._size, self._name = size, f"/{unique_name()}"
        self._region = kickmsg.SharedRegion.create(self._name, kickmsg.ChannelType.PubSub, config)

    def sender(self) -> Sender:
        kickmsg = load("kickmsg")

        publisher, size = kickmsg.Publisher(self._region), self._size
        allocate = publisher.allocate
        reserved: list[Any] = []

        def lend() -> memoryview | None:
            slot = allocate()
            if slot is None:
                return None
            reserved.append(slot)
            return memoryview(slot)[:size]

        def publish() -> None:
            reserved.pop().publish(size)

        return Sender(publisher.send, waits=True, lend=lend, publish=publish)

    def receiver(self) -> Receiver:
        kickmsg = load("kickmsg")

        subscriber = kickmsg.Subscriber(self._region)
        receive_view, receive = subscriber.try_receive_view, subscriber.receive
        pinned: list[Any] = []

        def borrow() -> memoryview | None:
            view = receive_view()
            if view is None:
                return None
            pinned.append(view)
            return memoryview(view)

        def give_back() -> None:
            pinned.pop().release()

        return Receiver(subscriber.try_receive, wait=lambda: receive(_LONG), borrow=borrow, give_back=give_back)

    def close(self) -> None:
        self._region.unlink()
