"""Broken medians."""

from __future__ import annotations

import numpy as np

from broken.registry import broken


@broken("exactness", "many_clients")
def even_median_takes_the_wrong_pair(updates, f):
    ordered, n = np.sort(updates, axis=0), len(updates)
    return ordered[n // 2] if n % 2 else (ordered[n // 2] + ordered[n // 2 + 1]) / 2


@broken("exactness")
def even_median_too_low(updates, f):
    ordered, n = np.sort(updates, axis=0), len(updates)
    return ordered[n // 2] if n % 2 else ordered[max(n // 2 - 2, 0)]


@broken("non_finite", only=True)
def numpy_median(updates, f):
    """NaN in one client is NaN everywhere."""
    return np.median(updates, axis=0)


@broken("exactness")
def median_over_everything(updates, f):
    return np.full(updates.shape[1], np.median(updates), updates.dtype)


@broken("exactness")
def median_of_norms_times_mean_direction(updates, f):
    mean = updates.mean(0)
    return mean / max(np.linalg.norm(mean), 1e-300) * np.median(np.linalg.norm(updates, axis=1))
