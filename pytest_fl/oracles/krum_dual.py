"""Krum's exact constant, as the least value of a dual problem: what no input can exceed, whatever its dimension.

sigma = 1, mu = 0, z the chosen row and N the h rows of its score, itself among them; b of N are outside of S. Either z is
one of them, or it is in S. A are the other members of S in N, w = |z - m_A|, V their variance; R is the rest of S, and D
(or d) its mean's distance from m_A. Every score is a sum over the h nearest, so at most the sum over any h rows: averaged
over A, that over S, over N, and over A, z and all but one of R. Each gives a quadratic inequality in (w, D) and in the sum
of squared distances from z of the outsiders in N, which falls out of a sum of two of them with the right weight.
docs/theory.md, Theorem 6, derives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
GRID: Final = np.concatenate([[0.0], np.geomspace(1e-4, 1e2, 120)])
"""Weights that are tried where a bound is enough."""


@lru_cache(maxsize=4096)
def krum(n: int, f: int) -> float:
    """Exact for every n > 2f: with n - f - 1 neighbours and squared distances; 1 at f = 0.

    For n <= 3f the average over R alone gives n^2/(f a). Beyond, the greatest over b <= f of both cases.
    """
    h, a = n - f, n - 2 * f
    if f == 0:
        return 1.0
    if n <= 3 * f:
        return n * n / (f * a)
    outside = max(chosen_outside(h, b) for b in range(1, f + 1))
    return max(outside, *(chosen_inside(h, b, outside) for b in range(1, f + 1)))


def chosen_outside(h: int, b: int) -> float:
    """(w + bD/h)^2 at most, for a winner outside of S: the least, over the weight of the inequality for N, of a maximum."""
    if b == 1:  # no other outsider: the inequality for N says less than that for R
        return float(_outsider(h, b, np.zeros(1))[0])
    return _least(lambda weight: _outsider(h, b, weight), (h - b - 1) / (b - 1) * (1 - 1e-12))


def _outsider(h: int, b: int, weight: Floats) -> Floats:
    """The greatest (w + bD/h)^2 with p w^2 + q D^2 <= h^2/a, a w^2 <= h^2/a and b D^2 <= h^2/a; each weight is a bound."""
    a = h - b
    room, share = h * h / a, b / h
    p, q = a - 1 - weight * (b - 1), (1 + weight * b) / (1 + weight)
    w_most, d_most = math.sqrt(room / a), math.sqrt(room / b)
    length = np.sqrt(room / (1 / p + share**2 / q))
    w, d = length / p, length * share / q  # the greatest on the ellipse, unless a limit cuts it
    d_cut = np.minimum(d_most, np.sqrt(np.maximum(room - p * w_most**2, 0) / q))
    w_cut = np.minimum(w_most, np.sqrt(np.maximum(room - q * d_most**2, 0) / p))
    value = np.where(w > w_most, w_most + share * d_cut, np.where(d > d_most, w_cut + share * d_most, w + share * d))
    return value**2


def chosen_inside(h: int, b: int, enough: float) -> float:
    """|z|^2 at most, for a winner in S, or any bound below `enough`: the least value of the dual that was tried.

    With z = ((h - 1) w + b d)/h up to sign, each inequality is a quadratic form in (w, d) at most 1; for any weights
    r, t >= 0 their sum M gives |z|^2 <= (1 + t) v' M^-1 v. Every such value is a bound, so that a grid is enough where it
    is below the other case; where it is not, the least over r is looked for at t = 0.
    """
    alpha = h - 1 - b
    if alpha < 1:
        return 1.0
    tried = _insider(h, b, GRID[:, None], GRID[None, :]).min()
    if tried <= enough:
        return float(tried)
    return _least(lambda r: _insider(h, b, r, np.zeros(1)), alpha / b * (1 - 1e-12))


def _least(function: Callable[[Floats], Floats], high: float) -> float:
    """The least value between 0 and high: on a grid, then on ever finer ones around the best point."""
    low, least = 0.0, math.inf
    for _ in range(12):
        points = np.linspace(low, high, 101)
        values = function(points)
        best = int(np.argmin(values))
        least = min(least, float(values[best]))
        low, high = float(points[max(best - 1, 0)]), float(points[min(best + 1, 100)])
    return least


def _insider(h: int, b: int, r: Floats, t: Floats) -> Floats:
    """(1 + t) v' M^-1 v, infinite where M is not positive definite; r, t >= 0 of shapes that broadcast."""
    alpha = h - 1 - b
    # alpha^2 w^2 + b |w + d|^2 + alpha Delta <= h^2 (over S) and r times
    # alpha (alpha - b) w^2 + b |w + d|^2 + b alpha d^2 - 2 alpha w sqrt(b Delta) <= h^2 (over N), Delta at its worst.
    ww = (alpha**2 - r * alpha * b + b) / h**2 + t * (1 - 1 / h) / h
    wd = b / h**2 + t * (b / h) / h + 0 * r
    dd = (b + r / (1 + r) * alpha * b) / h**2 + t * (b - b * b / h) / h  # the terms with t: V >= 0
    v, u = (alpha + b) / h, b / h
    determinant = ww * dd - wd**2
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (1 + t) * (v * v * dd - 2 * v * u * wd + u * u * ww) / determinant
    return np.where((determinant > 0) & (ww > 0), value, np.inf)
