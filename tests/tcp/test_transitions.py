"""The transition table: complete, drawn as it is, and each of its rows walked by a connection."""

from __future__ import annotations

import re
import socket as std
import subprocess
import sys
from pathlib import Path

import pytest

from stackcore.tcp import diagram
from stackcore.tcp.state import (
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    LISTEN,
    STATE_NAMES,
    SYN_RCVD,
    SYN_SENT,
    TIME_WAIT,
)
from stackcore.tcp.transitions import (
    E_ABORT,
    E_ACK_OF_FIN,
    E_ACK_OF_SYN,
    E_ACTIVE_OPEN,
    E_CLOSE,
    E_FIN,
    E_PASSIVE_OPEN,
    E_RST,
    E_SYN,
    E_SYN_ACK,
    E_TIMEOUT,
    EVENTS,
    NEXT,
    TRANSITIONS,
)
from tests.tcp.drill import Drill

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs" / "tcp.md"
FOR_EVER = 1000.0


class Walk(Drill):
    """One connection, opened by us; ``at`` is its state now, CLOSED when there is none."""

    def __init__(self) -> None:
        super().__init__(retries=2, syn_retries=2, close_timeout=5.0)
        self.s = self.host.socket()
        self.ours = self.theirs = 1  # the next numbers

    @property
    def at(self) -> int:
        return int(self.host.tcp.con["state"].max())

    def event(self, event: int) -> None:
        """Let it happen, whatever is sent."""
        self.EVENTS[event](self)
        self.collect()

    def open(self) -> None:
        self.s.connect_ex(("10.0.0.2", 4000))

    def listen_here(self) -> None:
        self.s.listen(80)

    def syn(self) -> None:
        self.inject("S", seq=0, mss=1460)

    def syn_ack(self) -> None:
        self.inject("S.", seq=0, ack=1, mss=1460)

    def ack_all(self) -> None:
        self.inject(".", seq=self.theirs, ack=self.ours)

    def fin(self) -> None:
        acknowledged = self.ours - (self.at in (FIN_WAIT_1, CLOSING))
        self.inject("F.", seq=self.theirs, ack=acknowledged)
        self.theirs += 1

    def close(self) -> None:
        if self.at in (ESTABLISHED, CLOSE_WAIT):
            self.s.shutdown(std.SHUT_WR)
            self.ours += 1
        else:
            self.s.close()

    def reset(self) -> None:
        seq = 0 if self.at == SYN_SENT else self.theirs
        self.inject("R.", seq=seq, ack=self.ours)

    def abort(self) -> None:
        self.s.abort()

    def wait(self) -> None:
        if self.at in (ESTABLISHED, CLOSE_WAIT):
            self.write(self.s, 100)
        elif self.at == FIN_WAIT_2:
            self.s.close()
        self.run(self.now + FOR_EVER)

    EVENTS = {
        E_PASSIVE_OPEN: listen_here, E_ACTIVE_OPEN: open, E_SYN: syn, E_SYN_ACK: syn_ack, E_ACK_OF_SYN: ack_all,
        E_CLOSE: close, E_FIN: fin, E_ACK_OF_FIN: ack_all, E_RST: reset, E_ABORT: abort, E_TIMEOUT: wait,
    }  # fmt: skip


WAY: dict[int, list[int]] = {
    CLOSED: [],
    SYN_SENT: [E_ACTIVE_OPEN],
    SYN_RCVD: [E_ACTIVE_OPEN, E_SYN],
    ESTABLISHED: [E_ACTIVE_OPEN, E_SYN_ACK],
    FIN_WAIT_1: [E_ACTIVE_OPEN, E_SYN_ACK, E_CLOSE],
    FIN_WAIT_2: [E_ACTIVE_OPEN, E_SYN_ACK, E_CLOSE, E_ACK_OF_FIN],
    CLOSE_WAIT: [E_ACTIVE_OPEN, E_SYN_ACK, E_FIN],
    CLOSING: [E_ACTIVE_OPEN, E_SYN_ACK, E_CLOSE, E_FIN],
    LAST_ACK: [E_ACTIVE_OPEN, E_SYN_ACK, E_FIN, E_CLOSE],
    TIME_WAIT: [E_ACTIVE_OPEN, E_SYN_ACK, E_CLOSE, E_ACK_OF_FIN, E_FIN],
}
"""By which events a state is reached. LISTEN is a listener's, see below."""


