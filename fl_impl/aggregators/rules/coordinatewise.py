"""Rules that treat each coordinate by itself: order statistics, and means of the values nearest to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.aggregators import bounds
from fl_impl.aggregators.kernels import average
from fl_impl.aggregators.registry import aggregator

if TYPE_CHECKING:
    from fl_impl.aggregators.base import Weights
    from fl_impl.aggregators.inputs import Matrix
    from fl_impl.aggregators.kernels import Geometry


def _equal_weights(geometry: Geometry, f: int) -> Weights:
    del f
    n = len(geometry.distances)
    return np.full(n, 1 / n)


def _mean_kappa(n: int, f: int) -> float:
    del n
    return float("inf") if f else 0.0


@aggregator(
    kappa=_mean_kappa,
    exact=True,
    min_clients=lambda f: f + 1,
    symmetries={
        "permutation", "translation", "scale", "sign", "rotation", "monotone", "unanimity", "box", "hull", "mean",
    },
    source="McMahan et al. 2017 (arXiv:1602.05629)",
    defended=False,
    weighing=_equal_weights,
    by_columns=lambda n, f, geometry: lambda x: average(np.ones(n), x),  # noqa: ARG005  # distances say nothing
    apart=True,
)  # fmt: skip
def mean(x: Matrix, f: int, *, weights: Any = None) -> Any:
    """sum_i w_i x_i / sum_i w_i, where w_i are claimed sample counts, or equal: no defence against any f > 0.

    Raises ValueError for non-finite updates, and for weights that are not n finite, non-negative numbers, some
    positive.
    """
    del f
    n = len(x)
    return average(np.ones(n) if weights is None else _counts(weights, n), x)


def _counts(weights: Any, n: int) -> Weights:
    try:
        counts = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"weights must be n={n} numbers; got {weights!r}") from error
    if counts.shape != (n,) or not np.isfinite(counts).all() or (counts < 0).any() or not counts.any():
        raise ValueError(f"weights must be n={n} finite, non-negative numbers, some positive; got {weights!r}")
    return counts


def _median_symmetries(convention: bounds.Convention = "midpoint") -> frozenset[str]:
    held = {"permutation", "translation", "scale", "monotone", "unanimity", "exactness", "box", "honest_box"}
    return frozenset(held | ({"sign"} if convention == "midpoint" else set()))


@aggregator(
    by="ranks",
    kappa=bounds.coordinate_median,
    exact=True,
    symmetries=_median_symmetries,
    source="Yin et al. 2018 (arXiv:1803.01498); kappa: Allouah et al. 2023 (arXiv:2302.01772), sharpened in bounds.py",
)
def coordinate_median(n: int, f: int, *, convention: bounds.Convention = "midpoint") -> tuple[int, int]:
    """The median of each coordinate.

    convention: what an even n gives, the "midpoint" of the middle two (numpy.median) or the "lower" (torch.median).
    """
    del f
    if convention not in ("midpoint", "lower"):
        raise ValueError(f'convention must be "midpoint" or "lower"; got {convention!r}')
    lower = (n - 1) // 2
    return lower, n // 2 + 1 if convention == "midpoint" else lower + 1


@aggregator(
    by="ranks",
    kappa=bounds.trimmed_mean,
    exact=True,
    symmetries=_median_symmetries() | {"mean"},
    source="Yin et al. 2018 (arXiv:1803.01498); kappa: Allouah et al. 2023 (arXiv:2302.01772), sharpened in bounds.py",
)
def trimmed_mean(n: int, f: int) -> tuple[int, int]:
    """In each coordinate the mean of what is left without the f smallest and the f greatest values."""
    return f, n - f


_NEAREST = frozenset({"permutation", "translation", "scale", "sign", "unanimity", "exactness", "box", "mean"})


@aggregator(
    by="ranks",
    kappa=bounds.meamed,
    exact=True,
    symmetries=_NEAREST,
    selective=True,
    source="Xie et al. 2018 (arXiv:1802.10116); kappa proven in bounds.py",
)
def meamed(n: int, f: int) -> tuple[int, int, int]:
    """In each coordinate the mean of the n - f values nearest to the median."""
    return (n - 1) // 2, n // 2 + 1, n - f


@aggregator(
    by="ranks",
    kappa=bounds.phocas,
    exact=True,
    symmetries=_NEAREST,
    selective=True,
    source="Xie et al. 2018 (arXiv:1805.09682); kappa proven in bounds.py",
)
def phocas(n: int, f: int) -> tuple[int, int, int]:
    """In each coordinate the mean of the n - f values nearest to the trimmed mean."""
    return f, n - f, n - f
