"""Squared distances of many rows by matrix products, at their speed, without what they lose to cancellation.

||a - b||^2 = ||a||^2 + ||b||^2 - 2 <a, b> loses nothing while it is about as large as its terms: so it is taken around one of
the rows, in the middle of most, and summed over blocks in float64. Where it is much smaller than its terms, as between rows
that are near each other and far from that one, it is taken again, around one of those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.kernels.arrays import Rows
from fl_impl.aggregators.vectors import FloatArray

WIDTH: Final = 4096
"""Columns of a block, over which products are summed in the dtype of the differences, before float64 takes over."""
CANDIDATES: Final = 24
"""Rows of which the one in the middle is taken."""
LOOKED_AT: Final = 512
"""Columns by which the middle is found."""
CANCELLED: Final = 0.125
"""Distances below this share of their terms are taken again: others lose no more than three bits."""

Differences = Callable[[Rows, str], FloatArray]
"""(rows, dtype to take differences in) -> (n, n) squared distances above the diagonal."""


def pairwise(rows: Rows, differences: Differences, many: int) -> FloatArray:
    """(n, n): squared distances, right above the diagonal; of fewer than `many` rows what `differences` says.

    Non-finite rows, and what overflows the dtype, are infinite or NaN in their own distances.
    """
    if rows.n < many:
        return differences(rows, rows.dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        distances = _gram(rows, _in_the_middle(rows))  # whose memory is used for all that follows
        own = np.diag(distances).copy()
        if not np.isfinite(own).all():
            return differences(rows, rows.dtype)  # which spoils no distance but those of such rows
        distances *= -2
        distances += own[:, None]
        distances += own
        np.maximum(distances, 0, out=distances)
        again = np.zeros(distances.shape, np.bool_)
        for i in range(rows.n - 1):
            np.less(distances[i, i + 1 :], CANCELLED * (own[i] + own[i + 1 :]), out=again[i, i + 1 :])
    if again.any():
        _take_again(rows, distances, again, differences, many)
    return distances


def _take_again(rows: Rows, distances: FloatArray, again: npt.NDArray[np.bool_], differences: Differences, many: int) -> None:
    """Put right the pairs that cancelled: around one of their rows while that leaves out others, else by differences."""
    few = np.flatnonzero(again.any(axis=0) | again.any(axis=1))
    part = Rows(rows.x, rows.chosen[few])
    found = pairwise(part, differences, many) if 4 * len(few) < 3 * rows.n else differences(part, rows.dtype)
    i, j = np.nonzero(again[np.ix_(few, few)])
    distances[few[i], few[j]] = found[i, j]


def _gram(rows: Rows, middle: int) -> FloatArray:
    """(n, n) inner products of the differences from a row, those in the dtype of the rows."""
    gram = np.zeros((rows.n, rows.n))
    held, products = np.empty((rows.n, WIDTH), rows.dtype), np.empty(gram.shape, rows.dtype)
    for start in range(0, rows.d, WIDTH):
        columns = slice(start, min(rows.d, start + WIDTH))
        block, centre = held[:, : columns.stop - start], rows.part(middle, columns)
        for i in range(rows.n):
            np.subtract(rows.part(i, columns), centre, out=block[i])
        gram += np.matmul(block, block.T, out=products)
    return gram


def _in_the_middle(rows: Rows) -> int:
    """Of some rows the one with the least median distance to all, by some of the columns."""
    step = max(1, rows.d // LOOKED_AT)
    seen = np.stack([rows.part(i, slice(None, None, step))[:LOOKED_AT] for i in range(rows.n)])
    candidates = np.linspace(0, rows.n - 1, CANDIDATES).round().astype(int)
    away = [np.median(np.square(seen - seen[i]).sum(axis=1)) for i in candidates]
    return int(candidates[int(np.argmin(np.nan_to_num(away, nan=np.inf)))])
