"""Broken rules, each with a mistake that people make, and the checks that may be the first to see it.

`broken(*checks, **claims)`: the checks that must catch it (any other may as well), and what is claimed for the rule.
"""

from __future__ import annotations

import math
import os
import time

import numpy as np
from sound import distances, finite, median_of_sorted, trimmed_mean_by_sort

from pytest_fl import Subject
from pytest_fl.oracles.theory import RULES

BROKEN = {}
"""name -> (rule or class of one, checks of which at least one must fail, keywords for `verify`)."""
SOLE = {}
"""check -> the rule that only this check catches."""


def broken(*checks, only=False, **claims):
    """`only`: no other check may fail, so that without this one the rule would pass."""

    def register(rule):
        BROKEN[rule.__name__] = (rule, checks, claims)
        if only:
            SOLE[checks[0]] = rule.__name__
        return rule

    return register


def finite_mean(rows):
    return rows[np.isfinite(rows).all(1)].mean(0)


# --- it averages, or as good as -------------------------------------------------------------------------------------


@broken("exactness")
def plain_mean(updates, f):
    return updates.mean(0)


@broken("exactness")
def ignores_f(updates, f):
    """Tolerates one, whatever it is told."""
    return trimmed_mean_by_sort(updates, 1)


@broken("exactness")
def trims_above_only(updates, f):
    return np.sort(updates, axis=0)[: len(updates) - f].mean(0)


@broken("exactness")
def trims_below_only(updates, f):
    return np.sort(updates, axis=0)[f:].mean(0)


@broken("exactness")
def trims_one_too_few(updates, f):
    return np.sort(updates, axis=0)[max(f - 1, 0) : len(updates) - max(f - 1, 0)].mean(0)


@broken("exactness")
def trims_half_of_f_on_each_side(updates, f):
    k = (f + 1) // 2
    return np.sort(updates, axis=0)[k : len(updates) - k].mean(0)


@broken("exactness")
def slice_off_by_one(updates, f):
    return np.sort(updates, axis=0)[f : len(updates) - f + 1].mean(0)


@broken("exactness")
def sorts_rows_by_their_first_entry(updates, f):
    order = np.argsort(updates[:, 0])
    return updates[order[f : len(updates) - f]].mean(0)


@broken("exactness")
def sorts_along_the_wrong_axis(updates, f):
    ordered = np.sort(updates, axis=1)
    return ordered[f : len(updates) - f].mean(0)


@broken("exactness")
def drops_largest_norms(updates, f):
    """CGE: a small reversed update has a small norm."""
    order = np.argsort(np.linalg.norm(updates, axis=1), kind="stable")
    return updates[order[: len(updates) - f]].mean(0)


@broken("exactness")
def drops_smallest_norms(updates, f):
    order = np.argsort(np.linalg.norm(updates, axis=1), kind="stable")
    return updates[order[f:]].mean(0)


@broken("exactness")
def drops_what_is_far_from_the_mean(updates, f):
    away = np.linalg.norm(updates - updates.mean(0), axis=1)
    return updates[np.argsort(away, kind="stable")[: len(updates) - f]].mean(0)


@broken("exactness")
def nearest_to_the_mean(updates, f):
    """The decoy sits there."""
    return updates[np.argmin(np.linalg.norm(updates - updates.mean(0), axis=1))]


@broken("exactness")
def two_sigma_filter(updates, f):
    away = np.abs(updates - updates.mean(0))
    keep = away <= 2 * updates.std(0)
    return np.where(keep, updates, 0).sum(0) / np.maximum(keep.sum(0), 1)


@broken("exactness")
def median_absolute_deviation_filter_about_the_mean(updates, f):
    centre = updates.mean(0)
    away = np.abs(updates - centre)
    keep = away <= 3 * np.median(away, axis=0)
    return np.where(keep, updates, 0).sum(0) / np.maximum(keep.sum(0), 1)


