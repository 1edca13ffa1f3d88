"""A bundle in Python and in a kernel."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import stackcore.native  # noqa: F401  (before any kernel)
from stackcore.bundle import Bundle
from stackcore.kernel import kernel

ROW = np.dtype([("a", "i8"), ("b", "i4")])


class Pair(Bundle):
    rows: np.ndarray[Any, Any]
    grid: np.ndarray[Any, Any]


def pair(n: int = 4) -> Pair:
    return Pair(rows=np.zeros(n, ROW), grid=np.arange(12, dtype="i8").reshape(3, 4))


@kernel
def touch(p, i):
    p.rows[i]["a"] += p.grid[1, i]
    p.rows[i]["b"] = len(p.rows)
    return p.grid.shape[1]


@kernel
def through(p, i):
    return touch(p, i)


class TestBundle:
    def test_a_kernel_reads_and_writes_the_arrays(self) -> None:
        p = pair()
        assert through(p, 2) == 4
        assert p.rows[2]["a"] == 6 and p.rows[2]["b"] == 4

    def test_each_bundle_has_its_own_arrays(self) -> None:
        p, q = pair(4), pair(7)
        touch(p, 1)
        touch(q, 1)
        assert p.rows[1]["b"] == 4 and q.rows[1]["b"] == 7

    def test_views_with_strides_are_read_right(self) -> None:
        wide = np.arange(24, dtype="i8").reshape(3, 8)
        p = Pair(rows=np.zeros(4, ROW), grid=wide[:, ::2])
        touch(p, 3)
        assert p.rows[3]["a"] == wide[1, 6]

    def test_wrong_names_are_refused(self) -> None:
        with pytest.raises(TypeError, match="grid"):
            Pair(rows=np.zeros(1, ROW))
        with pytest.raises(TypeError, match="more"):
            Pair(rows=np.zeros(1, ROW), grid=np.zeros((1, 1)), more=np.zeros(1))
        with pytest.raises(TypeError, match="dimensions"):
            Pair(rows=np.zeros(1, ROW), grid=np.zeros((1, 1, 1)))

    def test_an_array_cannot_be_bound_anew(self) -> None:
        with pytest.raises(AttributeError, match="bound anew"):
            pair().rows = np.zeros(1, ROW)

    def test_it_cannot_be_pickled(self) -> None:
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(pair())
