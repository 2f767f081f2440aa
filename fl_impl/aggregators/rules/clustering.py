"""Rules that keep the largest cluster of updates. They need scikit-learn, imported when one of them runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.inputs import generator, is_tensor
from fl_impl.aggregators.kernels import combine
from fl_impl.aggregators.lengths import cosines, fixed_lengths, shortening
from fl_impl.aggregators.registry import aggregator

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix


@aggregator(
    symmetries={"permutation", "scale"},
    source="Xu et al. 2022 (arXiv:2109.05872)",
)
def signguard(
    x: Matrix,
    f: int,
    *,
    shortest: float = 0.1,
    longest: float = 3.0,
    coordinates: float = 0.1,
    rng: np.random.Generator | None = None,
) -> Any:
    """The mean of the plausible updates, shortened to the median norm: ||F|| is at most that, no more is proven.

    Plausible are those with a norm of `shortest` to `longest` medians that lie in the largest cluster (mean shift) of
    the shares of positive, zero and negative entries among a random share of `coordinates`; that cluster, if none is
    both.
    rng: the generator of the draw; where none is given, one with a fixed seed.
    """
    del f
    d = x.shape[1]
    drawn = np.sort(generator(rng).choice(d, min(d, max(1, round(coordinates * d))), replace=False))
    found = fixed_lengths(x)
    median = float(np.median(found))
    alike = _largest_cluster(_sign_shares(x[:, drawn]))
    plausible = alike & (found >= shortest * median) & (found <= longest * median)
    return _mean_shortened(x, plausible if plausible.any() else alike, found, median)


def _sign_shares(x: Any) -> npt.NDArray[np.float64]:
    """(n, 3) shares of positive, zero and negative entries."""
    values = x.detach().cpu().double().numpy() if is_tensor(x) else x
    return np.stack([(values > 0).mean(axis=1), (values == 0).mean(axis=1), (values < 0).mean(axis=1)], axis=1)


def _largest_cluster(features: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    from sklearn.cluster import MeanShift, estimate_bandwidth  # noqa: PLC0415  # it takes seconds

    bandwidth = float(estimate_bandwidth(features, quantile=0.5))
    if bandwidth > 0:
        labels = MeanShift(bandwidth=bandwidth).fit(features).labels_
    else:  # each has half of the others for equals
        labels = np.unique(features, axis=0, return_inverse=True)[1].ravel()
    return labels == np.argmax(np.bincount(labels))


@aggregator(
    symmetries={"permutation"},
    source="Nguyen et al. 2022 (arXiv:2101.02281)",
)
def flame(x: Matrix, f: int, *, noise: float = 0.001, rng: np.random.Generator | None = None) -> Any:
    """The mean of the majority by angle (HDBSCAN), shortened to the median norm m, plus N(0, (noise m)^2).

    Without noise ||F|| <= m, and nothing more is proven. Where no cluster holds more than half of the updates, all
    are averaged.
    rng: the generator of the noise; where none is given, one with a fixed seed.
    """
    del f
    found = fixed_lengths(x)
    median = float(np.median(found))
    result = _mean_shortened(x, _majority_by_angle(x), found, median)
    if not noise:
        return result
    added = generator(rng).standard_normal(x.shape[1]) * (noise * median)
    return result + (result.new_tensor(added) if is_tensor(result) else added)


def _majority_by_angle(x: Matrix) -> npt.NDArray[np.bool_]:
    n = len(x)
    everyone = np.ones(n, np.bool_)
    if n < 3:
        return everyone
    from sklearn.cluster import HDBSCAN  # noqa: PLC0415  # it takes seconds

    # min_samples counts the point itself here, and not in the hdbscan package, where the source takes 1
    options: dict[str, Any] = {"metric": "precomputed", "allow_single_cluster": True, "copy": False}
    labels = HDBSCAN(n // 2 + 1, min_samples=2, **options).fit(np.clip(1 - cosines(x, x), 0, 2)).labels_
    return labels == 0 if (labels == 0).any() else everyone


def _mean_shortened(x: Matrix, kept: npt.NDArray[np.bool_], norms: npt.NDArray[np.float64], to: float) -> Any:
    return combine(kept * shortening(norms, to) / np.count_nonzero(kept), x)
