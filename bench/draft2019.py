"""The 2019 draft's throughput table: requests a second of nginx with keep-alive, by reply size and workers.

Source: the Plotly pages under `Performance Graph/` of github.com/leopoldsga/notes (July-August 2019). L: lockless with
duplicated listeners. V: VLS, a read-write lock around each socket call; the V column of two workers has no name on its page
and is V by its place.

How far to trust it: no number of runs, no spread and no hardware are given; V stands flat at 221-226 k from 1 to 6 KB with
four workers, so the largest ratio (2.26) rests on one odd cell. It gives the *shape* to compare with, not the height: a small
gain with one worker, more with more workers, nothing once another resource binds.
"""

from __future__ import annotations

SIZES = ("0", "1K", "2K", "4K", "6K", "8K", "10K", "50K", "100K", "1M")

# workers -> (L, V), each by SIZES
_RATES = {
    1: (
        (215_166, 142_480, 136_300, 127_634, 121_395, 120_823, 115_940, 64_788, 30_237, 3_961),
        (193_748, 125_984, 121_008, 113_761, 107_491, 105_695, 100_648, 61_420, 27_712, 3_932),
    ),
    2: (
        (373_729, 252_808, 245_635, 237_961, 221_115, 206_532, 177_053, 54_370, 29_900, 4_091),
        (333_274, 207_135, 203_562, 190_353, 177_870, 174_170, 168_196, 49_653, 26_639, 4_083),
    ),
    4: (
        (700_445, 499_493, 426_215, 273_756, 232_094, 200_893, 174_802, 54_308, 29_139, 4_024),
        (535_879, 221_027, 224_426, 225_302, 226_039, 192_416, 164_383, 48_634, 27_277, 4_025),
    ),
}


def ratio(workers: int, size: str) -> float | None:
    """Return the draft's L / V for this cell, or None when the draft has no such cell."""
    if workers not in _RATES or size not in SIZES:
        return None
    lockless, locked = _RATES[workers]
    at = SIZES.index(size)
    return lockless[at] / locked[at]
