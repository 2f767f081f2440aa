"""The geometric median of points of which only the distances are known, by safeguarded Newton steps from the medoid."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.base import ConvergenceWarning, Weights
from fl_impl.aggregators.rules.neighbours import central

FloatArray = npt.NDArray[np.float64]

FAR: Final = 1e7
"""The squared distances of a point further out than this many typical distances have lost the digits that say in
which direction it lies. It is then taken to lie at a right angle to the others, which bounds its influence all the
same."""
NEAREST: Final = 1e-100
"""Of the greatest distance: no smaller one is divided by."""
TIED: Final = 1e-6
"""Points whose sums of distances differ by no more than this share may all be minimisers; each is tried."""


@dataclass(frozen=True)
class Median:
    """Weights of the points in their geometric median."""

    weights: Weights
    at_point: bool
    """Whether it is one of the points, or the middle of several that do equally well."""


@dataclass(frozen=True)
class _Iterate:
    """A trial point z = sum_i w_i x_i: the inverse distances to it, and the sum of the distances."""

    weights: Weights
    inverse: FloatArray
    cost: float


def innermost(distances: FloatArray) -> int:
    """The point with the least median distance to the others, which far points cannot drown."""
    return int(np.argmin(np.median(distances, axis=1)))


def spread(distances: FloatArray) -> float:
    """The greatest distance from the innermost point over the median one; 0 where most points are equal."""
    own = distances[innermost(distances)]
    typical = float(np.median(own))
    return float(np.sqrt(own.max()) / np.sqrt(typical)) if typical > 0 else 0.0


def geometric_median(distances: FloatArray, *, tolerance: float, max_steps: int) -> Median:
    """The point with the least sum of distances to the n points of which `distances` (n, n) are the squared ones.

    Converged: ||sum_i u_i|| <= tolerance n with u_i the unit vector to point i, or <= k at a point that occurs k times.
    """
    sums = central(distances)
    tied = [int(i) for i in np.flatnonzero(sums <= sums.min() * (1 + TIED))]
    best = [row for row in tied if _pull(_gram_around(distances, row)).excess <= tolerance]
    if best:
        weights = np.zeros(len(sums))
        weights[best] = 1 / len(best)
        return Median(weights, at_point=True)
    medoid = int(np.argmin(sums))
    gram = _gram_around(distances, medoid)
    weights = _descent(gram, _start(gram, medoid), tolerance, max_steps)
    return Median(weights, at_point=False)


def _gram_around(distances: FloatArray, row: int) -> FloatArray:
    """(n, n) inner products <x_i - x_row, x_j - x_row>."""
    own = distances[row]
    gram = 0.5 * (own[:, None] + own[None, :] - distances)
    lengths = np.sqrt(own)
    far = lengths > FAR * np.median(lengths)
    gram[far, :] = gram[:, far] = 0
    np.fill_diagonal(gram, own)
    return gram


@dataclass(frozen=True)
class _Pull:
    """The sum of the unit vectors from a point that occurs k times to the others: sum_j a_j (x_j - point)."""

    coefficients: FloatArray
    """(n,) a_j = 1 / ||x_j - point||, 0 at the point."""
    length: float
    excess: float
    """(length - k) / k: at most 0 where the point is the minimiser (Kuhn 1973)."""
    curvature: float
    """Of the sum of distances along it."""


def _pull(gram: FloatArray) -> _Pull:
    lengths = np.sqrt(np.diag(gram))
    inverse = np.divide(1, lengths, where=lengths > 0, out=np.zeros_like(lengths))
    products = gram @ inverse
    length = float(np.sqrt(max(inverse @ products, 0)))
    multiplicity = np.count_nonzero(lengths == 0)
    cosines = products * inverse / length if length > 0 else products
    curvature = float((inverse * np.maximum(1 - cosines**2, 0)).sum())
    return _Pull(inverse, length, (length - multiplicity) / multiplicity, curvature)


def _start(gram: FloatArray, medoid: int) -> Weights:
    """Where the sum of distances would be least along the pull on the medoid; nearer to it, until it is less there."""
    lengths = np.sqrt(np.diag(gram))
    pull, nearest = _pull(gram), float(lengths[lengths > 0].min())
    step = min(pull.excess * np.count_nonzero(lengths == 0) / max(pull.curvature, pull.excess / nearest), nearest)
    for halvings in range(60):
        weights = pull.coefficients * (step / 2**halvings / pull.length)
        weights[medoid] += 1 - weights.sum()
        if np.sqrt(_squared_distances(gram, weights)).sum() < lengths.sum():
            return weights
    return pull.coefficients / pull.coefficients.sum()


def _descent(gram: FloatArray, start: Weights, tolerance: float, max_steps: int) -> Weights:
    """Newton's steps, and Weiszfeld's, which always descends, wherever Newton's does not."""
    now, residual = _at(gram, start), np.inf
    for _ in range(max_steps):
        step, residual = _newton(gram, now)
        trial = _at(gram, now.weights + step)
        weiszfeld = now.inverse / now.inverse.sum()
        if residual <= tolerance * len(gram):
            return trial.inverse / trial.inverse.sum() if trial.cost <= now.cost else weiszfeld
        now = trial if trial.cost < now.cost else _at(gram, weiszfeld)
    warnings.warn(
        f"the geometric median did not converge in max_steps={max_steps}: the pull of the updates on it is "
        f"{residual:.1e}, not {tolerance * len(gram):.1e}",
        ConvergenceWarning,
        stacklevel=2,
    )
    return now.inverse / now.inverse.sum()


def _squared_distances(gram: FloatArray, weights: Weights) -> FloatArray:
    """(n,) ||x_i - z||^2 for z = sum_i w_i x_i."""
    products = gram @ weights
    return np.maximum(np.diag(gram) - 2 * products + weights @ products, 0)


def _at(gram: FloatArray, weights: Weights) -> _Iterate:
    lengths = np.sqrt(_squared_distances(gram, weights))
    return _Iterate(weights, 1 / np.maximum(lengths, NEAREST * lengths.max()), float(lengths.sum()))


def _newton(gram: FloatArray, now: _Iterate) -> tuple[Weights, float]:
    """(n,) change of weights by Newton's step, and ||g|| for the pull g = sum_i u_i.

    With a_i = 1 / ||x_i - z||, s = sum a_i and V the columns sqrt(a_i) u_i, the Hessian is s I - V V', so by
    Woodbury's identity the step is (g + V (I - C)^-1 V'g / s) / s for C = V'V / s: all of it is on n x n matrices.
    """
    a, s = now.inverse, float(now.inverse.sum())
    change = a - s * now.weights  # g = sum_i change_i x_i, and they sum to 0: z drops out
    products = gram @ change
    residual = float(np.sqrt(max(change @ products, 0)))
    own = gram @ now.weights
    around = gram - own[:, None] - own[None, :] + now.weights @ own
    root = np.sqrt(a / s)
    c = around * (a * root)[:, None] * (a * root)[None, :]
    along = root * a * (products - now.weights @ products)
    solution = np.linalg.solve(np.eye(len(a)) * (1 + 1e-12) - c, along)
    toward = (a + solution * root * a) / s
    return toward - now.weights * toward.sum(), residual
