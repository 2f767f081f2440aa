"""Each rule by its definition, in plain float64 numpy: every answer that it may give, near-ties included.

An answer set has one row for each tied choice: selections whose scores differ by less than a rounding of the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Definition = Callable[[Floats, int], Floats]
"""((n, d), f) -> (k, d): all admissible answers; none where there are infinitely many."""
NEAR: Final = 1e-9
"""Relative difference of two scores that count as equal."""
DEFINITIONS: Final[dict[str, Definition]] = {}
"""By the name of the rule in `theory.RULES`."""


def definition(name: str) -> Callable[[Definition], Definition]:
    """Register the definition of a rule."""

    def register(function: Definition) -> Definition:
        DEFINITIONS[name] = function
        return function

    return register


def _squared_distances(x: Floats) -> Floats:
    return ((x[:, None] - x[None]) ** 2).sum(-1)


def _least(scores: Floats) -> npt.NDArray[np.intp]:
    return np.flatnonzero(scores <= scores.min() * (1 + NEAR))


@definition("mean")
def mean(x: Floats, f: int) -> Floats:
    """The mean of all n inputs, sum x_i / n."""
    del f
    return x.mean(0)[None]


@definition("trimmed_mean")
def trimmed_mean(x: Floats, f: int) -> Floats:
    """Per coordinate the mean of what is left without the f smallest and the f greatest (Yin et al. 2018)."""
    return np.sort(x, axis=0)[f : len(x) - f].mean(0)[None]


@definition("coordinate_median")
def coordinate_median(x: Floats, f: int) -> Floats:
    """Per coordinate the median, the midpoint of the middle two for even n."""
    del f
    return np.median(x, axis=0)[None]


@definition("coordinate_median_lower")
def coordinate_median_lower(x: Floats, f: int) -> Floats:
    """Per coordinate the lower median."""
    del f
    return np.sort(x, axis=0)[(len(x) - 1) // 2][None]


def _mean_around(x: Floats, f: int, centre: Floats) -> Floats:
    nearest = np.argsort(np.abs(x - centre), axis=0, kind="stable")[: len(x) - f]
    return np.take_along_axis(x, nearest, axis=0).mean(0)[None]


@definition("meamed")
def meamed(x: Floats, f: int) -> Floats:
    """Per coordinate the mean of the n - f values nearest to the median (Xie et al. 2018, arXiv 1802.10116)."""
    return _mean_around(x, f, np.median(x, axis=0))


@definition("phocas")
def phocas(x: Floats, f: int) -> Floats:
    """Per coordinate the mean of the n - f values nearest to the trimmed mean (Xie et al. 2018, arXiv 1805.09682)."""
    return _mean_around(x, f, trimmed_mean(x, f)[0])


def _krum_scores(distances: Floats, neighbours: int) -> Floats:
    others = np.sort(distances + np.diag(np.full(len(distances), np.inf)), axis=1)
    return others[:, :neighbours].sum(1)


@definition("krum")
def krum(x: Floats, f: int) -> Floats:
    """The input with the least sum of squared distances to its n - f - 1 nearest others."""
    return x[_least(_krum_scores(_squared_distances(x), len(x) - f - 1))]


@definition("krum_blanchard")
def krum_blanchard(x: Floats, f: int) -> Floats:
    """The same with n - f - 2 others (Blanchard et al. 2017, arXiv 1703.02757)."""
    return x[_least(_krum_scores(_squared_distances(x), len(x) - f - 2))]


@definition("krum_unsquared")
def krum_unsquared(x: Floats, f: int) -> Floats:
    """The same with n - f - 1 others and plain distances."""
    return x[_least(_krum_scores(np.sqrt(_squared_distances(x)), len(x) - f - 1))]


@definition("multi_krum")
def multi_krum(x: Floats, f: int) -> Floats:
    """The mean of the n - f inputs of least Krum score."""
    scores = _krum_scores(_squared_distances(x), len(x) - f - 1)
    return x[np.argsort(scores, kind="stable")[: len(x) - f]].mean(0)[None]


def _best_means(x: Floats, f: int, cost: Callable[[Floats], float]) -> Floats:
    sets = [list(rows) for rows in combinations(range(len(x)), len(x) - f)]
    best = _least(np.array([cost(x[rows]) for rows in sets]))
    return np.stack([x[sets[index]].mean(0) for index in best])


@definition("minimum_diameter")
def minimum_diameter(x: Floats, f: int) -> Floats:
    """The mean of the n - f inputs whose greatest mutual distance is least."""
    return _best_means(x, f, lambda rows: float(_squared_distances(rows).max()))


@definition("minimum_variance")
def minimum_variance(x: Floats, f: int) -> Floats:
    """The mean of the n - f inputs whose variance is least."""
    return _best_means(x, f, lambda rows: float(((rows - rows.mean(0)) ** 2).sum()))


@definition("smea")
def smea(x: Floats, f: int) -> Floats:
    """The mean of the n - f inputs whose covariance has the least greatest eigenvalue (Allouah et al. 2023)."""
    return _best_means(x, f, lambda rows: float(np.linalg.norm(rows - rows.mean(0), 2)))


def _mixed(x: Floats, f: int) -> Floats:
    nearest = np.argsort(_squared_distances(x), axis=1, kind="stable")[:, : len(x) - f]
    return x[nearest].mean(1)


@definition("nnm|trimmed_mean")
def nnm_trimmed_mean(x: Floats, f: int) -> Floats:
    """Each row replaced by the mean of its n - f nearest, itself included; then the trimmed mean (Allouah et al. 2023)."""
    return trimmed_mean(_mixed(x, f), f)


@definition("nnm|coordinate_median")
def nnm_coordinate_median(x: Floats, f: int) -> Floats:
    """The same, then the median."""
    return coordinate_median(_mixed(x, f), f)


@definition("geometric_median")
def geometric_median(x: Floats, f: int) -> Floats:
    """The point of least summed distance: the best input if it is optimal, else the limit of Weiszfeld's iteration."""
    del f
    if x.shape[1] == 1 and len(x) % 2 == 0:
        return np.empty((0, 1))  # every point between the middle two
    for row in x:
        away = x - row
        lengths = np.linalg.norm(away, axis=1)
        pull = (away[lengths > 0] / lengths[lengths > 0, None]).sum(0)
        if np.linalg.norm(pull) <= (lengths == 0).sum():
            return row[None]
    z = x.mean(axis=0)  # never an input, where the iteration would stay though it is not optimal; the median may be one
    for _ in range(5000):
        weights = 1 / np.maximum(np.linalg.norm(x - z, axis=1), 1e-300)
        z = weights @ x / weights.sum()
    return z[None]


