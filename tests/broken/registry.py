"""The table of broken rules, and what several of them are made of."""

from __future__ import annotations

import numpy as np
from sound import distances

BROKEN = {}
"""name -> (rule or class of one, checks of which at least one must fail, keywords for `verify`)."""
SOLE = {}
"""check -> the rule that only this check catches."""


def broken(*checks, only=False, **claims):
    """`only`: no other check may fail, so that without this one the rule would pass."""

    def register(rule):
        if rule.__name__ in BROKEN:
            raise ValueError(f"a broken rule named {rule.__name__} exists already")
        BROKEN[rule.__name__] = (rule, checks, claims)
        if only:
            SOLE[checks[0]] = rule.__name__
        return rule

    return register


def finite_mean(rows):
    return rows[np.isfinite(rows).all(1)].mean(0)


def krum_scores(x, neighbours, squared=None):
    squared = distances(x) if squared is None else squared
    squared = squared.copy()
    np.fill_diagonal(squared, np.inf)
    return np.sort(squared, axis=1)[:, :neighbours].sum(1)
