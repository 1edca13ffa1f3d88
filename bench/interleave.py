"""The order of visits: A B B A A B B A, one process per visit, never one mode after the other.

On a shared host the machine itself drifts within seconds. A mode that is measured as a block gets the block's weather;
modes that alternate share it, and turning the order round in every other round cancels what is left of a linear drift.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One mode under one set of factors: what a visit measures.

    Cells of the same `group` differ in `mode` only; they are visited next to one another and compared with one another.
    `argv` is what stands behind `python -m` on the visit's command line. A `control` is a negative control: it is visited to
    show that it fails, so its non-zero exit status is expected and its wrong results are findings, not faults.
    """

    suite: str
    group: str
    mode: str
    argv: tuple[str, ...]
    rounds: int
    control: bool = False
    factors: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """The name of the cell's benchmark in result files."""
        return f"{self.suite} {self.group} {self.mode}" if self.group else f"{self.suite} {self.mode}"


@dataclass(frozen=True)
class Round:
    """One pass over a group, in the order of its cells."""

    index: int
    group: str
    cells: tuple[Cell, ...]


def rounds(cells: Iterable[Cell]) -> Iterator[Round]:
    """Yield the rounds in the order in which they are to be visited.

    Round by round over all groups, so that no group is measured in one stretch either; in each group the order of its
    cells turns round every time. A cell takes part in its first `cell.rounds` rounds.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    for index in range(max((cell.rounds for members in groups.values() for cell in members), default=0)):
        for group, members in groups.items():
            present = [cell for cell in members if cell.rounds > index]
            if present:
                yield Round(index, group, tuple(present if index % 2 == 0 else reversed(present)))
