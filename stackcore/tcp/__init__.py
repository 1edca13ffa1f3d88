"""Sans-IO TCP: no clock, no system call, no thread; packets and times go in, packets and notes come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stackcore.tcp.config import HostConfig
    from stackcore.tcp.host import Host
    from stackcore.tcp.sockets import Socket

__all__ = ["Host", "HostConfig", "Socket"]

_HOMES = {"Host": "host", "HostConfig": "config", "Socket": "sockets"}


def __getattr__(name: str) -> Any:
    """The public classes, loaded when asked for: the core imports parts of this package without them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
