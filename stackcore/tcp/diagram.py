"""The state diagram, drawn from the transition table: ``python -m stackcore.tcp.diagram docs/tcp.md`` brings it up to date.

The file keeps its text; what stands between the two marker lines is replaced by a Mermaid diagram of
:data:`stackcore.tcp.transitions.TRANSITIONS`. Events that lead from many states to the same one (a reset, giving up) are
a sentence below the diagram instead of arrows across all of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stackcore.tcp.state import STATE_NAMES
from stackcore.tcp.transitions import EVENTS, TRANSITIONS

BEGIN = "<!-- begin: python -m stackcore.tcp.diagram -->"
END = "<!-- end -->"
MANY = 5
"""From so many states on, an event with one outcome is written, not drawn."""

Edge = tuple[int, int, int]


def _identifier(state: int) -> str:
    """Mermaid's identifiers have no hyphens."""
    return STATE_NAMES[state].replace("-", "_")


def common(transitions: list[Edge]) -> dict[tuple[int, int], list[int]]:
    """(event, next state) that MANY states share, and which states these are; not a state's only way out."""
    found: dict[tuple[int, int], list[int]] = {}
    ways: dict[int, int] = {}
    for state, event, after in transitions:
        found.setdefault((event, after), []).append(state)
        ways[state] = ways.get(state, 0) + 1
    shared = {key: [s for s in states if ways[s] > 1] for key, states in found.items()}
    return {key: states for key, states in shared.items() if len(states) >= MANY}


def sentences(shared: dict[tuple[int, int], list[int]]) -> list[str]:
    """One for each set of states and outcome, with all events that have them."""
    events: dict[tuple[tuple[int, ...], int], list[str]] = {}
    for (event, after), states in shared.items():
        events.setdefault((tuple(sorted(states)), after), []).append(EVENTS[event])
    return [
        f"In {', '.join(STATE_NAMES[s] for s in states)}: {' or '.join(names)} leads to {STATE_NAMES[after]}."
        for (states, after), names in events.items()
    ]


def diagram(transitions: list[Edge] = TRANSITIONS) -> str:
    """The Mermaid block and the sentences below it."""
    shared = common(transitions)
    labels: dict[tuple[int, int], list[str]] = {}
    for state, event, after in transitions:
        if state not in shared.get((event, after), []):
            labels.setdefault((state, after), []).append(EVENTS[event])
    drawn = sorted({state for edge in labels for state in edge})
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f'    state "{STATE_NAMES[s]}" as {_identifier(s)}' for s in drawn]
    lines += [f"    {_identifier(a)} --> {_identifier(b)} : {' or '.join(events)}" for (a, b), events in labels.items()]
    return "\n".join([*lines, "```", "", *sentences(shared)])


def updated(text: str) -> str:
    """``text`` with the diagram of today between its markers. ValueError when they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the file must have a line '{BEGIN}' and behind it a line '{END}'")
    return f"{before}{BEGIN}\n\n{diagram()}\n\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stackcore.tcp.diagram", description="Draw TCP's state diagram.")
    parser.add_argument("file", type=Path, nargs="?", help="Markdown file to bring up to date; without one, print the diagram")
    file = parser.parse_args(arguments).file
    if file is None:
        print(diagram())
        return 0
    try:
        file.write_text(updated(file.read_text()))
    except (OSError, ValueError) as error:
        print(f"{file}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
