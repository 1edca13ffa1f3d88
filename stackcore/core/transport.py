"""What the core process asks of a transport, and the simplest one: ``null``."""

from __future__ import annotations

from typing import Any, Protocol

from stackcore.core.client import ClientConfig, configure_clients
from stackcore.core.dispatch import dispatch
from stackcore.session.state import Core
from stackcore.wire.null import unserved, worker_gone


class Transport(Protocol):
    """One per core. All calls come from the core's thread."""

    def dispatch(self, until: int) -> int:
        """Cycle until the monotonic time ``until`` (ns) or until idle: BUSY or IDLE. RuntimeError when the wire is broken."""

    def worker_gone(self, worker: int) -> None:
        """A worker died: what it had is reset."""

    def unserved(self) -> int:
        """Connections that no worker has accepted."""

    def wake_at(self) -> int:
        """Monotonic ns of the next thing the clock brings, or 0."""

    def descriptors(self) -> list[int]:
        """Doorbells beside the core's own, to be polled edge-triggered and never read."""

    def announce(self) -> None:
        """The core is about to sleep: whoever brings something rings."""

    def clear(self) -> None:
        """Awake again."""

    def close(self) -> None:
        """Release what is not memory."""


class NullTransport:
    """The core plays its clients itself (:mod:`stackcore.wire.null`)."""

    def __init__(self, core: Core, clients: ClientConfig) -> None:
        self.core = core
        self._memory: list[Any] = configure_clients(core, clients)

    def dispatch(self, until: int) -> int:
        return int(dispatch(self.core, until))

    def worker_gone(self, worker: int) -> None:
        worker_gone(self.core, worker)

    def unserved(self) -> int:
        return int(unserved(self.core))

    def wake_at(self) -> int:
        return int(self.core.cfg[0]["next_due"]) if self.core.cfg[0]["open_loop"] else 0

    def descriptors(self) -> list[int]:
        return []

    def announce(self) -> None:
        pass

    def clear(self) -> None:
        pass

    def close(self) -> None:
        pass
