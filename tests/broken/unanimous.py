"""Rules that are exact where the honest agree, and unbounded elsewhere."""

from __future__ import annotations

import numpy as np
from sound import trimmed_mean_by_sort

from broken.registry import broken, finite_mean


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