@definition("cge")
def cge(x: Floats, f: int) -> Floats:
    """The mean of the n - f inputs of least norm (Gupta, Liu & Vaidya 2020, arXiv 2008.04699); none where norms tie there."""
    lengths = np.sqrt((x**2).sum(1))
    order = np.argsort(lengths, kind="stable")
    kept = len(x) - f
    if f and lengths[order[kept]] <= lengths[order[kept - 1]] * (1 + NEAR):
        return np.empty((0, x.shape[1]))
    return x[order[:kept]].mean(0)[None]


@definition("aksel")
def aksel(x: Floats, f: int) -> Floats:
    """The mean of the inputs no further from the median of each coordinate than their median distance (AKSEL, OPODIS 2020).

    The lower median of the distances, of an even number: half of the inputs. None where another is as far, by rounding.
    """
    del f
    distances = np.linalg.norm(x - np.median(x, axis=0), axis=1)
    limit = np.sort(distances)[(len(x) - 1) // 2]
    near = (np.abs(distances - limit) <= 1e-6 * limit) & (distances != limit)
    if near.any():
        return np.empty((0, x.shape[1]))
    return x[distances <= limit].mean(0)[None]


@definition("robust_learning_rate")
def robust_learning_rate(x: Floats, f: int) -> Floats:
    """The mean, times -1 in each coordinate where fewer than 2f + 1 signs prevail (Ozdayi et al. 2021, arXiv 2007.03767)."""
    prevailing = np.abs((x > 0).sum(0) - (x < 0).sum(0))
    return np.where(prevailing > 2 * f, x.mean(0), -x.mean(0))[None]


SEPARATED: Final = 1e-4
"""Least relative difference of two eigenvalues of which the eigenvectors are told apart."""


def _principal_axes(x: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Descending eigenvalues of the weighted covariance, and its eigenvectors as rows."""
    centred = (x - weights @ x / weights.sum()) * np.sqrt(weights / weights.sum())[:, None]
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    return singular**2, axes


@definition("principal_trimmed_mean")
def principal_trimmed_mean(x: Floats, f: int) -> Floats:
    """The trimmed mean along each eigenvector of the scatter of all rows, put together; none where eigenvalues are equal."""
    eigenvalues, axes = _principal_axes(x, np.ones(len(x)))
    spread = eigenvalues[eigenvalues > 1e-20 * eigenvalues[0]]
    if (-np.diff(spread) < SEPARATED * spread[:-1]).any():
        return np.empty((0, x.shape[1]))
    middle = x.mean(0)  # beyond the span of the rows, they all lie where their mean does
    return (middle + trimmed_mean((x - middle) @ axes.T, f)[0] @ axes)[None]


@definition("caf")
def caf(x: Floats, f: int) -> Floats:
    """Allouah et al. 2025 (arXiv 2505.01874): weights shrink by 1 - t/max t, t the squared projection on the top axis.

    While they sum to more than n - 2f; of the weighted means on the way those with the least top eigenvalue. None where
    two top eigenvalues are equal.
    """
    weights, means, tops = np.ones(len(x)), [x.mean(0)], [float("inf")]
    while weights.sum() > len(x) - 2 * f or len(tops) == 1:
        eigenvalues, axes = _principal_axes(x, weights)
        means.append(weights @ x / weights.sum())
        tops.append(float(eigenvalues[0]))
        if tops[-1] <= 1e-24 * float((x**2).max()):
            break
        if len(eigenvalues) > 1 and eigenvalues[0] - eigenvalues[1] < SEPARATED * eigenvalues[0]:
            return np.empty((0, x.shape[1]))
        outlying = ((x - means[-1]) @ axes[0]) ** 2
        weights = weights * np.clip(1 - outlying / outlying[weights > 0].max(), 0, 1)
    return np.stack(means)[_least(np.array(tops))]