@broken("exactness")
def clips_norms_to_one(updates, f):
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    return (updates / np.maximum(norms, 1)).mean(0)


@broken("exactness")
def clips_to_the_median_norm(updates, f):
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    return (updates * np.minimum(1, np.median(norms) / np.maximum(norms, 1e-300))).mean(0)


@broken("exactness")
def cosine_to_the_median(updates, f):
    centre = np.median(updates, axis=0)
    cosine = updates @ centre / np.maximum(np.linalg.norm(updates, axis=1) * np.linalg.norm(centre), 1e-300)
    weights = np.maximum(cosine, 0)
    return weights @ updates / max(weights.sum(), 1e-300)


@broken("exactness")
def majority_of_signs(updates, f):
    return np.sign(np.sign(updates).sum(0)) * np.abs(updates).mean(0)


@broken("exactness")
def median_of_two_group_means(updates, f):
    half = len(updates) // 2
    return np.median([updates[:half].mean(0), updates[half:].mean(0)], axis=0)


# --- Krum and its kin -----------------------------------------------------------------------------------------------


def krum_scores(x, neighbours, squared=None):
    squared = distances(x) if squared is None else squared
    squared = squared.copy()
    np.fill_diagonal(squared, np.inf)
    return np.sort(squared, axis=1)[:, :neighbours].sum(1)


@broken("exactness")
def krum_takes_the_worst(updates, f):
    return updates[np.argmax(krum_scores(updates, len(updates) - f - 1))]


@broken("exactness")
def krum_with_f_neighbours(updates, f):
    """f identical colluders are each other's neighbours: with f - 1 the score is zero."""
    return updates[np.argmin(krum_scores(updates, max(f - 1, 1)))]


@broken("exactness")
def krum_sums_the_farthest(updates, f):
    squared = distances(updates)
    return updates[np.argmin(np.sort(squared, axis=1)[:, f + 1 :].max(1) * 0 + squared.sum(1))]


@broken("exactness")
def multi_krum_takes_one_too_many(updates, f):
    order = np.argsort(krum_scores(updates, len(updates) - f - 1), kind="stable")
    return updates[order[: len(updates) - f + 1]].mean(0)


@broken("exactness")
def multi_krum_averages_the_first_rows(updates, f):
    """The scores' order is computed and then not used."""
    order = np.sort(krum_scores(updates, len(updates) - f - 1))
    return updates[: len(order) - f].mean(0)


@broken("exactness")
def index_not_mapped_back(updates, f):
    """Removes the f farthest one by one, but the numbers are those of the shrunken array."""
    kept = updates.copy()
    removed = []
    for _ in range(f):
        worst = int(np.argmax(krum_scores(kept, max(len(kept) - f - 1, 1))))
        removed.append(worst)
        kept = np.delete(kept, worst, axis=0)
    return np.delete(updates, removed, axis=0).mean(0)


@broken("far_from_origin")
def krum_by_gram_matrix(updates, f):
    """|a|^2 + |b|^2 - 2ab in the precision of the updates."""
    norms = (updates**2).sum(1)
    squared = np.maximum(norms[:, None] + norms[None] - 2 * updates @ updates.T, 0)
    return updates[np.argmin(krum_scores(updates, len(updates) - f - 1, squared))]


@broken("far_from_origin")
def gram_matrix_above_25(updates, f):
    """As torch.cdist does."""
    return (
        krum_by_gram_matrix(updates, f) if len(updates) > 25 else updates[np.argmin(krum_scores(updates, len(updates) - f - 1))]
    )


@broken("huge_outliers", "every_scale")
def krum_overflows(updates, f):
    """Squares in the precision of the updates, and NaN is the smallest for argmin."""
    gram = updates @ updates.T
    diagonal = np.diag(gram)
    squared = diagonal[:, None] + diagonal[None] - 2 * gram
    np.fill_diagonal(squared, 0)
    return updates[np.argmin(np.sort(squared, axis=1)[:, 1 : len(updates) - f].sum(1))]


