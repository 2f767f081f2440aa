"""Sound rules written apart from fl_impl, in plain numpy and SciPy: the harness must never fail one of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy import stats

SOUND = {}
"""name -> (rule, keywords for `verify`)."""


def sound(**claims):
    def register(rule):
        SOUND[rule.__name__] = (rule, claims)
        return rule

    return register


def distances(x):
    x = x.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        squared = ((x[:, None] - x[None]) ** 2).sum(-1)
    return np.where(np.isnan(squared), np.inf, squared)


def finite(x, f):
    """The rows that are numbers, and how many Byzantine ones are left."""
    kept = np.isfinite(x).all(1)
    if kept.sum() < len(x) - f:
        raise ValueError(f"more than f={f} rows are not finite")
    return x[kept], f - int((~kept).sum())


@sound()
def trimmed_mean_by_sort(updates, f):
    ordered = np.sort(updates, axis=0)
    return ordered[f : len(updates) - f].mean(axis=0)


@sound()
def trimmed_mean_by_partition(updates, f):
    n = len(updates)
    if n <= 2 * f:
        raise ValueError("too few clients")
    part = np.partition(updates, [f, n - f - 1], axis=0) if f else updates
    return part[f : n - f].sum(0, dtype=np.float64).astype(updates.dtype) / updates.dtype.type(n - 2 * f)


@sound()
def trimmed_mean_of_scipy(updates, f):
    rows, left = finite(updates, f)
    n = len(rows)
    cut = (left + 0.5) / n  # trim_mean takes the floor
    return stats.trim_mean(rows.astype(np.float64), cut, axis=0)


@sound()
def median_of_sorted(updates, f):
    ordered = np.sort(updates, axis=0)
    n = len(ordered)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    return low + (high - low) / 2


@sound()
def nanmedian(updates, f):
    return np.nanmedian(np.where(np.isfinite(updates), updates, np.nan), axis=0)


@sound()
def lower_median(updates, f):
    return np.sort(updates, axis=0)[(len(updates) - 1) // 2]


@sound()
def upper_median(updates, f):
    return np.sort(updates, axis=0)[len(updates) // 2]


def _krum_scores(x, f, neighbours):
    squared = distances(x)
    np.fill_diagonal(squared, np.inf)
    return np.sort(squared, axis=1)[:, :neighbours].sum(1)


@sound()
def krum_first_of_ties(updates, f):
    return updates[np.argmin(_krum_scores(updates, f, len(updates) - f - 1))]


@sound()
def krum_last_of_ties(updates, f):
    scores = _krum_scores(updates, f, len(updates) - f - 1)
    return updates[np.flatnonzero(scores == scores.min())[-1]].copy()


@sound(min_clients=lambda f: 2 * f + 3)
def krum_of_blanchard(updates, f):
    return updates[np.argmin(_krum_scores(updates, f, len(updates) - f - 2))]


@sound()
def krum_unsquared(updates, f):
    plain = np.sqrt(distances(updates))
    np.fill_diagonal(plain, np.inf)
    return updates[np.argmin(np.sort(plain, axis=1)[:, : len(updates) - f - 1].sum(1))]


@sound()
def multi_krum(updates, f):
    order = np.argsort(_krum_scores(updates, f, len(updates) - f - 1), kind="stable")
    return updates[order[: len(updates) - f]].mean(0)


@sound()
def multi_krum_of_three(updates, f):
    order = np.argsort(_krum_scores(updates, f, len(updates) - f - 1))
    return updates[order[: max(1, len(updates) - 2 * f - 2)]].mean(0)


@sound()
def geometric_median(updates, f):
    """Weiszfeld from the coordinate-wise median, every size relative to the nearer half of the data."""
    x, _ = finite(updates, f)
    x = x.astype(np.float64)
    z = np.sort(x, axis=0)[(len(x) - 1) // 2]
    size = np.sort(np.abs(x).max(1))[(len(x) - 1) // 2] or np.abs(x).max() or 1.0
    y, z = np.clip(x / size, -1e100, 1e100), z / size
    for _ in range(2000):
        weights = 1 / np.maximum(np.linalg.norm(y - z, axis=1), 1e-13)
        new = weights @ y / weights.sum()
        if np.abs(new - z).max() < 1e-15:
            break
        z = new
    return (size * z).astype(updates.dtype)


def _best_subset(updates, f, cost):
    x, f = finite(updates, f)
    with np.errstate(over="ignore", invalid="ignore"):
        sets = [list(chosen) for chosen in combinations(range(len(x)), len(x) - f)]
        costs = [cost(x[chosen].astype(np.float64)) for chosen in sets]
    return x[sets[int(np.nanargmin(costs))]].mean(0)


@sound()
def minimum_diameter(updates, f):
    return _best_subset(updates, f, lambda rows: distances(rows).max())


@sound()
def minimum_variance(updates, f):
    return _best_subset(updates, f, lambda rows: distances(rows).sum())


@sound()
def nearest_neighbour_mixing_then_trimmed_mean(updates, f):
    x, f = finite(updates, f)
    nearest = np.argsort(distances(x), axis=1, kind="stable")[:, : len(x) - f]
    return trimmed_mean_by_sort(np.stack([x[rows].mean(0) for rows in nearest]), f)


@sound()
def mean_around_median(updates, f):
    x, f = finite(updates, f)
    centre = median_of_sorted(x, f)
    nearest = np.argsort(np.abs(x - centre), axis=0)[: len(x) - f]
    return np.take_along_axis(x, nearest, axis=0).mean(0)


@sound()
def phocas(updates, f):
    x, f = finite(updates, f)
    centre = trimmed_mean_by_sort(x, f)
    nearest = np.argsort(np.abs(x - centre), axis=0)[: len(x) - f]
    return np.take_along_axis(x, nearest, axis=0).mean(0)


@sound(min_clients=lambda f: 4 * f + 3)
def bulyan(updates, f):
    x, f = finite(updates, f)
    left, picked = list(range(len(x))), []
    for _ in range(len(x) - 2 * f):
        scores = _krum_scores(x[left], f, max(len(left) - f - 2, 1))
        picked.append(left.pop(int(np.argmin(scores))))
    chosen = x[picked]
    centre = median_of_sorted(chosen, f)
    nearest = np.argsort(np.abs(chosen - centre), axis=0)[: len(picked) - 2 * f]
    return np.take_along_axis(chosen, nearest, axis=0).mean(0)


@sound()
def closest_to_the_median(updates, f):
    """The input nearest to the coordinate-wise median, in the maximum norm."""
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.abs(updates - median_of_sorted(updates, f)).max(1)
    return updates[np.argmin(np.where(np.isnan(away), np.inf, away))]


@sound()
def trimmed_mean_in_pure_python(updates, f):
    columns = [sorted(column) for column in zip(*np.where(np.isnan(updates), np.inf, updates).tolist(), strict=True)]
    kept = [column[f : len(column) - f] for column in columns]
    return np.array([sum(column) / len(column) for column in kept])
