"""Kernels on numpy arrays: which path computes, what is screened, and what is done again where a float type ran out."""

from __future__ import annotations

import os
import warnings
from functools import cache, lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.kernels import blocks, gram
from fl_impl.aggregators.kernels.arrays import Array, Rows, rows_of
from fl_impl.aggregators.kernels.formulas import Formula, RankMean
from fl_impl.aggregators.kernels.geometry import Geometry, symmetric
from fl_impl.aggregators.kernels.unfit import Unfit
from fl_impl.aggregators.vectors import FloatArray

VARIABLE: Final = "PYTEST_FL_KERNELS"
WORTHWHILE: Final = 1 << 15
"""Elements below which numpy is fast enough that compiling does not pay."""
FEWEST_COLUMNS: Final = 64
"""The widest block of a kernel."""
TINY: Final = 2.0**-90
"""Squared float32 differences below this, one a column, may have lost to underflow."""


def coordinatewise(formula: Formula, x: Array, rows: npt.ArrayLike | None, mixing: npt.ArrayLike | None) -> Array:
    """The formula at every column of x[rows], or of mixing @ x[rows]."""
    chosen = rows_of(x, rows)
    m = None if mixing is None else np.asarray(mixing, np.float64)
    result, sound = _path(chosen).coordinatewise(formula, chosen, m)
    if sound:
        return result
    _check_finite(chosen)
    # All is finite, and a sum overflowed. Sorting float32 values and adding them up in float64 suffers nothing from that.
    suffers_not = m is None and chosen.dtype == "float32" and isinstance(formula, RankMean)
    return result if suffers_not else _scaled(formula, chosen, m)


def product(mixing: FloatArray, x: Array) -> Array:
    """mixing @ x, without reading rows of x whose weights are all 0."""
    read = np.flatnonzero(mixing.any(axis=0))
    if not len(read):
        return np.zeros((len(mixing), x.shape[1]), x.dtype)
    rows = rows_of(x, read)
    result, sound = _path(rows).product(np.ascontiguousarray(mixing[:, read]), rows)
    if not sound and not rows.are_finite():
        raise Unfit
    return result


def geometry(x: Array) -> Geometry:
    """Pairwise squared distances in the dtype of x; in float64 where float32 was too narrow for them."""
    rows = rows_of(x)
    path = _path(rows)
    distances = gram.pairwise(rows, path.pairwise, path.MANY_ROWS)
    if rows.n == 1 or not np.isfinite(distances).all():
        _check_finite(rows)
    if rows.dtype == "float32" and _out_of_range(distances, rows):
        distances = path.pairwise(rows, "float64")
    return Geometry(symmetric(distances))


def squares(x: Array, centre: Array | None) -> FloatArray:
    """(n,): ||x_i - centre||^2, infinite where that overflows."""
    rows = rows_of(x)
    found: FloatArray = _path(rows).squares(rows, None if centre is None else np.ascontiguousarray(centre, x.dtype))
    if not np.isfinite(found).all():
        _check_finite(rows)
    return found


def norms(x: Array) -> FloatArray:
    """(n,): ||x_i||, right where the square overflows or underflows."""
    squared = squares(x, None)
    found = np.sqrt(squared)
    for i in np.flatnonzero(~((squared > 1e-290) & (squared < np.inf))):
        exponent = np.frexp(np.abs(x[i]).max())[1]
        with np.errstate(over="ignore"):
            found[i] = np.ldexp(np.linalg.norm(np.ldexp(x[i], -exponent)), exponent)
    return found


def _path(rows: Rows) -> ModuleType:
    """The module that computes: a function of shapes alone, so that equal calls give equal bits."""
    small = rows.n * rows.d < WORTHWHILE or rows.d < FEWEST_COLUMNS
    if small or not _can_generate(os.environ.get(VARIABLE, "")):
        return blocks
    path = _generated()
    return path if rows.stored != "float16" or path.host().halves else blocks


@cache
def _can_generate(wanted: str) -> bool:
    if wanted not in ("", "numpy", "generated"):
        raise ValueError(f'{VARIABLE} must be "numpy" or "generated"; got {wanted!r}')
    found = find_spec("llvmlite") is not None
    if wanted == "generated" and not found:
        raise ImportError(f"{VARIABLE}=generated needs llvmlite, which does not import here: pip install llvmlite")
    if not found and not wanted:
        warnings.warn(
            "llvmlite is not installed, so kernels run on numpy, several times slower: pip install llvmlite, or set "
            f"{VARIABLE}=numpy",
            RuntimeWarning,
            stacklevel=2,
        )
    return found and wanted != "numpy"


def _generated() -> ModuleType:
    from fl_impl.aggregators.kernels import generated  # noqa: PLC0415  # llvmlite takes time to import, and may be missing

    return generated


def _check_finite(rows: Rows) -> None:
    if not rows.are_finite():
        raise Unfit


def _out_of_range(distances: FloatArray, rows: Rows) -> bool:
    """Whether a squared distance overflowed float32, or is so small that squares of differences may have vanished.

    A distance of 0 between equal rows is right.
    """
    upper = distances[_above_diagonal(rows.n)]
    if not np.isfinite(upper).all() or ((upper > 0) & (upper < rows.d * TINY)).any():
        return True
    if upper.all():
        return False
    first, second = np.nonzero(_above_diagonal(rows.n) & (distances == 0))
    latest = dict(zip(second.tolist(), first.tolist(), strict=True))  # each row is compared with one that it equals
    return not all(np.array_equal(rows[i], rows[j]) for j, i in latest.items())


@lru_cache(maxsize=16)
def _above_diagonal(n: int) -> npt.NDArray[np.bool_]:
    return np.triu(np.ones((n, n), bool), 1)


def _scaled(formula: Formula, rows: Rows, mixing: FloatArray | None) -> Array:
    """The formula in float64, of values made smaller by a power of two on the way: slow, and rarely needed."""
    result = np.empty(rows.d, rows.dtype)
    for start in range(0, rows.d, blocks.SQUARED):
        columns = slice(start, start + blocks.SQUARED)
        smaller = rows_of(rows.block(columns, "float64") * 2.0**-32)
        result[columns] = blocks.coordinatewise(formula, smaller, mixing)[0] * 2.0**32
    return result
