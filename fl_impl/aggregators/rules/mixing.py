"""Pre-aggregators that replace updates by means of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators import bounds
from fl_impl.aggregators.base import honest_majority
from fl_impl.aggregators.inputs import generator
from fl_impl.aggregators.registry import pre_aggregator
from fl_impl.aggregators.rules.neighbours import central

if TYPE_CHECKING:
    from fl_impl.aggregators.kernels import Geometry


@pre_aggregator(
    by="mixing",
    kappa=bounds.nnm,
    exact=bounds.nnm_attained,
    preserves={
        "permutation", "translation", "scale", "sign", "rotation", "unanimity", "exactness", "box", "hull", "mean",
    },
    equalises=True,
    source="Allouah et al. 2023 (arXiv:2302.01772); kappa, half of theirs, proven in bounds.py",
)  # fmt: skip
def nnm(n: int, f: int, geometry: Callable[[], Geometry]) -> npt.NDArray[np.float64]:
    """Nearest-neighbour mixing: each update becomes the mean of the n - f nearest to it, itself among them."""
    distances = geometry().distances
    reach = np.partition(distances, n - f - 1, axis=1)[:, n - f - 1 : n - f]
    mixing = (distances <= reach) / (n - f)
    tied = np.flatnonzero(np.count_nonzero(mixing, axis=1) > n - f)
    if len(tied):  # some are as near as the last one: the most central of them are taken
        around = distances[tied]
        order = np.lexsort((np.broadcast_to(central(distances), around.shape), around), axis=1)
        mixing[tied] = 0
        mixing[tied[:, None], order[:, : n - f]] = 1 / (n - f)
    return mixing


@pre_aggregator(
    by="mixing",
    kappa=bounds.bucketing,
    exact=bounds.bucketing_attained,
    preserves={"translation", "scale", "sign", "rotation", "monotone", "unanimity", "exactness", "box", "hull"},
    output_clients=lambda n, *, size=2: -(-n // size),
    min_clients=lambda needed, f, *, size=2: max(size * (max(needed, honest_majority(f)) - 1) + 1, 2 * f * size + 1),
    source="Karimireddy et al. 2022 (arXiv:2006.09365)",
)
def bucketing(
    n: int,
    f: int,
    geometry: Callable[[], Geometry],
    *,
    size: int = 2,
    rng: np.random.Generator | None = None,
) -> npt.NDArray[np.float64]:
    """The means of buckets of `size` updates, put together at random; the last may hold fewer. Needs 2f < n / size.

    rng: the generator of the permutation; where none is given, one with a fixed seed. Permutation of clients holds in
    distribution only.
    """
    del f, geometry
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    bucket = np.empty(n, np.intp)
    bucket[generator(rng).permutation(n)] = np.arange(n) // size
    members = bucket == np.arange(-(-n // size))[:, None]
    return members / members.sum(axis=1, keepdims=True)
