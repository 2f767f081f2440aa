"""Sound rules under claims that are not true of them."""

from __future__ import annotations

import numpy as np
from sound import distances, median_of_sorted, trimmed_mean_by_sort

from broken.registry import broken, krum_scores


@broken("coefficient", claims="trimmed_mean")
def median_claimed_to_be_a_trimmed_mean(updates, f):
    return median_of_sorted(updates, f)


@broken("coefficient", only=True, kappa=lambda n, f: 0.5 * f / (n - 2 * f))
def claims_what_no_rule_can(updates, f):
    return trimmed_mean_by_sort(updates, f)


@broken("coefficient", kappa=lambda n, f: 6 * (1 + f / (n - 2 * f)))
def unsquared_krum_under_the_published_constant(updates, f):
    return updates[np.argmin(krum_scores(updates, len(updates) - f - 1, np.sqrt(distances(updates))))]


@broken("definition", claims="coordinate_median")
def trimmed_mean_claimed_to_be_a_median(updates, f):
    return trimmed_mean_by_sort(updates, f)


@broken("mean_at_zero", only=True, symmetries={"mean"})
def not_the_mean_at_zero(updates, f):
    return median_of_sorted(updates, f)


@broken("permutation", only=True, symmetries={"permutation"})
def weights_by_position(updates, f):
    n = len(updates)
    nearest = np.argsort(np.abs(updates - median_of_sorted(updates, f)), axis=0, kind="stable")[: n - f]
    weights = 1 + 1e-3 * nearest
    return ((np.take_along_axis(updates, nearest, axis=0) * weights).sum(0) / weights.sum(0)).astype(updates.dtype)


@broken("translation", only=True, symmetries={"translation"})
def keeps_small_norms_nearest_the_median(updates, f):
    """Adaptive clipping depends on where the origin is."""
    norms = np.linalg.norm(updates.astype(np.float64), axis=1)
    limit = np.sort(norms)[len(updates) - f - 1]
    with np.errstate(all="ignore"):
        clipped = updates * np.minimum(1, limit / np.maximum(norms, 1e-300))[:, None].astype(updates.dtype)
    return trimmed_mean_by_sort(clipped, f)


@broken("scale", only=True, symmetries={"scale"})
def weights_by_unscaled_distance(updates, f):
    centre = median_of_sorted(updates, f)
    nearest = np.sort(np.abs(updates - centre), axis=0)[: len(updates) - f]
    return (centre + np.tanh(nearest.mean(0)) * 1e-3 * nearest.mean(0)).astype(updates.dtype)


@broken("sign", only=True, symmetries={"sign"})
def lower_median_claimed_to_be_odd(updates, f):
    return np.sort(updates, axis=0)[(len(updates) - 1) // 2]


@broken("rotation", only=True, symmetries={"rotation"})
def median_claimed_to_rotate(updates, f):
    return median_of_sorted(updates, f)


@broken("monotone", only=True, symmetries={"monotone"})
def mean_around_the_median_claimed_monotone(updates, f):
    centre = median_of_sorted(updates, f)
    with np.errstate(all="ignore"):
        away = np.abs(updates - centre)
    nearest = np.argsort(np.where(np.isnan(away), np.inf, away), axis=0)[: len(updates) - f]
    return np.take_along_axis(updates, nearest, axis=0).mean(0)


@broken("box", only=True, symmetries={"box"})
def extrapolates(updates, f):
    """Beyond the hull where the cloud is lopsided, though never far."""
    ordered, n = np.sort(updates, axis=0), len(updates)
    if n > 12:
        return ordered[n // 2]
    with np.errstate(all="ignore"):
        return ordered[f] - 0.5 * (ordered[n - f - 1] - ordered[f])


@broken("honest_box", only=True, symmetries={"honest_box"})
def mean_around_the_median_claimed_in_the_honest_box(updates, f):
    return mean_around_the_median_claimed_monotone(updates, f)


@broken("hull", only=True, symmetries={"hull"})
def median_claimed_in_the_hull(updates, f):
    return median_of_sorted(updates, f)


@broken("selects", only=True, symmetries={"selects"})
def mean_claimed_to_select(updates, f):
    return trimmed_mean_by_sort(updates, f)
