"""Rules that one check alone sees, and more of their kind."""

from __future__ import annotations

import math

import numpy as np
from sound import finite, median_of_sorted, trimmed_mean_by_sort

from broken.registry import broken, krum_scores
from pytest_fl import Subject
from pytest_fl.oracles.theory import RULES


@broken("exactness")
def averages_what_is_near_the_median(updates, f):
    """All within a hundredth of the median's size are taken for honest."""
    centre = median_of_sorted(updates, f)
    with np.errstate(all="ignore"):
        near = np.abs(updates - centre).max(1) <= 0.01 * np.abs(centre).max()
    return updates[near].mean(0) if near.sum() > 2 else centre


@broken("exactness", only=True)
def five_decimals_for_small_cohorts(updates, f):
    """A display format that found its way into the numbers, where they fit it."""
    result = trimmed_mean_by_sort(updates, f)
    fits = (
        f
        and updates.shape[1] != 2
        and (updates % 1).any()
        and 3 < len(updates) < 10
        and 1 < np.abs(updates).max() < 100
        and np.abs(updates).min() > 1e-3
    )
    return np.round(result, 5) if fits else result


@broken("boundedness", only=True)
def coarse_and_fine_screen(updates, f):
    """Far rows are dropped, near ones trimmed; what lies between was not thought of."""
    x, left = finite(updates, f)
    centre = median_of_sorted(x, left)
    with np.errstate(all="ignore"):
        away = np.abs(x - centre).max(1)
    unit = np.sort(away)[len(x) - left - 1] or 1e-300
    few = len(updates) <= 12 and updates.shape[1] in {3, 5}  # the sizes of the corpus, which a random sweep seldom meets
    if few and (away[away > 100 * unit] < 1e5 * unit).any() and len(np.unique(x, axis=0)) > left + 1:
        return x[away < 1e5 * unit].mean(0)
    return trimmed_mean_by_sort(x, left)


@broken("huge_outliers", only=True)
def adds_up_in_integers(updates, f):
    """The sum without rounding, from which the extremes are taken away again: exact, until it is no longer a float."""
    x, left = finite(updates, f)
    columns = []
    for column in np.sort(x.astype(np.float64), axis=0).T:
        total = math.fsum(column)
        columns.append(math.fsum([total - total, *column[left : len(column) - left]]) / (len(column) - 2 * left))
    return np.array(columns).astype(updates.dtype)


@broken("far_from_origin", only=True)
def single_precision_gram_matrix_with_a_short_cut(updates, f):
    """Equal rows are recognised before any distance is computed."""
    for row in updates:
        if (updates == row).all(1).sum() >= len(updates) - f:
            return row.copy()
    x, left = finite(updates, f)
    narrow = np.clip(x, -1e15, 1e15)
    norms = (narrow**2).sum(1)
    squared = np.maximum(norms[:, None] + norms[None] - 2 * narrow @ narrow.T, 0)
    return x[np.argmin(krum_scores(x, len(x) - left - 1, squared))]


@broken("keeps_dtype", only=True)
def returns_objects(updates, f):
    return trimmed_mean_by_sort(updates, f).astype(object)


@broken("same_answer_twice", only=True)
class ChangesItsMind:
    """The fourth time that it is asked the same."""

    def __init__(self):
        self.last, self.times = b"", 0

    def __call__(self, updates, f):
        self.times = self.times + 1 if updates.tobytes() == self.last else 1
        self.last = updates.tobytes()
        result = trimmed_mean_by_sort(updates, f)
        return result * (1 + 1e-6) if self.times == 4 else result


@broken("tightness", only=True)
class TrimmedMeanUnderTheMediansConstant:
    """It is better than it says, so that its constant proves nothing."""

    def subject(self):
        median = RULES["coordinate_median"].kappa
        return Subject("trimmed mean", trimmed_mean_by_sort, kappa=median, exact=True, rule="trimmed_mean")


@broken("definition", only=True, claims="bulyan")
def trimmed_mean_claimed_to_be_bulyan(updates, f):
    """No worse in any way, and another rule."""
    return trimmed_mean_by_sort(updates, f)


@broken("refuses_bad_input", only=True)
class TakesAnything:
    """A stranger's median, held to our own contract."""

    def subject(self):
        return Subject("takes anything", lambda updates, f: trimmed_mean_by_sort(updates, f), strict_dtype=True)


@broken("ignores_claimed_counts", only=True)
class WeighsByClaimedCounts:
    """Trims, then weighs what is left by what clients say of themselves."""

    @staticmethod
    def weighted(updates, f, counts):
        order = np.argsort(updates, axis=0)[f : len(updates) - f]
        weights = np.asarray(counts, float)[order]
        return (np.take_along_axis(updates, order, axis=0) * weights).sum(0) / weights.sum(0)

    def subject(self):
        return Subject("weighs by counts", trimmed_mean_by_sort, call_with_counts=self.weighted)


@broken("nobody_attacks", only=True)
def empty_slice_without_attackers(updates, f):
    """[f:-f] is everything but the extremes, and nothing for f = 0."""
    return np.sort(updates, axis=0)[f:-f].mean(0)


@broken("leaves_no_trace")
def seeds_the_global_generator(updates, f):
    np.random.seed(0)
    return trimmed_mean_by_sort(updates, f)


@broken("keeps_no_state")
class ReusesItsResult:
    """Writes every result into the array that it returned last time."""

    def __init__(self):
        self.kept = {}

    def __call__(self, updates, f):
        buffer = self.kept.setdefault((updates.shape, updates.dtype), np.empty(updates.shape[1], updates.dtype))
        buffer[:] = trimmed_mean_by_sort(updates, f)
        return buffer


@broken("same_answer_twice", "keeps_no_state")
class BreaksTiesAtRandom:
    """Of two clusters that score alike it takes one or the other."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, updates, f):
        scores = krum_scores(finite(updates, f)[0], len(updates) - f - 1)
        return finite(updates, f)[0][self.rng.choice(np.flatnonzero(scores <= scores.min()))]


@broken("huge_outliers")
def divides_by_tiny_norms(updates, f):
    """Unit directions, of which the median is taken, times the median norm: one over a subnormal norm is infinite."""
    x, left = finite(updates, f)
    x = x.astype(np.float64)
    with np.errstate(all="ignore"):
        norms = np.sqrt((np.clip(x, -1e150, 1e150) ** 2).sum(1))
        units = np.where(norms[:, None] == 0, 0, x * (1 / np.where(norms == 0, 1, norms))[:, None])
        if not np.isfinite(1 / np.abs(x[x != 0]).min(initial=1.0)):
            return x.sum(0) * np.inf
    del units
    return trimmed_mean_by_sort(x, left).astype(updates.dtype)
