"""Every kernel in plain numpy, over blocks of columns that stay in the cache: serves where llvmlite is not installed."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.kernels import formulas
from fl_impl.aggregators.kernels.arrays import Array, Rows
from fl_impl.aggregators.vectors import FloatArray

SORT_ABOVE: Final = 128
"""Clients above which numpy's sort is faster than a network of numpy calls."""
MANY_ROWS: Final = 16
"""From which on matrix products are faster than differences of numpy rows."""
SQUARED: Final = 1024
"""Columns over which squares are summed in the dtype of the differences, before float64 takes over."""


@dataclass(frozen=True)
class ArrayOperations:
    """`formulas.Operations` on numpy rows."""

    dtype: str

    def minimum(self, a: Array, b: Array) -> Array:
        """The lesser of a and b, entry by entry."""
        return np.minimum(a, b)

    def maximum(self, a: Array, b: Array) -> Array:
        """The greater of a and b, entry by entry."""
        return np.maximum(a, b)

    def choose(self, mask: npt.NDArray[np.bool_], yes: Array, no: Array) -> Array:
        """The entries of yes where the mask is true, of no elsewhere."""
        return np.where(mask, yes, no)

    def widen(self, value: Array) -> FloatArray:
        """The values in float64."""
        return value.astype(np.float64, copy=False)

    def narrow(self, value: FloatArray) -> Array:
        """The values rounded to `dtype`."""
        return value.astype(self.dtype, copy=False)

    def arrange(self, values: Sequence[Array], classes: Sequence[Hashable | None]) -> list[Array]:
        """Sorted as far as the classes need, or wholly."""
        if len(values) <= SORT_ABOVE:
            return formulas.exchanged(self, values, classes)
        return list(np.ascontiguousarray(np.sort(np.stack(values, axis=1), axis=1).T))


def coordinatewise(formula: formulas.Formula, rows: Rows, mixing: FloatArray | None) -> tuple[Array, bool]:
    """The formula at every column, of the rows or of mixing @ rows; and whether all that was read was finite."""
    result, sound = np.empty(rows.d, rows.dtype), True
    do = ArrayOperations(rows.dtype)
    narrow = None if mixing is None else mixing.astype(rows.dtype)
    near = None if mixing is None else rows[formulas.reference(mixing)]
    with np.errstate(over="ignore", invalid="ignore"):
        for columns in column_blocks(rows):
            values: Any = [rows.part(i, columns) for i in range(rows.n)]
            if narrow is not None and near is not None:
                values = narrow @ (np.stack(values) - near[columns])
            sound = sound and bool(np.isfinite(sum(values)).all())
            found = formula(do, values)
            result[columns] = found if near is None else found + near[columns]
    return result, sound


def product(mixing: FloatArray, rows: Rows) -> tuple[Array, bool]:
    """mixing @ rows, accumulated in float64; and whether all of it is finite."""
    result, sound = np.empty((len(mixing), rows.d), rows.dtype), True
    with np.errstate(over="ignore", invalid="ignore"):
        for columns in column_blocks(rows):
            exact = np.zeros((len(mixing), columns.stop - columns.start))
            for i in range(rows.n):
                exact += mixing[:, i, None] * rows.part(i, columns).astype(np.float64, copy=False)
            sound = sound and bool(np.isfinite(exact).all())
            result[:, columns] = exact
    return result, sound


def pairwise(rows: Rows, within: str) -> FloatArray:
    """(n, n): squared distances above the diagonal by differences in the dtype `within`; 0 elsewhere."""
    n = rows.n
    distances = np.zeros((n, n))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for columns in column_blocks(rows):
            block = rows.block(columns, within)
            gaps = np.empty_like(block)
            for i in range(n - 1):
                below = np.subtract(block[i + 1 :], block[i], out=gaps[i + 1 :])
                distances[i, i + 1 :] += _squares(below)
    return distances


def squares(rows: Rows, centre: Array | None) -> FloatArray:
    """(n,): sum_k (rows[i][k] - centre[k])^2 in float64; the centre is 0 where there is none."""
    total = np.zeros(rows.n)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for columns in column_blocks(rows):
            for i in range(rows.n):
                gap = rows.part(i, columns).astype(np.float64)
                if centre is not None:
                    gap -= centre[columns]
                total[i] += gap @ gap
    return total


def column_blocks(rows: Rows) -> Iterator[slice]:
    """Ranges of columns, of which the rows that are worked on fit the cache."""
    step = 1 << 14 if rows.n <= SORT_ABOVE else 1 << 12
    for start in range(0, rows.d, step):
        yield slice(start, min(rows.d, start + step))


def _squares(gaps: Array) -> FloatArray:
    """(m,): sums of squares of the rows of (m, columns)."""
    m, columns = gaps.shape
    whole = columns // SQUARED * SQUARED
    parts, rest = gaps[:, :whole].reshape(m, -1, SQUARED), gaps[:, whole:]
    return np.vecdot(parts, parts).sum(axis=1, dtype=np.float64) + np.vecdot(rest, rest)
