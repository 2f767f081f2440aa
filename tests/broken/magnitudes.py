"""Sums and magnitudes: what overflows, underflows, cancels or is cut off by a threshold."""

from __future__ import annotations

import numpy as np
from sound import distances, trimmed_mean_by_sort

from broken.registry import broken


@broken("huge_outliers")
def sum_minus_extremes(updates, f):
    """The outlier is added and taken away again, and the honest digits with it."""
    ordered = np.sort(updates.astype(np.float64), axis=0)
    total = ordered.sum(0) - ordered[:f].sum(0) - ordered[len(updates) - f :].sum(0)
    return (total / (len(updates) - 2 * f)).astype(updates.dtype)


@broken("huge_outliers")
def masked_by_multiplication(updates, f):
    """Infinite distances times zero are NaN."""
    with np.errstate(all="ignore"):
        squared = distances(updates).astype(np.float64)
        keep = np.zeros(len(updates))
        keep[np.argsort(squared.sum(1), kind="stable")[: len(updates) - f]] = 1
        weights = keep / (keep * squared.sum(1) + 1 - keep * 1)
        weights = np.where(keep == 1, 1.0, weights)
        return ((keep * weights) @ updates / (keep * weights).sum()).astype(updates.dtype) + 0 * squared.max()


@broken("every_scale")
def tiny_values_are_zero(updates, f):
    return trimmed_mean_by_sort(np.where(np.abs(updates) < 1e-8, 0, updates), f)


@broken("every_scale", only=True)
def huge_values_are_zero(updates, f):
    """A screen with a threshold that an honest scale can pass."""
    return trimmed_mean_by_sort(np.where(np.abs(updates) > 1e12, 0, updates), f)


@broken("keeps_dtype")
def rounds_to_float32(updates, f):
    return trimmed_mean_by_sort(updates.astype(np.float32), f).astype(updates.dtype)
