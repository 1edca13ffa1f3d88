"""Congestion control, one file each: ``newreno``, ``cubic``, and plug-ins; :mod:`.control` says what a control is.

The engine calls ``cc_init(policy, con, now)``, ``cc_ack(policy, con, acked, rtt, now)``, ``cc_loss(policy, con, kind,
now)``, ``cc_recovered(policy, con, now)`` and ``cc_idle(policy, con, now)``; ``policy`` is ``CC[name].value``. Each
is one kernel that branches on ``policy``. They are made when one is first asked for, so that :func:`load_plugin` has
its chance before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stackcore.kernel import compose
from stackcore.tcp.congestion import control, cubic, newreno
from stackcore.tcp.congestion.control import CC, CONTROLS, CongestionControl, PluginError
from stackcore.tcp.congestion.control import load as load_plugin

__all__ = ["CC", "CONTROLS", "CongestionControl", "PluginError", "load_plugin"]

for _module in (newreno, cubic):  # in the order of their values
    control.add(_module.CONTROL)

cc_init: Callable[..., Any]
cc_ack: Callable[..., Any]
cc_loss: Callable[..., Any]
cc_recovered: Callable[..., Any]
cc_idle: Callable[..., Any]

_PARAMETERS = {
    "init": "con, now",
    "ack": "con, acked, rtt, now",
    "loss": "con, kind, now",
    "recovered": "con, now",
    "idle": "con, now",
}


def __getattr__(name: str) -> Any:
    hook = name.removeprefix("cc_")
    if hook == name or hook not in _PARAMETERS:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    control.load_installed()
    control.close()
    for one, parameters in _PARAMETERS.items():
        choices = [(control.__name__, f"CONTROLS[{known!r}].{one}") for known in CONTROLS]
        globals()[f"cc_{one}"] = compose(f"cc_{one}", choices, parameters, result=False)
    return globals()[name]
