"""Lengths and angles of updates at any magnitude, and what shortens them; on tensors the gradient flows through it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.inputs import is_tensor, without_gradient
from fl_impl.aggregators.kernels import Unfit, combine, distances_to, norms

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix

COLUMNS: Final = 1 << 12
TINY: Final = float(np.finfo(np.float64).tiny)


def lengths(x: Matrix, around: Any = None) -> Any:
    """(n,) float64: ||x_i - around||, with around = 0 if None; a tensor for a tensor.

    Raises Unfit for NaN and infinity, and for what is longer than the greatest number.
    """
    with np.errstate(over="ignore"):
        found = _lengths(x, around)
    if not bool((found < float("inf")).all()):
        raise Unfit
    return found


def _lengths(x: Matrix, around: Any) -> Any:
    if is_tensor(x):
        return sys.modules["torch"].linalg.vector_norm((x if around is None else x - around).double(), dim=1)
    if around is None:
        return norms(x)
    found = np.sqrt(distances_to(x, around))
    squared_too_long = np.isinf(found)
    if squared_too_long.any():
        found[squared_too_long] = norms(x)[squared_too_long]  # beside which a centre makes no difference
    return found


def fixed_lengths(x: Matrix) -> npt.NDArray[np.float64]:
    """`lengths` as numbers, through which no gradient flows."""
    found = lengths(without_gradient(x))
    return found.cpu().numpy() if is_tensor(found) else found


def shortening(lengths: Any, to: Any) -> Any:
    """(n,) factors min(1, to / length)."""
    if is_tensor(lengths):
        return sys.modules["torch"].where(lengths > to, to / lengths.clamp(min=TINY), 1.0)
    return np.divide(to, lengths, where=lengths > to, out=np.ones_like(lengths))


def rescaled(x: Matrix, factors: Any) -> Any:
    """(n, d): each row times its factor, multiplied in float64."""
    if is_tensor(x):
        return (x.double() * factors[:, None]).to(x.dtype)
    return np.multiply(x, factors[:, None], out=np.empty(x.shape, x.dtype), dtype=np.float64, casting="same_kind")


def weighted_sum(weights: Any, x: Matrix) -> Any:
    """(d,): sum_i w_i x_i; the gradient also flows through weights that are a tensor."""
    return (weights @ x.double()).to(x.dtype) if is_tensor(weights) and is_tensor(x) else combine(weights, x)


def cosines(x: Matrix, y: Matrix) -> npt.NDArray[np.float64]:
    """(n, m) cosines between the rows of x and those of y, 0 where one is 0. No gradient flows through them."""
    if is_tensor(x) and is_tensor(y):
        left, right = x.detach().double(), y.detach().double()
        products = (left / _column(lengths(left))) @ (right / _column(lengths(right))).T
        return products.clamp(-1.0, 1.0).cpu().numpy()
    products = np.zeros((len(x), len(y)))
    left, right = (np.maximum(lengths(rows), TINY)[:, None] for rows in (x, y))
    for start in range(0, x.shape[1], COLUMNS):
        block = slice(start, start + COLUMNS)
        unit = x[:, block] / left
        products += unit @ (unit if y is x else y[:, block] / right).T
    return np.clip(products, -1.0, 1.0)


def _column(lengths: Any) -> Any:
    return lengths.clamp(min=TINY)[:, None]
