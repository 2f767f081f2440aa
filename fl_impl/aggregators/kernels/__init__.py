"""The fast parts: what rules compute over an (n, d) matrix of updates, in one pass and with no second such matrix.

Every function takes a numpy array, float32 or float64, or a torch tensor, which is computed on by plain torch operations
where it lies, and differentiates. Inputs are never written to. A NaN or an infinity among the values that are read raises
`Unfit`; finite values of any magnitude do not.

How a rule becomes a kernel, in the order to read: `networks` says which values to exchange so that the wanted ones come to
their places; `formulas` says what is made of those; `emit` runs a formula on vectors that write down each operation as an
instruction; `columns` puts a loop over the coordinates around it, and `means` one after a mixing. For many clients `selected`
finds ranks by counting (`selection`) among integers in the order of the numbers (`keys`). `compiled` turns the text into a
function; `generated` calls that for ranges of columns, on the threads of `parallel`. `blocks` runs the same formulas on numpy
rows. `on_arrays` chooses between the two, and looks again where a number ran out of the range of its type.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.inputs import is_tensor
from fl_impl.aggregators.kernels.formulas import NearestMean, RankMean
from fl_impl.aggregators.kernels.geometry import FARTHEST, Geometry
from fl_impl.aggregators.kernels.parallel import threads
from fl_impl.aggregators.kernels.unfit import Unfit
from fl_impl.aggregators.vectors import FloatArray

if TYPE_CHECKING:
    from types import ModuleType

    from fl_impl.aggregators.inputs import Matrix

__all__ = [
    "FARTHEST",
    "Geometry",
    "Unfit",
    "average",
    "combine",
    "combine_rows",
    "distances_to",
    "geometry",
    "nearest_mean",
    "norms",
    "rank_mean",
    "squared_norms",
    "threads",
]


def rank_mean(x: Matrix, low: int, high: int, mixing: npt.ArrayLike | None = None, *, rows: npt.ArrayLike | None = None) -> Any:
    """(d,): per coordinate the mean of the sorted values number low to high - 1 (0 <= low < high <= n).

    Median: the middle one or two; trimmed mean: f to n - f. The values are those of x[rows], all rows by default, or of
    mixing @ x[rows] for an (n', n) matrix whose rows sum to 1; neither is formed. Raises Unfit for NaN and infinity.
    """
    n = _count(x, rows, mixing)
    _check_window(low, high, n)
    return _path(x).coordinatewise(RankMean(low, high), x, rows, mixing)


def nearest_mean(
    x: Matrix, low: int, high: int, keep: int, mixing: npt.ArrayLike | None = None, *, rows: npt.ArrayLike | None = None
) -> Any:
    """(d,): per coordinate the mean of the `keep` values nearest to c, the mean of the sorted values low to high - 1.

    Of two values equally near to c the smaller is taken. `rows` and `mixing` as in `rank_mean`. Raises Unfit for NaN and
    infinity.
    """
    n = _count(x, rows, mixing)
    _check_window(low, high, n)
    _check_window(0, keep, n)
    return _path(x).coordinatewise(NearestMean(low, high, keep), x, rows, mixing)


def geometry(x: Matrix) -> Geometry:
    """The pairwise squared distances of the rows of x, in float64 on the CPU; no gradient flows through them.

    Raises Unfit for NaN and infinity.
    """
    return _path(x).geometry(x)


def combine(weights: npt.ArrayLike, x: Matrix) -> Any:
    """(d,): sum_i w_i x_i, accumulated in float64. Rows of weight 0 are never read.

    Shares 1/m of m rows are a mean: see `average`, which alone rounds once. Raises Unfit where a row that is read holds NaN
    or infinity.
    """
    shares = np.asarray(weights, np.float64)
    taken = shares != 0
    count = np.count_nonzero(taken)
    if count and (shares[taken] == 1 / count).all():
        return average(taken, x)
    return _path(x).product(shares[None, :], x)[0]


def average(weights: npt.ArrayLike, x: Matrix) -> Any:
    """(d,): sum_i w_i x_i / sum_i w_i for weights >= 0, some positive, accumulated in float64.

    One division at the end: where the sum is exact, as of small integers with counts as weights, so is the mean. The weights
    are scaled by a power of two, which rounds nothing, to a sum below 1, so that no sum overflows. Raises as `combine`.
    """
    w = np.asarray(weights, np.float64)
    w = np.ldexp(w, -np.frexp(w.max())[1])
    w = np.ldexp(w, -np.frexp(w.sum())[1])
    return _path(x).product(w[None, :], x)[0] / float(w.sum())


def combine_rows(mixing: npt.ArrayLike, x: Matrix) -> Any:
    """(n', d): mixing @ x for an (n', n) matrix, accumulated in float64. Rows that only meet weight 0 are never read.

    Raises Unfit where a row that is read holds NaN or infinity.
    """
    return _path(x).product(np.asarray(mixing, np.float64), x)


def squared_norms(x: Matrix) -> FloatArray:
    """(n,) float64: ||x_i||^2, infinite where that overflows. Raises Unfit for NaN and infinity in x."""
    return _path(x).squares(x, None)


def norms(x: Matrix) -> FloatArray:
    """(n,) float64: ||x_i||, right also where its square overflows. Raises Unfit for NaN and infinity in x."""
    return _path(x).norms(x)


def distances_to(x: Matrix, v: Matrix) -> FloatArray:
    """(n,) float64: ||x_i - v||^2, infinite where that overflows. Raises Unfit for NaN and infinity in x."""
    return _path(x).squares(x, v)


def _path(x: Matrix) -> ModuleType:
    """The module that computes on x."""
    if is_tensor(x):
        from fl_impl.aggregators.kernels import on_tensors  # noqa: PLC0415  # a tensor is there, so torch is loaded

        return on_tensors
    return _on_arrays()


@cache
def _on_arrays() -> ModuleType:
    """The path of numpy arrays, imported by the first that takes it."""
    from fl_impl.aggregators.kernels import on_arrays  # noqa: PLC0415  # so no rule's import waits for every kernel's

    return on_arrays


def _count(x: Matrix, rows: npt.ArrayLike | None, mixing: npt.ArrayLike | None) -> int:
    """How many values there are at each coordinate."""
    counted = mixing if mixing is not None else rows if rows is not None else x
    return len(np.asarray(counted)) if counted is not x else len(x)


def _check_window(low: int, high: int, n: int) -> None:
    if not 0 <= low < high <= n:
        raise ValueError(f"expected 0 <= low < high <= n={n} sorted values, got low={low}, high={high}")
