"""Attacks that stay as close as the honest rows are to one another, or as close as a rule must accept."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fl_impl.attacks.base import Array
from fl_impl.attacks.registry import attack
from fl_impl.attacks.updates import direction, mean_of, repeated, spread_of

Direction = Literal["std", "unit", "sign"]


def perturbation(honest: Array, along: Direction) -> Array:
    """(d,): p = -s, -mu/||mu|| or -sign(mu)."""
    if along == "std":
        return -spread_of(honest)
    return -np.sign(mean_of(honest)) if along == "sign" else -direction(mean_of(honest))


def squared_distances(rows: Array) -> Array:
    """(h, h) float64, by differences: exact at any offset; h is small."""
    return np.stack([((rows - row) ** 2).sum(axis=1) for row in rows])


@attack(source="Shejwalkar & Houmansadr 2021 (NDSS), Min-Max; solved in closed form, so that no scale is out of reach")
def min_max(honest: Array, f: int, rng: np.random.Generator, *, along: Direction = "std") -> Array:
    """mu + gamma p with the largest gamma such that max_i ||m - x_i|| <= max_ij ||x_i - x_j||.

    Each i gives a quadratic in gamma; gamma is the least of their larger roots.
    """
    del rng
    unit, x = scaled(honest)
    mu, p = x.mean(axis=0), direction(perturbation(x, along))
    offsets = mu - x
    linear = offsets @ p
    constant = (offsets**2).sum(axis=1) - squared_distances(x).max()
    gamma = float((-linear + np.sqrt(np.maximum(linear**2 - constant, 0))).min())
    return repeated(unit * (mu + gamma * p), f)


@attack(source="Shejwalkar & Houmansadr 2021 (NDSS), Min-Sum; reference 'max' is the paper's text, 'min' the authors' code")
def min_sum(
    honest: Array, f: int, rng: np.random.Generator, *, along: Direction = "std", reference: Literal["max", "min"] = "max"
) -> Array:
    """mu + gamma p with the largest gamma such that sum_i ||m - x_i||^2 <= max_i (or min_i) sum_j ||x_i - x_j||^2."""
    del rng
    unit, x = scaled(honest)
    mu, p = x.mean(axis=0), direction(perturbation(x, along))
    sums = squared_distances(x).sum(axis=1)
    allowed = (sums.max() if reference == "max" else sums.min()) - ((x - mu) ** 2).sum()
    return repeated(unit * (mu + np.sqrt(max(allowed, 0.0) / len(x)) * p), f)


def scaled(honest: Array) -> tuple[float, Array]:
    """(unit, x) with honest = unit x in float64 and the largest |x| at 1, so that squares neither overflow nor vanish."""
    unit = float(np.abs(honest).max()) or 1.0
    return unit, honest.astype(np.float64) / unit


@attack(knowledge="aggregator", source="Fang et al. 2020 (USENIX Security; arXiv 1911.11815), full knowledge, Krum")
def fang_krum(
    honest: Array, f: int, rng: np.random.Generator, *, neighbours: Literal["blanchard", "allouah"] = "blanchard"
) -> Array:
    """-lambda sign(mu), all f alike, with the largest lambda = lambda_0 / 2^k that Krum picks.

    Updates are differences, so the model before the round (w_Re) is 0. Krum counts n-f-2 ("blanchard") or n-f-1
    neighbours. Halving stops at 1e-5 lambda_0.
    """
    del rng
    unit, x = scaled(honest)
    k = len(x) - (2 if neighbours == "blanchard" else 1)
    signs, d2 = np.sign(x.mean(axis=0)), squared_distances(x)
    first = fang_start(x, d2, f)
    strength = first
    while strength > 1e-5 * first and not krum_picks(-strength * signs, x, d2, f, k):
        strength /= 2
    return repeated(-unit * strength * signs, f)


def fang_start(x: Array, d2: Array, f: int) -> float:
    """lambda_0 = min_i sum_{j near i} ||x_i - x_j|| / ((n-2f-1) sqrt d) + max_i ||x_i|| / sqrt d."""
    n, root = len(x) + f, np.sqrt(x.shape[1])
    near = np.sort(np.sqrt(d2), axis=1)[:, : max(len(x) - 1, 1)].sum(axis=1)
    return float(near.min() / (max(n - 2 * f - 1, 1) * root) + np.linalg.norm(x, axis=1).max() / root)


def krum_picks(row: Array, x: Array, d2: Array, f: int, k: int) -> bool:
    """Whether one of f copies of `row` beside the rows x has the least sum of squared distances to k others."""
    to_honest = ((x - row) ** 2).sum(axis=1)
    own = np.sort(np.concatenate([np.zeros(max(f - 1, 0)), to_honest]))[: max(k, 0)].sum()
    others = np.concatenate([d2, np.repeat(to_honest[:, None], f, axis=1)], axis=1)
    others = np.sort(others, axis=1)[:, 1 : max(k, 0) + 1].sum(axis=1)  # the first is the row itself
    return bool(own <= others.min())


@attack(source="Fang et al. 2020 (USENIX Security; arXiv 1911.11815), trimmed mean and median")
def fang_trimmed_mean(
    honest: Array, f: int, rng: np.random.Generator, *, b: float = 2.0, knowledge: Literal["full", "partial"] = "full"
) -> Array:
    """Each coordinate beyond the honest extreme, against the sign of mu.

    full: uniform between the extreme and b times (or 1/b of) it; partial: uniform in mu +- [3 s, 4 s].
    """
    mu = mean_of(honest)
    up = mu < 0
    if knowledge == "partial":
        spread = spread_of(honest)
        near, far = mu + np.where(up, 3, -3) * spread, mu + np.where(up, 4, -4) * spread
    else:
        near = np.where(up, honest.max(axis=0), honest.min(axis=0)).astype(np.float64)
        far = np.where((near > 0) == up, near * b, near / b)
    return near + rng.random((f, honest.shape[1])) * (far - near)
