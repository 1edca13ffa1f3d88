"""The files that ``http`` serves: made anew for each run, real files in a temporary folder.

Ten sizes as in the 2019 table, and the size asked for if it is another one. Contents are pseudo-random and seeded, so
that a reply from the wrong offset or file is noticed.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

KB = 1024
SIZES = tuple(n * KB for n in (0, 1, 2, 4, 6, 8, 10, 50, 100)) + (1024 * KB,)
MAX_SIZE = 64 * 1024 * KB


def name_of(size: int) -> str:
    """File name of a reply size in bytes: ``0``, ``1K`` ... ``1M``, else the plain number."""
    if size and size % (KB * KB) == 0:
        return f"{size // (KB * KB)}M"
    if size and size % KB == 0:
        return f"{size // KB}K"
    return str(size)


def make(extra: int, seed: int) -> Path:
    """Write the files into a new temporary folder, which the caller removes (:func:`remove`)."""
    root = Path(tempfile.mkdtemp(prefix="stackcore-docroot-"))
    try:
        for size in sorted({*SIZES, extra}):
            contents = np.random.default_rng((seed, size)).integers(0, 256, size, "u1").tobytes()
            (root / name_of(size)).write_bytes(contents)
    except BaseException:
        remove(root)
        raise
    return root


def remove(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
