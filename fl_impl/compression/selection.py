"""Which entries of a vector are the largest, and how their indices are written down."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

BLOCK: Final = 2**16
STRIDE: Final = 64
"""One entry in so many is looked at to guess a magnitude that few entries reach."""


def largest(x: npt.NDArray[np.float32], k: int) -> Indices:
    """The indices, in order, of the k entries of greatest magnitude; of equal ones the first.

    Only entries above a guess from a sample are sorted out: the guess costs time where it is bad, never the result.
    """
    magnitudes = np.abs(x)
    candidates = np.flatnonzero(magnitudes >= _guess(magnitudes, k))
    if candidates.size < k:
        candidates = np.arange(x.size)
    found = magnitudes[candidates]
    least = np.partition(found, found.size - k)[found.size - k]
    above = found > least
    ties = np.flatnonzero(found == least)[: k - int(above.sum())]
    above[ties] = True
    return candidates[above]


def indices_to_blocks(indices: Indices, d: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
    """(counts, offsets): how many of the ascending indices lie in each block of 65536, and where in it."""
    counts = np.bincount(indices // BLOCK, minlength=-(-d // BLOCK))
    return counts.astype("<u4"), (indices % BLOCK).astype("<u2")


def indices_from_blocks(counts: npt.NDArray[Any], offsets: npt.NDArray[Any], d: int) -> Indices:
    """The indices that `indices_to_blocks` wrote. Raises ValueError unless they ascend, within d."""
    if int(counts.sum(dtype=np.uint64)) != offsets.size:
        raise ValueError(f"the blocks announce {counts.sum(dtype=np.uint64)} entries, and {offsets.size} came")
    indices = np.repeat(np.arange(counts.size) * BLOCK, counts) + offsets
    if indices.size and (int(indices[-1]) >= d or not (np.diff(indices) > 0).all()):
        raise ValueError(f"expected ascending indices below {d}; got some out of order, given twice, or beyond")
    return indices


def _guess(magnitudes: npt.NDArray[np.float32], k: int) -> float:
    """A magnitude that about 2 k entries, and at least 8 of the sample, reach; 0 where the sample is too small to say."""
    sample = magnitudes[::STRIDE]
    rank = sample.size - max(2 * k // STRIDE, 8)
    return float(np.partition(sample, rank)[rank]) if rank > 0 else 0.0
