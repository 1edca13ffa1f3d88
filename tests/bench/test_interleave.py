"""The order of visits."""

from bench.interleave import Cell, rounds


def cell(group: str, mode: str, times: int) -> Cell:
    return Cell("suite", group, mode, (), times)


def order(cells: list[Cell]) -> str:
    return " ".join(c.mode for r in rounds(cells) for c in r.cells)


def test_two_modes_go_a_b_b_a():
    assert order([cell("g", "A", 4), cell("g", "B", 4)]) == "A B B A A B B A"


def test_three_modes_turn_round_every_other_round():
    assert order([cell("g", m, 3) for m in "ABC"]) == "A B C C B A A B C"


def test_groups_take_turns_and_their_modes_stay_next_to_one_another():
    cells = [cell("g", "A", 2), cell("g", "B", 2), cell("h", "C", 2), cell("h", "D", 2)]
    assert [(r.index, r.group) for r in rounds(cells)] == [(0, "g"), (0, "h"), (1, "g"), (1, "h")]
    assert order(cells) == "A B C D B A D C"


def test_a_cell_drops_out_after_its_rounds():
    assert order([cell("g", "A", 3), cell("g", "control", 1)]) == "A control A A"
    assert order([]) == ""


def test_over_many_rounds_each_mode_stands_first_as_often_as_last():
    firsts = [r.cells[0].mode for r in rounds([cell("g", "A", 10), cell("g", "B", 10)])]
    assert firsts.count("A") == firsts.count("B") == 5