@broken("non_finite")
def krum_takes_nan_for_the_minimum(updates, f):
    with np.errstate(all="ignore"):
        squared = ((updates[:, None].astype(np.float64) - updates[None]) ** 2).sum(-1)
    np.fill_diagonal(squared, np.inf)
    return updates[np.argmin(np.sort(squared, axis=1)[:, : len(updates) - f - 1].sum(1))]


# --- medians --------------------------------------------------------------------------------------------------------


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


# --- iterations -----------------------------------------------------------------------------------------------------


def weiszfeld(x, steps, eps=1e-12, start=None):
    x = x.astype(np.float64)
    z = x.mean(0) if start is None else start
    for _ in range(steps):
        weights = 1 / np.maximum(np.linalg.norm(x - z, axis=1), eps)
        z = weights @ x / weights.sum()
    return z


@broken("exactness")
def one_weiszfeld_step(updates, f):
    return weiszfeld(updates, 1).astype(updates.dtype)


@broken("exactness")
def three_smoothed_weiszfeld_steps_from_zero(updates, f):
    return weiszfeld(updates, 3, eps=0.1, start=np.zeros(updates.shape[1])).astype(updates.dtype)


@broken("exactness", "huge_outliers")
def weiszfeld_from_the_contaminated_mean(updates, f):
    """Fifty steps do when the outliers are near."""
    return weiszfeld(updates, 50).astype(updates.dtype)


@broken("every_scale")
def weiszfeld_with_an_absolute_epsilon(updates, f):
    start = np.sort(updates, axis=0)[(len(updates) - 1) // 2].astype(np.float64)
    return weiszfeld(np.clip(updates, -1e60, 1e60), 500, eps=1e-9, start=start).astype(updates.dtype)


@broken("exactness", "every_scale")
def stops_when_the_step_is_small(updates, f):
    x, z = updates.astype(np.float64), updates.mean(0, dtype=np.float64)
    for _ in range(1000):
        weights = 1 / np.maximum(np.linalg.norm(x - z, axis=1), 1e-12)
        new = weights @ x / weights.sum()
        if np.linalg.norm(new - z) < 1e-3:
            break
        z = new
    return z.astype(updates.dtype)


@broken("exactness")
def centered_clipping_from_zero(updates, f):
    x, v = updates.astype(np.float64), np.zeros(updates.shape[1])
    for _ in range(5):
        away = x - v
        v = v + (away * np.minimum(1, 1 / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-300))).mean(0)
    return v.astype(updates.dtype)


# --- sums and magnitudes --------------------------------------------------------------------------------------------


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


@broken("exactness")
def rounds_to_float32(updates, f):
    return trimmed_mean_by_sort(updates.astype(np.float32), f).astype(updates.dtype)


# --- position, number, size -----------------------------------------------------------------------------------------


@broken("exactness", "boundedness")
def trusts_the_first_client(updates, f):
    """Its update is the pivot: the mean of the n - f nearest to it."""
    away = np.linalg.norm(updates.astype(np.float64) - updates[0], axis=1)
    return updates[np.argsort(away, kind="stable")[: len(updates) - f]].mean(0)


@broken("exactness")
def never_looks_at_the_last_client(updates, f):
    rest = trimmed_mean_by_sort(updates[:-1], max(f - 1, 0)) if len(updates) > 3 else updates[0]
    return (rest * (len(updates) - 1) + updates[-1]) / len(updates)


@broken("exactness")
def averages_the_middle_rows(updates, f):
    """As if clients came sorted."""
    return updates[f : len(updates) - f].mean(0)


@broken("many_clients")
def fraction_truncated(updates, f):
    n = len(updates)
    return trimmed_mean_by_sort(updates, int(f / n * n))


