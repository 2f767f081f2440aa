"""Rules that look for the direction in which the updates vary most, and distrust those that lie far out along it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators import bounds
from fl_impl.aggregators.base import Weights, honest_majority
from fl_impl.aggregators.inputs import generator
from fl_impl.aggregators.kernels import combine
from fl_impl.aggregators.registry import aggregator
from fl_impl.aggregators.rules.neighbours import central
from fl_impl.aggregators.screening import measured

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix
    from fl_impl.aggregators.kernels import Geometry

FloatArray = npt.NDArray[np.float64]


@aggregator(
    by="distances",
    kappa=bounds.caf,
    symmetries={
        "permutation", "translation", "scale", "sign", "rotation", "unanimity", "exactness", "box", "hull", "mean",
    },
    source="Allouah, Guerraoui & Stephan 2025 (arXiv:2505.01874); kappa proven in bounds.py",
)  # fmt: skip
def caf(geometry: Geometry, f: int) -> Weights:
    """Covariance-bound-agnostic filter: of the weighted means on its way, the one with the least top eigenvalue.

    Weights start at 1. While they sum to more than n - 2f, each shrinks by 1 - t_i / max t, where t_i is the squared
    projection of update i on the top eigenvector of the weighted covariance. Every step takes one weight to 0, so
    there are at most n. kappa holds in the operator norm too, where the source proves the order f / n.
    """
    n = len(geometry.distances)
    weights = np.ones(n)
    best, least = weights / n, math.inf
    while weights.sum() > n - 2 * f or math.isinf(least):
        shares = weights / weights.sum()
        top, projections = _top_direction(geometry.centred_gram(shares), shares)
        if top < least:
            best, least = shares, top
        greatest = projections[weights > 0].max()
        if greatest <= 0:
            break
        weights = weights * np.clip(1 - projections / greatest, 0, 1)
    return best


def _top_direction(gram: FloatArray, shares: Weights) -> tuple[float, FloatArray]:
    """The greatest eigenvalue of sum_i p_i (x_i - mu)(x_i - mu)', and (n,) squared projections, up to a factor.

    With r = sqrt(p), the matrix r_i <x_i - mu, x_j - mu> r_j has the same eigenvalue; u its eigenvector, the
    projection of x_i - mu is proportional to sum_j <x_i - mu, x_j - mu> r_j u_j.
    """
    from scipy.linalg import eigh  # noqa: PLC0415  # it finds one eigenvector alone, and takes time to import

    projections, inside = np.zeros(len(gram)), np.flatnonzero(shares)
    gram, root = gram[np.ix_(inside, inside)], np.sqrt(shares[inside])
    unit = float(np.abs(gram).max())
    if unit == 0:
        return 0.0, projections
    last = len(root) - 1
    value, vector = eigh(root[:, None] * (gram / unit) * root, subset_by_index=[last, last], check_finite=False)
    projections[inside] = (gram / unit @ (root * vector[:, 0])) ** 2
    return max(float(value[0]), 0.0) * unit, projections


def _dnc_min_clients(f: int, *, c: float = 1.0, iterations: int = 1) -> int:
    return max(honest_majority(f), iterations * _removed(c, f) + 1)


def _removed(c: float, f: int) -> int:
    return math.ceil(round(c * f, 9))


@aggregator(
    min_clients=_dnc_min_clients,
    symmetries={"permutation", "translation", "scale", "sign", "rotation", "unanimity", "box", "hull", "mean"},
    selective=True,
    source="Shejwalkar & Houmansadr, NDSS 2021",
)
def dnc(
    x: Matrix,
    f: int,
    *,
    c: float = 1.0,
    iterations: int = 1,
    coordinates: int = 10_000,
    rng: np.random.Generator | None = None,
) -> Any:
    """Divide and conquer: the mean of the updates that no iteration removes.

    Each draws `coordinates` of the d coordinates (all where there are no more) and removes the c f updates with the
    greatest squared projection on the top singular vector of the centred matrix. One giant outlier hides a second at
    a right angle to it, so for f >= 2 nothing bounds the result and no kappa is claimed; rotation is claimed for d <=
    coordinates.
    rng: the generator of the draws; where none is given, one with a fixed seed.
    """
    n, d = len(x), x.shape[1]
    rng = generator(rng)
    kept = np.ones(n, np.bool_)
    for _ in range(iterations):
        drawn = x if d <= coordinates else x[:, np.sort(rng.choice(d, coordinates, replace=False))]
        geometry = measured(drawn, f)
        _, projections = _top_direction(geometry.centred_gram(), np.full(n, 1 / n))
        kept[np.lexsort((-central(geometry.distances), -projections))[: _removed(c, f)]] = False
    return combine(kept / np.count_nonzero(kept), x)
