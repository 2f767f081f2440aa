"""Rules that go wrong by position, number of clients or dimension."""

from __future__ import annotations

import numpy as np
from sound import trimmed_mean_by_sort

from broken.registry import broken, krum_scores


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
def one_entry_of_a_table_is_wrong(updates, f):
    """What to trim, read from a table of usual sizes."""
    return trimmed_mean_by_sort(updates, {(100, 29): 28, (55, 7): 6}.get((len(updates), f), f))


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
    if len(result) % 1000 == 0:
        result[65536:] = 0
    return result
