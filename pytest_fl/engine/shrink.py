"""A failing round made small: fewest clients, fewest coordinates, simplest numbers, still failing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from pytest_fl.subjects.round import STORED, Round

ATTEMPTS = 400
SECONDS = 3.0


def shrink(round_: Round, fails: Callable[[Round], bool], admits: Callable[[int, int], bool]) -> Round:
    """The smallest round found for which `fails` still holds; greedy, bounded in attempts and seconds."""
    deadline, attempts, improved = time.monotonic() + SECONDS, 0, True
    while improved:
        improved = False
        for smaller in _smaller(replace(round_, tags=round_.tags - {STORED})):
            if attempts >= ATTEMPTS or time.monotonic() > deadline:
                return round_
            if admits(smaller.n, smaller.f):
                attempts += 1
                if fails(smaller):
                    round_, improved = smaller, True
                    break
    return round_


def _smaller(round_: Round) -> Iterator[Round]:
    yield from _fewer_coordinates(round_)
    yield from _fewer_clients(round_)
    yield from _simpler_numbers(round_)


def _fewer_coordinates(round_: Round) -> Iterator[Round]:
    d = round_.d
    sizes = sorted({1, 2, d // 100, d // 10, d // 2, d - 1} & set(range(1, d)))
    for size in sizes:
        for start in {0, d - size}:
            yield round_.with_updates(np.ascontiguousarray(round_.updates[:, start : start + size]))


def _fewer_clients(round_: Round) -> Iterator[Round]:
    honest = [row for row in range(round_.n) if row not in round_.byzantine]
    if len(round_.byzantine) > 1 and len(honest) > 1:
        yield _without(round_, {round_.byzantine[-1], honest[-1]}, fewer_f=1)
        yield _without(round_, {round_.byzantine[0], honest[0], *honest[-1:]}, fewer_f=1)
        yield _without(round_, {round_.byzantine[-1]}, fewer_f=1)
    if len(honest) > 1:
        yield _without(round_, {honest[-1]}, fewer_f=0)
        yield _without(round_, {honest[0]}, fewer_f=0)


def _without(round_: Round, rows: set[int], *, fewer_f: int) -> Round:
    kept = [row for row in range(round_.n) if row not in rows]
    byzantine = tuple(kept.index(row) for row in round_.byzantine if row in kept)
    return replace(round_, updates=round_.updates[kept], byzantine=byzantine, f=round_.f - fewer_f)


def _simpler_numbers(round_: Round) -> Iterator[Round]:
    if round_.updates.size > 400 or not np.isfinite(round_.updates).all():
        return
    if "generic" in round_.tags:  # simple numbers tie, and then there are several right answers
        return
    for digits in (1, 2, 3):
        simpler = _rounded(round_.updates, digits)
        if (simpler != round_.updates).any():
            yield round_.with_updates(simpler)
    x = round_.updates
    for row, column in np.ndindex(x.shape):
        for value in (0.0, 1.0, float(_rounded(x[row, column], 1))):
            if x[row, column] != value and _simplicity(value) < _simplicity(float(x[row, column])):
                simpler = x.copy()
                simpler[row, column] = value
                yield round_.with_updates(simpler)


def _rounded(x: np.ndarray, digits: int) -> np.ndarray:
    """To so many significant digits."""
    with np.errstate(all="ignore"):
        power = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(x.astype(np.float64)))))
        rounded = np.where((x == 0) | ~np.isfinite(power) | (power == 0), x, np.round(x * power) / power)
    return np.where(np.isfinite(rounded), rounded, x).astype(x.dtype)


def _simplicity(value: float) -> tuple[int, float]:
    if value in {0.0, 1.0}:
        return (0, value)
    return (len(f"{value:.17g}"), math.fabs(value))
