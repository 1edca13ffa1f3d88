"""What a congestion control is: five functions, and how one gets into the loop.

A control is named, documented, and made of functions that take the connection's record ``con``
(``stackcore.tcp.state.CONNECTION``) and integers. They may read ``mss``, ``snd_una``, ``snd_nxt``, ``srtt`` (ns, 0
unknown) and ``backoff``, write ``cwnd`` and ``ssthresh`` (bytes), and keep what they like in ``cc0`` to ``cc5``. They
return nothing.

=============================  =========================================================================================
``init(con, now)``             the handshake is complete, ``mss`` is known; ``cwnd`` 0 means "choose the initial window"
``ack(con, acked, rtt, now)``  ``acked`` bytes were acknowledged for the first time, ``snd_una`` has moved; ``rtt`` is
                               ns or 0. Not called in fast recovery; after a timeout ``acked`` is a segment at most
``loss(con, kind, now)``       FAST: a segment was lost; LOSS: the timer expired, ``backoff`` is how often it had before
``recovered(con, now)``        the recovery ends; ``con["recovery"]`` still says which
``idle(con, now)``             something is to be sent after a retransmission timeout without anything in flight
=============================  =========================================================================================

They are compiled by Numba, so they are plain arithmetic: no allocation, no strings, no exceptions, ``//`` and ``>>``
on numbers that are not negative. A function they call is decorated with :func:`stackcore.kernel.kernel` and lives in
the same file: only that file is looked at when a compiled version is looked for in the cache.

A plug-in is loaded before the loop is made, because the loop is compiled with it: :func:`load` says so if it is too
late.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import FunctionType
from typing import Any

import stackcore.native  # noqa: F401  (before any kernel)
from stackcore.kernel import add_plugin, kernel
from stackcore.registry import switch
from stackcore.tcp.congestion import reno

GROUP = "stackcore.plugins"
"""Entry point group of installed plug-ins."""

CC = switch("cc", "congestion control", "cubic")


class PluginError(ValueError):
    """A plug-in cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class CongestionControl:
    """A congestion control: what is not given is NewReno's."""

    name: str
    doc: str
    init: Callable[..., Any] = reno.init
    ack: Callable[..., Any] = reno.ack
    loss: Callable[..., Any] = reno.loss
    recovered: Callable[..., Any] = reno.recovered
    idle: Callable[..., Any] = reno.idle


HOOKS = tuple(f.name for f in fields(CongestionControl) if f.name not in ("name", "doc"))
CONTROLS: dict[str, CongestionControl] = {}
"""All that are known, by name, in the order of their values; their functions are kernels."""

_loaded: dict[str, CongestionControl] = {}
_closed = False


def add(control: CongestionControl) -> CongestionControl:
    """Make ``control`` a choice of ``--cc``, its plain functions kernels. ValueError when its name is taken."""
    CC.add(control.name, control.doc)
    compiled: dict[str, Any] = {hook: kernel(f) for hook in HOOKS if isinstance(f := getattr(control, hook), FunctionType)}
    CONTROLS[control.name] = replace(control, **compiled)
    return CONTROLS[control.name]


def load(where: str) -> CongestionControl:
    """Load the plug-in ``module:NAME`` or ``file.py:NAME``, NAME being a :class:`CongestionControl`; twice is once.

    A module is looked for where Python looks, and in the current folder. Raises :class:`PluginError`.
    """
    if where in _loaded:
        return _loaded[where]
    if _closed:
        raise PluginError(f"{where}: the loop is compiled already: load plug-ins before the engine is imported")
    try:
        _loaded[where] = add(_find(where))
    except (ImportError, AttributeError, ValueError) as e:
        raise PluginError(f"{where}: {e}") from e
    return _loaded[where]


def _find(where: str) -> CongestionControl:
    """The object that ``where`` names; whatever is compiled from here on is kept apart by its source."""
    name, _, attribute = where.rpartition(":")
    if not name or not attribute.isidentifier():
        raise ValueError("write it as module:NAME, for example examples.stackcore.half:HALF")
    file = Path(name).resolve() if name.endswith(".py") else None
    folder, name = (file.parent, file.stem) if file else (Path.cwd(), name)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {name} in {folder} or where Python looks")
    if file and file != Path(spec.origin).resolve():
        raise ValueError(f"its name is that of {spec.origin}: call the file something else")
    add_plugin(where, spec.origin)
    control = getattr(importlib.import_module(name), attribute)
    if not isinstance(control, CongestionControl):
        raise ValueError(f"it is of type {type(control).__name__}, not a stackcore.tcp.congestion.CongestionControl")
    return control


def load_installed() -> None:
    """Load the plug-ins of the installed packages (entry points of GROUP), in the order of their names; once.

    One that cannot be used is a warning: the stack works without it.
    """
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
        try:
            load(entry.value)
        except PluginError as e:
            warnings.warn(f"an installed plug-in is left out: {e}", RuntimeWarning, stacklevel=2)


def close() -> None:
    """The loop is about to be compiled: no more plug-ins from here on."""
    global _closed
    _closed = True
