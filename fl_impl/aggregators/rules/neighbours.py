"""Rules that select updates by their distances to others: Krum and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators import bounds
from fl_impl.aggregators.base import honest_majority
from fl_impl.aggregators.kernels import combine, distances_to, nearest_mean
from fl_impl.aggregators.registry import aggregator
from fl_impl.aggregators.screening import check_spread, measured

if TYPE_CHECKING:
    from fl_impl.aggregators.base import Weights
    from fl_impl.aggregators.inputs import Matrix
    from fl_impl.aggregators.kernels import Geometry

TIED: Final = 1e-10
"""Scores that differ by no more than this share are equal."""
_SELECTION = frozenset({
    "permutation", "translation", "scale", "sign", "rotation", "unanimity", "exactness", "box", "hull",
})  # fmt: skip


def krum_scores(distances: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """(n,) sums of the squared distances to the `count` nearest others.

    They are added up, never subtracted from a total, which one far update would drown; and in order of size, so that
    the order of clients does not change the last digit.
    """
    return np.sort(distances, axis=1)[:, 1 : count + 1].sum(axis=1)


def central(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n,) sums of the distances to all others: what ties go by, since no order of clients changes it."""
    return np.sort(np.sqrt(distances), axis=1).sum(axis=1)


def _from_least(scores: npt.NDArray[np.float64], distances: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The rows by score, ties by centrality; neither by the last digits, which depend on where the updates lie."""
    levels = _levels(scores)
    if levels.max() == len(levels) - 1:  # no ties
        return np.argsort(levels)
    return np.lexsort((_levels(central(distances)), _levels(scores)))


def _levels(values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """(n,) 0 for the least value, 1 for the next, and so on; values that are equal up to rounding count as one."""
    order = np.argsort(values)
    ordered = values[order]
    levels = np.empty(len(values), np.intp)
    levels[order] = np.cumsum(np.diff(ordered, prepend=ordered[0]) > TIED * ordered)
    return levels


def _krum_min_clients(f: int, *, neighbours: bounds.Neighbours = "n-f-1") -> int:
    return honest_majority(f) if neighbours == "n-f-1" else 2 * f + 3


def _neighbour_count(n: int, f: int, neighbours: str) -> int:
    if neighbours not in ("n-f-1", "n-f-2"):
        raise ValueError(f'neighbours must be "n-f-1" or "n-f-2"; got {neighbours!r}')
    return n - f - (1 if neighbours == "n-f-1" else 2)


@aggregator(
    by="distances",
    kappa=bounds.krum,
    exact=bounds.krum_attained,
    min_clients=_krum_min_clients,
    symmetries=_SELECTION | {"selects"},
    selective=True,
    source="Blanchard et al. 2017 (arXiv:1703.02757); n-f-1 neighbours: Allouah et al. 2023 (arXiv:2302.01772); "
    "kappa proven in bounds.py",
)
def krum(geometry: Geometry, f: int, *, neighbours: bounds.Neighbours = "n-f-1") -> Weights:
    """The update with the least sum of squared distances to its nearest others.

    neighbours: how many others, "n-f-1" (Allouah et al., ByzFL) or "n-f-2" (Blanchard et al., who need n >= 2f + 3).
    """
    n = len(geometry.distances)
    return _selected(geometry, 1, _neighbour_count(n, f, neighbours))


def _multi_krum_min_clients(f: int, *, m: int | None = None, neighbours: bounds.Neighbours = "n-f-1") -> int:
    return max(_krum_min_clients(f, neighbours=neighbours), 0 if m is None else m + f)


def _multi_krum_symmetries(m: int | None = None) -> frozenset[str]:
    return _SELECTION | ({"mean"} if m is None else frozenset())


@aggregator(
    by="distances",
    kappa=bounds.multi_krum,
    exact=bounds.multi_krum_attained,
    min_clients=_multi_krum_min_clients,
    symmetries=_multi_krum_symmetries,
    selective=True,
    source="Blanchard et al. 2017 (arXiv:1703.02757); kappa proven in bounds.py",
)
def multi_krum(geometry: Geometry, f: int, *, m: int | None = None, neighbours: bounds.Neighbours = "n-f-1") -> Weights:
    """The mean of the m updates with the least sums of squared distances to their nearest others.

    m: how many, n - f where not given (ByzFL); n >= m + f. neighbours: as for `krum`.
    """
    n = len(geometry.distances)
    if m is not None and m < 1:
        raise ValueError(f"m must be at least 1; got {m}")
    return _selected(geometry, n - f if m is None else m, _neighbour_count(n, f, neighbours))


def _selected(geometry: Geometry, m: int, count: int) -> Weights:
    distances = geometry.distances
    weights = np.zeros(len(distances))
    weights[_from_least(krum_scores(distances, count), distances)[:m]] = 1 / m
    return weights


@aggregator(
    kappa=bounds.bulyan,
    min_clients=lambda f: 4 * f + 3,
    symmetries={"permutation", "translation", "scale", "sign", "unanimity", "exactness", "box", "mean"},
    selective=True,
    source="El Mhamdi et al. 2018 (arXiv:1802.07927); kappa proven in bounds.py",
    apart=True,
)
def bulyan(x: Matrix, f: int) -> Any:
    """Krum picks n - 2f updates; in each coordinate the mean of their n - 4f values nearest to their median.

    One after another, each among the m updates that are left, with m - f - 1 neighbours.
    """
    picks = _krum_picks(measured(x, f).distances, f)
    count = len(picks)
    return nearest_mean(x, (count - 1) // 2, count // 2 + 1, count - 2 * f, rows=picks)


def _krum_picks(distances: npt.NDArray[np.float64], f: int) -> list[int]:
    picks, left = list[int](), list(range(len(distances)))
    while len(left) > 2 * f:
        among = distances[np.ix_(left, left)]
        picks.append(left.pop(int(_from_least(krum_scores(among, len(left) - f - 1), among)[0])))
    return picks


@aggregator(
    symmetries={"translation", "scale", "sign", "rotation", "unanimity", "box", "hull", "mean"},
    source="Farhadkhani et al. 2023 (arXiv:2209.10931)",
    apart=True,
)
def monna(x: Matrix, f: int, *, pivot: int = 0, rows: npt.NDArray[np.intp] | None = None) -> Any:
    """The mean of the n - f updates nearest to a trusted one, the pivot, itself among them.

    ||F(x) - mu||^2 <= (4f / (n - f)) (s + ||x_pivot - mu||^2) for every S that the pivot belongs to, so kappa <= 4f
    for those; with a Byzantine pivot nothing holds, so none is claimed.
    pivot: its row. Raises ValueError where there is no such row, or it is not finite.
    """
    kept = np.arange(len(x)) if rows is None else rows
    found = np.flatnonzero(kept == pivot)
    if not len(found):
        raise ValueError(f"pivot must be the row of a trusted, finite update; got {pivot} for rows 0 to {kept[-1]}")
    away = distances_to(x, x[int(found[0])])
    check_spread(x, away, len(x) - f)
    weights = np.zeros(len(x))
    weights[np.argsort(away, kind="stable")[: len(x) - f]] = 1 / (len(x) - f)
    return combine(weights, x)
