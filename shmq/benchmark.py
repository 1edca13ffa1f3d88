"""`shmq bench`: what Ring and Channel do on this machine, between two pinned processes, every message checked.

Needs neither numpy nor the stack. How it is measured, and what the figures are worth, stands in `shmq.measure`; the same
links are what `stackcore bench peers` sets beside other libraries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import shmq
from shmq.measure import KINDS, MeasureError, Receiver, Sender, batch_size, measure, slots

__all__ = ["LINKS", "ChannelLink", "RingLink", "run"]


class RingLink:
    """A ring without a name; the ends wait adaptively."""

    kinds = frozenset(KINDS)

    def __init__(self, size: int) -> None:
        self._ring = shmq.Ring.create(slots(size), size)

    def sender(self) -> Sender:
        end = self._ring.producer()
        return Sender(
            end.try_push, send_batch=end.push_many, send_array=end.push_array, lend=_lending(end.reserve, end.commit),
            publish=functools.partial(end.commit, 1), close=end.close,
        )  # fmt: skip

    def receiver(self) -> Receiver:
        end = self._ring.consumer()
        out = bytearray(batch_size(self._ring.slot_size) * self._ring.slot_size)

        def fill(most: int) -> tuple[bytearray, int]:
            return out, end.pop_array(out)

        return Receiver(
            end.try_pop, wait=end.pop, receive_batch=end.pop_many, receive_array=fill,
            borrow=_lending(end.peek, end.release), give_back=functools.partial(end.release, 1), close=end.close,
        )  # fmt: skip

    def close(self) -> None:
        self._ring.close()


class ChannelLink:
    """A channel without a name, with room for as many messages as the ring; the ends wait adaptively."""

    kinds = frozenset(KINDS) - {"array"}

    def __init__(self, size: int) -> None:
        self._size = size
        self._channel = shmq.Channel.create(slots(size) << (size + 7).bit_length())

    def sender(self) -> Sender:
        end = self._channel.producer()
        return Sender(
            end.try_push, send_batch=end.push_many, lend=functools.partial(end.reserve, self._size),
            publish=functools.partial(end.commit, self._size), close=end.close,
        )  # fmt: skip

    def receiver(self) -> Receiver:
        end = self._channel.consumer()
        return Receiver(
            end.try_pop, wait=end.pop, receive_batch=end.pop_many, borrow=end.peek,
            give_back=functools.partial(end.release, 1), close=end.close,
        )  # fmt: skip

    def close(self) -> None:
        self._channel.close()


def _lending(take: Callable[[int], memoryview], back: Callable[[int], object]) -> Callable[[], memoryview | None]:
    """Make a ring's `reserve` or `peek` say None when there is nothing: the empty view has to be taken back at once."""

    def lend() -> memoryview | None:
        view = take(1)
        if view:
            return view
        back(0)
        return None

    return lend


LINKS: dict[str, type[RingLink] | type[ChannelLink]] = {"Ring": RingLink, "Channel": ChannelLink}


def run(size: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Measure every kind of traffic over every kind of link, `seconds` each, and yield a row as soon as it is known.

    A row is what `shmq.measure.measure` returns, and `link`. Raises MeasureError when one fails or a message was wrong.
    """
    for kind in KINDS:
        for name, link in LINKS.items():
            if kind not in link.kinds:
                continue
            row = {"link": name, **measure(functools.partial(link, size), kind, size, seconds)}
            if any(row["errors"].values()):
                raise MeasureError(f"{name}, {kind}: messages were wrong ({row['errors']})")
            yield row
