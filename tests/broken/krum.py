"""Broken Krums and their kin."""

from __future__ import annotations

import numpy as np
from sound import distances

from broken.registry import broken, krum_scores


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
