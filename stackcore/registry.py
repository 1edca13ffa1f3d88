"""The switches: which choices each disputed design has, and what each is.

One place knows mode names: the command line, ``stackcore modes``, error messages and the core ask here; everything
else carries the value a name stands for. A choice that is a kernel registers itself with :func:`register` in its own
file; the choices of one switch are then composed into one kernel that branches on an integer (:mod:`stackcore.kernel`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


class UnknownMode(ValueError):
    """A mode name that no choice of the switch has; the message lists the choices."""


@dataclass(frozen=True)
class Choice:
    """One choice: its name, one line about it, and what the code uses instead of the name."""

    name: str
    doc: str
    value: Any


@dataclass
class Switch:
    """A design question with named choices, in a fixed order."""

    name: str
    doc: str
    default: str
    choices: dict[str, Choice] = field(default_factory=dict)

    def add(self, name: str, doc: str, value: Any = None) -> None:
        if name in self.choices:
            raise ValueError(f"--{self.name} {name} is registered twice")
        self.choices[name] = Choice(name, doc, len(self.choices) if value is None else value)

    def __getitem__(self, name: str) -> Choice:
        try:
            return self.choices[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.choices, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            known = ", ".join(self.choices)
            raise UnknownMode(f"--{self.name} has no choice '{name}'{hint}: choose one of {known}") from None

    def __iter__(self) -> Iterator[Choice]:
        return iter(self.choices.values())


SWITCHES: dict[str, Switch] = {}


def switch(name: str, doc: str, default: str) -> Switch:
    """Make the switch ``--name``."""
    SWITCHES[name] = Switch(name, doc, default)
    return SWITCHES[name]


def register(target: Switch, name: str, doc: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: this kernel is the choice ``name`` of ``target``; its value is its place in the composed branch."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        target.add(name, doc)
        return function

    return add
