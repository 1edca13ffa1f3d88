"""A change of behaviour is a diff of numbers: the committed tables, computed again. To rewrite: python -m tests.tcp.golden"""

from __future__ import annotations

import csv
import difflib

import pytest

from tests.tcp.golden.table import CONTROLS, FAIR_FLOWS, FAIR_FROM, FAIR_UNTIL, RATE, TABLES, Row, jain, loss_row, path, text


def committed(name: str) -> list[Row]:
    return list(csv.DictReader(path(name).read_text().splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_nothing_has_changed(name: str) -> None:
    before, now = path(name).read_text(), text(list(TABLES[name]()))
    difference = "\n".join(difflib.unified_diff(before.splitlines(), now.splitlines(), "committed", "computed", lineterm="", n=0))
    if difference:
        pytest.fail(f"{difference}\nIf this is meant, run python -m tests.tcp.golden and say why.", pytrace=False)


def test_one_row_of_each_control() -> None:
    """The same, in a moment."""
    rows = {(r["cc"], r["loss"], r["delay_ms"], r["queue"]): r for r in committed("loss")}
    for cc in CONTROLS:
        assert loss_row(cc, 0.01, 10, "large") == rows[cc, "0.01", "10", "large"]


def test_the_table_is_plausible() -> None:
    """What must hold of any TCP, so that a rewritten table cannot hide a defect: no more than the link carries; without loss
    and with room in the queue nearly all of it, and nothing is sent twice; loss costs something, more of it more."""
    rows = committed("loss")
    assert all(0 < float(r["goodput_kb_s"]) <= RATE / 1000 for r in rows)
    for cc in CONTROLS:
        mine = [r for r in rows if r["cc"] == cc]
        for r in mine:
            if r["loss"] == "0.0" and r["delay_ms"] == "1" and r["queue"] == "large":
                assert float(r["goodput_kb_s"]) > 0.9 * RATE / 1000
            if float(r["loss"]) >= 0.01:
                assert int(r["retransmits"]) > 0
        total = {loss: sum(float(r["goodput_kb_s"]) for r in mine if r["loss"] == loss) for loss in ("0.0", "0.01", "0.03")}
        assert total["0.0"] > total["0.01"] > total["0.03"]


def test_eight_flows_share() -> None:
    rows = committed("fairness")
    assert len(rows) == 8
    for r in rows:
        assert float(r["jain"]) > 0.7, r
        assert FAIR_FLOWS * int(r["most_kb"]) * 1000 >= 0.8 * RATE * (FAIR_UNTIL - FAIR_FROM)


def test_jain() -> None:
    assert jain([5, 5, 5, 5]) == 1 and jain([1, 0, 0, 0]) == 0.25 and jain([1, 2, 3]) == pytest.approx(36 / 42)
