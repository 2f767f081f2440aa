"""Rules that average the n - f updates closest together: by diameter, by variance, by the worst direction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, islice
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators import bounds
from fl_impl.aggregators.registry import aggregator
from fl_impl.aggregators.rules.covers import least_diameter
from fl_impl.aggregators.rules.neighbours import central

if TYPE_CHECKING:
    from fl_impl.aggregators.base import Weights
    from fl_impl.aggregators.kernels import Geometry

FloatArray = npt.NDArray[np.float64]

ENTRIES: Final = 2**20
"""Of the matrices of the subsets looked at together."""
_SUBSET_MEAN = frozenset({
    "permutation", "translation", "scale", "sign", "rotation", "unanimity", "exactness", "box", "hull", "mean",
})  # fmt: skip


@aggregator(
    by="distances",
    kappa=bounds.minimum_diameter,
    exact=True,
    symmetries=_SUBSET_MEAN,
    selective=True,
    source="El Mhamdi et al. 2018 (arXiv:1802.07927), Farhadkhani et al. 2022 (arXiv:2205.12173); kappa in bounds.py",
)
def minimum_diameter(geometry: Geometry, f: int, *, max_nodes: int = 1_000_000) -> Weights:
    """MDA: the mean of the n - f updates with the least diameter; also ||F - mu|| <= (2f / (n - f)) diam(S).

    Raises ValueError where the search takes more than max_nodes nodes, which at worst grow as 1.47^f.
    """
    order = np.argsort(-central(geometry.distances), kind="stable")  # so that the order of clients decides no tie
    distances = geometry.distances[np.ix_(order, order)]
    return _mean_of(order[least_diameter(distances, f, max_nodes=max_nodes)], len(order))


@aggregator(
    by="distances",
    kappa=bounds.minimum_variance,
    exact=True,
    symmetries=_SUBSET_MEAN,
    selective=True,
    source="Rousseeuw 1985; Allouah et al. 2023 (arXiv:2302.01772); kappa proven in bounds.py",
)
def minimum_variance(geometry: Geometry, f: int, *, max_subsets: int = 200_000) -> Weights:
    """MVA: the mean of the n - f updates with the least variance, found exactly among all such sets.

    Raises ValueError where there are more than max_subsets of them.
    """
    order, distances = _by_centrality(geometry)
    best, least = np.arange(0), math.inf
    for members in _subsets(len(order), f, max_subsets):
        traces = _traces(members, distances)
        if traces.min() < least:
            best, least = members[np.argmin(traces)], float(traces.min())
    return _mean_of(order[best], len(order))


@aggregator(
    by="distances",
    kappa=bounds.minimum_variance,
    exact=True,  # attained in one dimension, where it is minimum_variance
    symmetries=_SUBSET_MEAN,
    selective=True,
    source="Allouah et al. 2023 (SMEA, arXiv:2302.01772); kappa proven in bounds.py, also for the operator norm",
)
def smea(geometry: Geometry, f: int, *, max_subsets: int = 50_000) -> Weights:
    """SMEA: the mean of the n - f updates whose covariance has the least greatest eigenvalue.

    Raises ValueError where there are more than max_subsets of them.
    """
    order, distances = _by_centrality(geometry)
    best, least = np.arange(0), math.inf
    for members in _subsets(len(order), f, max_subsets):
        hopeful = members[_traces(members, distances) <= (len(order) - f) * least]  # of n - f eigenvalues, the greatest
        if len(hopeful):
            greatest = _greatest_eigenvalues(hopeful, distances)
            if greatest.min() < least:
                best, least = hopeful[np.argmin(greatest)], float(greatest.min())
    return _mean_of(order[best], len(order))


def _by_centrality(geometry: Geometry) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """The updates from the most central on, and their squared distances: so the order of clients decides no tie."""
    order = np.argsort(central(geometry.distances), kind="stable")
    return order, geometry.distances[np.ix_(order, order)]


def _mean_of(members: npt.NDArray[np.intp], n: int) -> Weights:
    weights = np.zeros(n)
    weights[members] = 1 / len(members)
    return weights


def _subsets(n: int, f: int, max_subsets: int) -> Iterator[npt.NDArray[np.intp]]:
    """All sets of n - f out of n, in chunks of (m, n - f)."""
    count = math.comb(n, f)
    if count > max_subsets:
        raise ValueError(
            f"the exact search over C({n}, {f}) = {count} subsets exceeds max_subsets={max_subsets}. Raise that, "
            "lower f, or take minimum_diameter, caf or nnm|trimmed_mean, which are fast"
        )
    every = combinations(range(n), n - f)
    rows = max(1, ENTRIES // (n - f) ** 2)
    while chunk := list(islice(every, rows)):
        yield np.array(chunk)


def _traces(members: npt.NDArray[np.intp], distances: FloatArray) -> FloatArray:
    """(m,) sums of the squared distances between all members: 2 (n - f) times that of those to the mean."""
    inside = np.zeros((len(members), len(distances)))
    np.put_along_axis(inside, members, 1, axis=1)
    return ((inside @ distances) * inside).sum(axis=1)


def _greatest_eigenvalues(members: npt.NDArray[np.intp], distances: FloatArray) -> FloatArray:
    """(m,) greatest eigenvalues of the covariances, in the units of `_traces`."""
    between = distances[members[:, :, None], members[:, None, :]]
    to_mean = between.mean(axis=2, keepdims=True)
    twice_gram = to_mean + np.swapaxes(to_mean, 1, 2) - between - to_mean.mean(axis=1, keepdims=True)
    return members.shape[1] * np.linalg.eigvalsh(twice_gram)[:, -1]
