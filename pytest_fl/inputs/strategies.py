"""Hypothesis strategies for rounds: composite, and shrinking to few clients, few coordinates and simple numbers."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

from pytest_fl.subjects.round import Round, Updates

Strategy: TypeAlias = st.SearchStrategy[Any]
SIZES = (1.0, 1e-3, 1e3, 1e6)


def _entries(limit: float) -> st.SearchStrategy[float]:
    """Small integers first, since they tie and read well; then any float within the limit."""
    return st.one_of(st.integers(-3, 3).map(float), st.floats(-limit, limit, allow_nan=False, allow_subnormal=False, width=32))


def _matrix(rows: int, d: int, limit: float) -> st.SearchStrategy[Updates]:
    row = st.lists(_entries(limit), min_size=d, max_size=d)
    return st.lists(row, min_size=rows, max_size=rows).map(lambda values: np.array(values, dtype=np.float64).reshape(rows, d))


@st.composite
def honest_updates(draw: st.DrawFn, h: int, d: int, *, agree: bool = False, limit: float = 1e6) -> Updates:
    """(h, d) float64 updates of h honest clients: spread, tied or duplicated; all equal with `agree`."""
    if agree:
        return np.repeat(draw(_matrix(1, d, limit)), h, axis=0)
    distinct = draw(st.integers(1, h))
    rows = draw(_matrix(distinct, d, limit))
    return rows[np.arange(h) % distinct]


@st.composite
def byzantine_updates(draw: st.DrawFn, honest: Updates, f: int, *, limit: float = 1e6) -> Updates:
    """(f, d) float64 updates of f clients that know the honest ones: the honest mean plus a multiple of simple directions."""
    d = honest.shape[1]
    if f == 0:
        return np.empty((0, d))
    distinct = 1 if draw(st.booleans()) else f
    rows = draw(_matrix(distinct, d, limit))[np.arange(f) % distinct]
    size = draw(st.sampled_from(SIZES))
    return np.clip(honest.mean(0) + size * rows, -limit * 1e6, limit * 1e6)


@st.composite
def rounds(
    draw: st.DrawFn,
    *,
    clients: tuple[tuple[int, int], ...] = ((3, 1), (4, 1), (5, 2), (6, 2), (7, 3), (8, 3)),
    max_d: int = 3,
    agree: bool = False,
    limit: float = 1e6,
) -> Round:
    """A `Round` of n <= 8 clients in at most `max_d` coordinates, Byzantine rows anywhere.

    `clients`: the (n, f) to draw from, simplest first. `agree`: the honest rows are all equal.
    """
    n, f = draw(st.sampled_from(clients))
    d = draw(st.integers(1, max_d))
    honest = draw(honest_updates(n - f, d, agree=agree, limit=limit))
    byzantine = draw(byzantine_updates(honest, f, limit=limit))
    rows = tuple(sorted(draw(st.permutations(range(n)))[:f]))
    updates = np.empty((n, d))
    updates[list(rows)] = byzantine
    updates[[row for row in range(n) if row not in rows]] = honest
    return Round(updates, f, rows, "found by Hypothesis", frozenset({"tied"}))


def unanimous(*, clients: tuple[tuple[int, int], ...] = ((3, 1), (5, 2), (6, 2), (7, 3), (8, 3)), max_d: int = 3) -> Strategy:
    """Rounds whose honest rows agree."""
    return rounds(clients=clients, max_d=max_d, agree=True)


SEARCHES = {"rounds": rounds, "unanimous": unanimous}
"""By the name under which a check asks for them."""
