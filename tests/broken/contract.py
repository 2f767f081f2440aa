"""Rules that break the contract: the result, the input, state, time."""

from __future__ import annotations

import os
import time

import numpy as np
from sound import median_of_sorted, trimmed_mean_by_sort

from broken.registry import broken


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
