"""Rings of numpy records: copies, views that cannot outlive their slots, and the dtype that travels with the ring."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmq import CorruptSegment, Ring

POINT = np.dtype([("id", "<u4"), ("where", "<f8", (3,)), ("tag", "S5")])


def points(first: int, count: int) -> np.ndarray:
    made = np.zeros(count, POINT)
    made["id"] = np.arange(first, first + count)
    made["where"] = made["id"][:, None] * [1.0, 0.5, -1.0]
    made["tag"] = b"point"
    return made


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(8, dtype=POINT) as ring:
        yield ring


def test_the_geometry_is_that_of_the_dtype(ring: Ring) -> None:
    assert ring.dtype == POINT
    assert ring.slot_size == POINT.itemsize
    with ring.producer() as tx, ring.consumer() as rx:
        for end in (tx, rx):
            assert (end.dtype, end.capacity, end.slot_size, end.closed) == (POINT, 8, POINT.itemsize, False)
            assert end.stats()["capacity"] == 8
    assert tx.closed
    with Ring.create(8, 8) as plain:
        assert plain.dtype is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 12)), max_size=40))
def test_arrays_go_in_and_out_in_order(steps: list[tuple[bool, bool, int]]) -> None:
    """Copies and views in any mix, against a counter of what must come next."""
    pushed = popped = 0
    with Ring.create(8, dtype=POINT) as ring, ring.producer() as tx, ring.consumer() as rx:
        for push, copy, n in steps:
            if push and copy:
                done = tx.push_array(points(pushed, n))
                assert done == min(n, 8 - (pushed - popped))
                pushed += done
            elif push and n:
                view = tx.reserve(n)
                done = len(view)
                view[:] = points(pushed, done)
                del view
                tx.commit(done)
                pushed += done
            elif copy:
                out = np.zeros(n, POINT)
                done = rx.pop_array(out)
                assert done == min(n, pushed - popped)
                np.testing.assert_array_equal(out[:done], points(popped, done))
                popped += done
            elif n:
                view = rx.peek(n)
                done = len(view)
                np.testing.assert_array_equal(view, points(popped, done))
                del view
                rx.release(done)
                popped += done


def test_views_cannot_outlive_their_slots(ring: Ring) -> None:
    with ring.producer() as tx, ring.consumer() as rx:
        view = tx.reserve(4)
        assert view.flags.writeable
        view["id"] = [1, 2, 3, 4]
        field = view["where"]
        del view
        with pytest.raises(BufferError):
            tx.commit(4)
        assert rx.try_pop() is None, "the failed commit changed nothing"
        field[:] = 7.0
        del field
        tx.commit(4)
        seen = rx.peek(8)
        assert not seen.flags.writeable
        assert seen["id"].tolist() == [1, 2, 3, 4]
        with pytest.raises(BufferError):
            rx.release(4)
        with pytest.raises(BufferError):
            rx.close()
        with pytest.raises(BufferError):
            ring.close()
        assert seen["where"].tolist() == [[7.0] * 3] * 4, "still the same slots"
        del seen
        rx.release(4)
        assert len(rx.peek(1)) == 0
        rx.release(0)


def test_views_are_the_shared_memory(ring: Ring) -> None:
    with ring.producer() as tx:
        view = tx.reserve(1)
        start = ring.segment.address
        assert start <= view.__array_interface__["data"][0] < start + ring.segment.size + 128
        del view
        tx.commit(0)


def test_other_types_are_refused(ring: Ring) -> None:
    with ring.producer() as tx, ring.consumer() as rx:
        for wrong in (np.zeros(4), np.zeros(4, "V33"), b"x" * POINT.itemsize):
            with pytest.raises(TypeError, match="the ring's records are"):
                tx.push_array(wrong)
        with pytest.raises(TypeError, match="records are"):
            rx.pop_array(np.zeros(4))
        with pytest.raises(TypeError, match="out must be an array"):
            rx.pop_array(bytearray(POINT.itemsize))
        with pytest.raises((BufferError, ValueError)):
            rx.pop_array(np.zeros(8, POINT)[::2])
        assert tx.push_array(points(0, 16)[::2]) == 8, "copied when it is not contiguous"
        assert np.frombuffer(rx.pop(), POINT)["id"] == 0
        tx.push(points(99, 1).tobytes())
        out = np.zeros(8, POINT)
        assert rx.pop_array(out) == 8
        assert out["id"].tolist() == [2, 4, 6, 8, 10, 12, 14, 99]


@pytest.mark.parametrize(
    ("dtype", "error"),
    [("O", TypeError), ([("a", "O")], TypeError), (("f4", 3), ValueError), ("V0", ValueError), ("what?", TypeError)],
)
def test_impossible_types(dtype: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        Ring.create(8, dtype=dtype)


def test_size_and_type_must_agree() -> None:
    Ring.create(8, 8, dtype="f8").close()
    with pytest.raises(ValueError, match="leave slot_size out"):
        Ring.create(8, 4, dtype="f8")
    with pytest.raises(TypeError, match="slot_size or dtype"):
        Ring.create(8)


@pytest.mark.parametrize("dtype", ["<i2", ">f8", "S7", POINT, np.dtype([("a", "u1"), ("b", "<u8")], align=True)])
def test_attach_knows_the_type(dtype: object, name: str) -> None:
    with Ring.create(8, dtype=dtype, name=name), Ring.attach(name) as same:
        assert same.dtype == np.dtype(dtype)


def test_an_unrelated_process_reads_records(name: str) -> None:
    script = (
        "import shmq, numpy\n"
        f"with shmq.Ring.attach({name!r}) as ring, ring.consumer() as rx:\n"
        "    print(rx.peek(8)['id'].tolist())\n"
        "    rx.release(3)\n"
    )
    with Ring.create(8, dtype=POINT, name=name) as ring, ring.producer() as tx:
        tx.push_array(points(5, 3))
        assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[5, 6, 7]\n"
        assert ring.stats()["pops"] == 3


@pytest.mark.parametrize("text", [b"'<f4'", b"'O'", b"[('a', 'O')]", b"(" * 5000, b"\xff\xff", b"1+", b"None"])
def test_a_type_that_was_overwritten(text: bytes, name: str) -> None:
    with Ring.create(8, dtype=[(f"field{i}", "u1") for i in range(400)], name=name) as ring:
        at = bytes(ring.segment.buf).index(b"shmqtype")
        ring.segment.buf[at + 8 : at + 16] = len(text).to_bytes(8, "little")
        ring.segment.buf[at + 16 : at + 16 + len(text)] = text
        with pytest.raises(CorruptSegment):
            Ring.attach(name)


def test_numpy_is_imported_only_for_a_type() -> None:
    script = (
        "import sys, shmq\n"
        "with shmq.Ring.create(8, 8) as ring, ring.producer() as tx: tx.push_array(bytes(16))\n"
        "assert 'numpy' not in sys.modules\n"
        "with shmq.Ring.create(8, dtype='f8'): pass\n"
        "assert 'numpy' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
