"""Broken rules that average, or as good as."""

from __future__ import annotations

import numpy as np
from sound import trimmed_mean_by_sort

from broken.registry import broken


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