@broken("many_clients")
def two_decimals_of_a_fraction(updates, f):
    n = len(updates)
    return trimmed_mean_by_sort(updates, min(f, int(float(f"{f / n:.2f}") * n + 0.02)) if n > 12 else f)


@broken("many_clients", only=True)
def at_most_ten_byzantine(updates, f):
    """A table that ends."""
    return trimmed_mean_by_sort(updates, min(f, 10))


@broken("many_coordinates")
def forgets_the_tail_of_a_block(updates, f):
    result = updates.mean(0)
    whole = len(result) // 64 * 64 if len(result) >= 64 else len(result)
    result[:whole] = trimmed_mean_by_sort(updates, f)[:whole]
    return result


@broken("many_coordinates")
def judges_by_the_first_thousand_coordinates(updates, f):
    return updates[np.argmin(krum_scores(updates[:, :1000], len(updates) - f - 1))]


@broken("many_coordinates", only=True)
def zeros_beyond_65536(updates, f):
    result = trimmed_mean_by_sort(updates, f)
    result[65536:] = 0
    return result


# --- bounded in the unanimous world only ----------------------------------------------------------------------------


@broken("boundedness")
def exact_only_where_they_agree(updates, f):
    """A short cut for a majority of equal rows, an average otherwise."""
    for row in updates:
        if (updates == row).all(1).sum() >= len(updates) - f:
            return row.copy()
    return finite_mean(updates)


@broken("boundedness")
def mode_of_rounded_values(updates, f):
    """The most frequent value of each coordinate; where all differ, the last one."""
    columns = []
    for column in updates.T:
        values, counts = np.unique(column[np.isfinite(column)], return_counts=True)
        columns.append(values[len(counts) - 1 - np.argmax(counts[::-1])])
    return np.array(columns, updates.dtype)


@broken("boundedness")
def divide_and_conquer(updates, f):
    """Drops by the largest projection on the top singular direction, f at once: a giant masks its orthogonal colleague."""
    x = np.where(np.isfinite(updates), updates, 0).astype(np.float64)
    if (np.sort(x, axis=0)[f] == np.sort(x, axis=0)[len(x) - f - 1]).all():
        return trimmed_mean_by_sort(updates, f)
    centred = np.clip(x - x.mean(0), -1e100, 1e100)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return x[np.argsort((centred @ directions[0]) ** 2)[: len(x) - f]].mean(0).astype(updates.dtype)


# --- the contract ---------------------------------------------------------------------------------------------------


@broken("returns_a_vector", only=True)
def returns_none(updates, f):
    trimmed_mean_by_sort(updates, f)


@broken("returns_a_vector")
def returns_a_list(updates, f):
    return trimmed_mean_by_sort(updates, f).tolist()


@broken("returns_a_vector")
def returns_a_row_matrix(updates, f):
    return trimmed_mean_by_sort(updates, f)[None]


@broken("returns_a_vector")
def returns_the_norm(updates, f):
    return np.linalg.norm(trimmed_mean_by_sort(updates, f))


@broken("returns_a_vector")
def returns_nan(updates, f):
    return trimmed_mean_by_sort(updates, f) * np.nan


@broken("returns_a_vector")
def raises(updates, f):
    raise ZeroDivisionError("float division by zero")


@broken("returns_a_vector")
def hangs(updates, f):
    while True:
        time.sleep(0.01)


@broken("returns_a_vector")
def exits(updates, f):
    raise SystemExit(1)


@broken("returns_a_vector")
def forks(updates, f):
    os.fork()
    return trimmed_mean_by_sort(updates, f)


@broken("keeps_dtype")
def returns_float16(updates, f):
    return trimmed_mean_by_sort(updates, f).astype(np.float16)


@broken("leaves_input_alone", only=True)
def sorts_in_place(updates, f):
    updates.sort(axis=0)
    return updates[f : len(updates) - f].mean(0)


