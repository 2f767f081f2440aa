"""Rules and pre-aggregators that shorten what is long."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.aggregators import bounds
from fl_impl.aggregators.inputs import is_tensor
from fl_impl.aggregators.lengths import lengths, rescaled, shortening, weighted_sum
from fl_impl.aggregators.registry import aggregator, pre_aggregator

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix


@aggregator(
    symmetries={"permutation", "sign", "rotation"},
    source="Karimireddy, He & Jaggi 2021 (arXiv:2012.10333)",
)
def centered_clipping(
    x: Matrix, f: int, *, tau: float = 10.0, iterations: int = 1, previous: Any = None, unit: float = 1.0
) -> Any:
    """v <- v + mean_i clip(x_i - v), `iterations` times from v = previous (0 where not given); clip shortens to tau.

    Replacing f updates moves the result by at most 2 f tau iterations / n, and it stays within tau iterations of
    where it began. With a fixed tau it is robust in no stronger sense: updates that all equal a v further off than
    that do not give v.
    """
    del f
    _check_positive(tau=tau, iterations=iterations)
    v = previous if previous is not None else x[0] * 0.0
    for _ in range(iterations):
        kept = shortening(lengths(x, v), tau * unit)
        v = v * (1 - kept.mean()) + weighted_sum(kept / len(x), x)
    return v


@aggregator(
    symmetries={"permutation", "sign", "rotation"},
    source="Sun et al. 2019 (arXiv:1911.07963)",
)
def norm_clipping(x: Matrix, f: int, *, radius: float = 1.0, unit: float = 1.0) -> Any:
    """The mean of the updates shortened to length `radius`. Its norm is at most that; nothing more is true of it."""
    del f
    _check_positive(radius=radius)
    return weighted_sum(shortening(lengths(x), radius * unit) / len(x), x)


@pre_aggregator(
    kappa=lambda inner, n, f: math.inf,  # noqa: ARG005  # none, whatever they are
    preserves={"permutation", "sign", "rotation"},
    source="Allouah et al. 2025 (arXiv:2405.14432), Lemma 3.1: never robust",
)
def clipping(x: Matrix, f: int, *, radius: float = 1.0, unit: float = 1.0) -> Any:
    """The updates, those longer than `radius` shortened to it.

    It destroys every kappa: updates that all equal a longer v do not give v.
    """
    del f
    _check_positive(radius=radius)
    return rescaled(x, shortening(lengths(x), radius * unit))


@pre_aggregator(
    kappa=bounds.arc,
    preserves={"permutation", "scale", "sign", "rotation", "unanimity", "exactness", "mean"},
    source="Allouah et al. 2025 (arXiv:2405.14432)",
)
def arc(x: Matrix, f: int) -> Any:
    """Adaptive robust clipping: the k = floor(2 f (n - f) / n) longest updates shortened to the length of the next."""
    n = len(x)
    count = 2 * f * (n - f) // n
    found = lengths(x)
    ordered = found.sort(descending=True).values if is_tensor(found) else np.sort(found)[::-1]
    return rescaled(x, shortening(found, ordered[count]))


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value!r}")