def name(row: tuple[int, int, int]) -> str:
    return f"{STATE_NAMES[row[0]]}-{EVENTS[row[1]]}"


@pytest.mark.parametrize("row", [row for row in TRANSITIONS if LISTEN not in (row[0], row[2])], ids=name)
def test_each_row(row: tuple[int, int, int]) -> None:
    """RFC 9293 figure 5 and section 3.10: the event leads from the state to the next one."""
    state, event, after = row
    d = Walk()
    for step in WAY[state]:
        d.event(step)
    assert d.at == state
    if (state, event) == (SYN_RCVD, E_CLOSE):
        d.event(event)
        event = E_ACK_OF_SYN  # the FIN follows the acknowledgment of the SYN
    d.event(event)
    assert STATE_NAMES[d.at] == STATE_NAMES[after]


def test_a_listener() -> None:
    """RFC 9293 section 3.10.1 and 3.10.4: LISTEN comes with a passive OPEN, goes with CLOSE, and a SYN makes a connection."""
    with Drill() as d:
        listener = d.listen()
        assert listener.info()["state"] == "LISTEN"
        d.inject("S", seq=0)
        d.expect("S.", ack=1)
        assert int(d.host.tcp.con["state"].max()) == NEXT[LISTEN, E_SYN]
        listener.close()
        assert listener.info()["state"] == "CLOSED"


class TestTable:
    def test_no_pair_twice(self) -> None:
        assert len({row[:2] for row in TRANSITIONS}) == len(TRANSITIONS)

    def test_every_state_is_reached_and_left(self) -> None:
        states = set(range(len(STATE_NAMES)))
        assert {row[0] for row in TRANSITIONS} == {row[2] for row in TRANSITIONS} == states

    def test_what_is_not_listed_changes_nothing(self) -> None:
        listed = {row[:2]: row[2] for row in TRANSITIONS}
        for state in range(len(STATE_NAMES)):
            for event in range(len(EVENTS)):
                assert NEXT[state, event] == listed.get((state, event), state)


class TestDiagram:
    def test_it_is_up_to_date(self) -> None:
        text = DOCUMENT.read_text()
        assert text == diagram.updated(text), "run python -m stackcore.tcp.diagram docs/tcp.md"

    def test_it_has_every_row_once(self) -> None:
        drawn = re.findall(r"^ +(\w+) --> (\w+) : (.*)$", diagram.diagram(), re.MULTILINE)
        rows = [(a, e, b) for a, b, events in drawn for e in events.split(" or ")]
        for states, events, after in re.findall(r"^In ([^:]*): (.*) leads to (.*)\.$", diagram.diagram(), re.MULTILINE):
            rows += [(s, e, after) for s in states.split(", ") for e in events.split(" or ")]
        rows = [(a.replace("_", "-"), e, b.replace("_", "-")) for a, e, b in rows]
        assert sorted(rows) == sorted((STATE_NAMES[a], EVENTS[e], STATE_NAMES[b]) for a, e, b in TRANSITIONS)

    def test_the_command(self, tmp_path: Path) -> None:
        file = tmp_path / "x.md"
        file.write_text(f"before\n{diagram.BEGIN}\nold\n{diagram.END}\nafter\n")

        def command(*arguments: Path) -> subprocess.CompletedProcess[str]:
            line = [sys.executable, "-m", "stackcore.tcp.diagram", *map(str, arguments)]
            return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)

        assert command(file).returncode == 0
        text = file.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text and "LAST_ACK" in text
        assert command().stdout.strip() in text
        file.write_text("no markers")
        done = command(file)
        assert done.returncode == 1 and "must have a line" in done.stderr
        assert file.read_text() == "no markers"
