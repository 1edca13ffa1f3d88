"""The layout that processes of different builds would have to agree on, asserted from outside the C code."""

import pytest

from shmq import _native

LINE = 128
LAYOUT = _native.layout()


@pytest.mark.parametrize(
    ("struct", "size"),
    [("segment", 1), ("cell", 1), ("ring", 7), ("channel", 9), ("stream", 7), ("fifo", 2), ("event", 1), ("rwlock", 5),
     ("prwlock", 6)],
)  # fmt: skip
def test_sizes_are_whole_lines(struct: str, size: int) -> None:
    assert LAYOUT[struct][0] == size * LINE


@pytest.mark.parametrize(
    ("struct", "groups"),
    [
        ("ring", [("tail",), ("head",), ("full_hits",), ("empty_hits", "high_water"), ("consumer_cell",),
                  ("producer_cell",), ("magic", "capacity", "slot_size", "slots_at", "producer", "consumer", "flags")]),
        ("channel", [("pushed",), ("popped",), ("ring",)]),
        ("stream", [("magic", "capacity", "writer", "reader", "flags"), ("full_hits",), ("empty_hits", "high_water"),
                    ("reader_cell",), ("writer_cell",), ("fifo",)]),
        ("fifo", [("tail", "event"), ("head", "want")]),
        ("rwlock", [("word", "writer", "waiters", "wake_seq"), ("slots",)]),
        ("prwlock", [("state", "died", "lock"), ("slots",), ("marks",)]),
    ],
)  # fmt: skip
def test_fields_of_different_writers_share_no_line(struct: str, groups: list[tuple[str, ...]]) -> None:
    fields = LAYOUT[struct][1]
    assert {name for group in groups for name in group} | {"reserved"} >= set(fields)
    lines = []
    for group in groups:
        first = min(fields[name][0] for name in group) // LINE
        last = max(sum(fields[name]) - 1 for name in group) // LINE
        lines.append(set(range(first, last + 1)))
    assert sum(map(len, lines)) == len(set.union(*lines))


@pytest.mark.parametrize("struct", LAYOUT)
def test_fields_do_not_overlap_and_are_aligned(struct: str) -> None:
    size, fields = LAYOUT[struct]
    end = 0
    for offset, length in sorted(fields.values()):
        assert offset >= end
        assert offset % min(length & -length, 8) == 0
        end = offset + length
    assert end <= size


def test_segment_header_is_where_other_versions_look_for_it() -> None:
    # magic, version and uid must never move: a future version recognises this one by them
    fields = LAYOUT["segment"][1]
    assert (fields["magic"], fields["version"], fields["owner_uid"]) == ((0, 8), (8, 4), (12, 4))