@broken("leaves_input_alone")
def cleans_in_place(updates, f):
    updates -= updates.mean(0)
    return trimmed_mean_by_sort(updates, f) * 0 + np.sort(updates, axis=0)[len(updates) // 2]


@broken("same_answer_twice")
def adds_noise(updates, f):
    return trimmed_mean_by_sort(updates, f) * (1 + 1e-12 * np.random.default_rng().random())


@broken("keeps_no_state")
class WithMomentum:
    """Moves a little towards the last result, when asked about something else."""

    def __init__(self):
        self.last = {}

    def __call__(self, updates, f):
        result = trimmed_mean_by_sort(updates, f)
        key, seen = updates.shape, self.last.get(updates.shape)
        if seen is not None and not np.array_equal(seen[0], updates):
            result = result + 1e-13 * seen[1]
        self.last[key] = (updates.copy(), result)
        return result


@broken("keeps_no_state", only=True)
class CachesByIdentity:
    """Remembers an array by where it lies."""

    def __init__(self):
        self.known = {}

    def __call__(self, updates, f):
        key = (updates.__array_interface__["data"][0], updates.shape, f)
        kept = self.known.get(key)
        if kept is None or kept[0] is not updates:
            self.known[key] = (updates, trimmed_mean_by_sort(updates, f))
        return self.known[key][1]


@broken("leaves_no_trace", only=True)
def prints(updates, f):
    print("aggregating", len(updates))
    return trimmed_mean_by_sort(updates, f)


@broken("any_memory_layout", only=True)
def reads_the_buffer(updates, f):
    """Takes whatever lies in memory for rows."""
    flat = np.ravel(updates, order="K").reshape(updates.shape)
    return trimmed_mean_by_sort(flat, f)


@broken("non_finite")
def nan_counts_as_zero(updates, f):
    """One NaN client and f finite outliers are f + 1, of which f are trimmed; the zeros stay."""
    return (
        median_of_sorted(np.nan_to_num(updates, nan=0.0, posinf=0.0, neginf=0.0), f)
        if np.isfinite(updates).all()
        else np.nan_to_num(updates, nan=0.0, posinf=1e9, neginf=-1e9).mean(0)
    )


# --- claims that are not true ---------------------------------------------------------------------------------------


@broken("coefficient", claims="trimmed_mean")
def median_claimed_to_be_a_trimmed_mean(updates, f):
    return median_of_sorted(updates, f)


@broken("coefficient", only=True, kappa=lambda n, f: 0.5 * f / (n - 2 * f))
def claims_what_no_rule_can(updates, f):
    return trimmed_mean_by_sort(updates, f)


@broken("coefficient", kappa=lambda n, f: 6 * (1 + f / (n - 2 * f)))
def unsquared_krum_under_the_published_constant(updates, f):
    return updates[np.argmin(krum_scores(updates, len(updates) - f - 1, np.sqrt(distances(updates))))]


@broken("tightness", claims="coordinate_median")
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


# --- what one check alone sees --------------------------------------------------------------------------------------


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
    fits = f and 3 < len(updates) < 10 and 1 < np.abs(updates).max() < 100 and np.abs(updates).min() > 1e-3
    return np.round(result, 5) if fits else result


@broken("boundedness", only=True)
def coarse_and_fine_screen(updates, f):
    """Far rows are dropped, near ones trimmed; what lies between was not thought of."""
    x, left = finite(updates, f)
    centre = median_of_sorted(x, left)
    with np.errstate(all="ignore"):
        away = np.abs(x - centre).max(1)
    unit = np.sort(away)[len(x) - left - 1] or 1e-300
    if (away[away > 100 * unit] < 1e5 * unit).any() and len(np.unique(x, axis=0)) > left + 1:
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


@broken("definition", only=True, claims="meamed")
def trimmed_mean_claimed_to_be_meamed(updates, f):
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
