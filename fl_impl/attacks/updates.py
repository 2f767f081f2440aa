"""Attacks on updates: functions of the honest rows, by their published formulae, with the conventions as options.

honest is (n-f, d), float32 or float64; mu is its mean, s its standard deviation per coordinate. All return (f, d).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from fl_impl.attacks.base import Array, stand_in
from fl_impl.attacks.registry import attack


def mean_of(honest: Array) -> Array:
    """(d,) float64: mu, summed as differences from the first row, so that a common offset costs no digits."""
    sums = [(block - block[0]).sum(axis=0) for block in column_blocks(honest)]
    return honest[0].astype(np.float64) + np.concatenate(sums) / len(honest)


def spread_of(honest: Array, ddof: int = 1) -> Array:
    """(d,) float64: s, zero where there is one row."""
    if len(honest) <= ddof:
        return np.zeros(honest.shape[1])
    return np.concatenate([block_spread(block, ddof) for block in column_blocks(honest)])


def block_spread(block: Array, ddof: int) -> Array:
    """s of some columns; scaled to 1 first, so that the squares of 1e30 do not overflow."""
    centred = block - block[0]
    centred -= centred.sum(axis=0) / block.dtype.type(len(block))
    scale = max(float(centred.max()), -float(centred.min())) or 1.0
    centred /= block.dtype.type(scale)
    squares = np.einsum("ij,ij->j", centred, centred).astype(np.float64)
    return np.sqrt(squares / (len(block) - ddof)) * scale


def column_blocks(honest: Array) -> list[Array]:
    """Views of some columns each, about 65,536 numbers: what is computed of them stays in the cache."""
    width = max(1, 65536 // len(honest))
    return [honest[:, first : first + width] for first in range(0, honest.shape[1], width)]


def repeated(row: Array, f: int) -> Array:
    """(f, d): the attackers collude and send one row."""
    return np.broadcast_to(row, (f, len(row)))


@attack(knowledge="own", factor="scale", source="Li et al. 2019 (arXiv 1811.03761); of='mean' as in ByzFL")
def sign_flip(
    honest: Array,
    f: int,
    rng: np.random.Generator,
    *,
    scale: float = 1.0,
    of: Literal["own", "mean"] = "own",
    nullify: bool = False,
    own: Array | None = None,
) -> Array:
    """-scale x_i of the attacker's own update, or -scale mu; nullify: -mu (n-f)/f, so that the mean of all is zero."""
    del rng
    if nullify:
        return repeated(-mean_of(honest) * (len(honest) / max(f, 1)), f)
    if of == "mean":
        return repeated(-scale * mean_of(honest), f)
    return -scale * (stand_in(honest, f) if own is None else own)


@attack(knowledge="own", factor="factor", source="gradient scaling, as in Xie et al. 2020 (arXiv 1911.12560)")
def gradient_scale(honest: Array, f: int, rng: np.random.Generator, *, factor: float = 10.0, own: Array | None = None) -> Array:
    """factor x_i of the attacker's own update."""
    del rng
    return factor * (stand_in(honest, f) if own is None else own)


@attack(knowledge="blind", factor="std", source="Blanchard et al. 2017 (std 200 there); ByzFL, FLPoison (std 1)")
def noise_injection(
    honest: Array,
    f: int,
    rng: np.random.Generator,
    *,
    std: float = 1.0,
    mean: float = 0.0,
    around: Literal["zero", "own"] = "zero",
    own: Array | None = None,
) -> Array:
    """N(mean, std^2) in each coordinate, alone or added to the attacker's own update."""
    noise = rng.normal(mean, std, (f, honest.shape[1]))
    if around == "own":
        noise += stand_in(honest, f) if own is None else own
    return noise


@attack(factor="epsilon", source="Xie, Koyejo & Gupta 2019 (arXiv 1903.03936)")
def inner_product_manipulation(honest: Array, f: int, rng: np.random.Generator, *, epsilon: float = 0.1) -> Array:
    """-epsilon mu: 0.1 misleads Krum, 100 the medians."""
    del rng
    return repeated(-epsilon * mean_of(honest), f)


@attack(factor="z", source="Baruch, Baruch & Goldberg 2019 (arXiv 1902.06156)")
def a_little_is_enough(
    honest: Array, f: int, rng: np.random.Generator, *, z: float | None = None, sign: Literal[-1, 1] = -1, ddof: int = 1
) -> Array:
    """mu + sign z s; z defaults to the published z_max(n, f), which is 0 where f is too small, as at (10, 2).

    sign -1 and ddof 0 are Baruch's, sign +1 and ddof 1 ByzFL's. A fixed z of 1.5 is ByzFL's default.
    """
    del rng
    h = len(honest)
    strength = little_z(h + f, f) if z is None else z
    return repeated(mean_of(honest) + sign * strength * spread_of(honest, ddof), f)


def little_z(n: int, f: int) -> float:
    """z_max = Phi^-1((n - f - s0) / (n - f)), s0 = floor(n/2 + 1) - f, the supporters needed; not below 0.

    Where the attackers need nobody (s0 <= 0) the published formula is infinite; then s0 = 1/2 is taken.
    """
    h = n - f
    supporters = max(n // 2 + 1 - f, 0.5)
    share = (h - supporters) / h
    return max(0.0, NormalDist().inv_cdf(share)) if share > 0.5 else 0.0


@attack(knowledge="blind", source="zero gradient: a crash that sends 0")
def zero(honest: Array, f: int, rng: np.random.Generator) -> Array:
    """The zero vector, as of a client that learnt nothing."""
    del rng
    return np.zeros((f, honest.shape[1]))


@attack(knowledge="blind", source="ByzFL's Inf; NaN as of a diverged client")
def non_finite(honest: Array, f: int, rng: np.random.Generator, *, value: Literal["nan", "inf", "-inf"] = "nan") -> Array:
    """NaN, or an infinity, in every coordinate."""
    del rng
    return np.full((f, honest.shape[1]), float(value))


@attack(factor="z", source="Ozfatura et al. 2023, ROP (arXiv 2208.09894)")
def relocated_orthogonal(
    honest: Array,
    f: int,
    rng: np.random.Generator,
    *,
    relocation: float = 1.0,
    blend: float = 0.9,
    angle: float = 270.0,
    z: float | None = None,
    unit: Literal["spread", "one"] = "spread",
    previous: Array | None = None,
) -> Array:
    """r + z p: r = pi m + (1-pi) mu, p of length one unit, at `angle` from orthogonal to u = lambda m + (1-lambda) mu.

    m is the server's last aggregate (mu where there is none), pi `relocation`, lambda `blend`; 270 degrees is -u. z
    defaults to z_max of `a_little_is_enough`. A unit is the honest spread sqrt(mean ||x_i - mu||^2), or "one" as published.
    """
    mu = mean_of(honest)
    momentum = mu if previous is None else np.asarray(previous, np.float64)
    along = direction(blend * momentum + (1 - blend) * mu)
    across = rng.normal(size=len(mu))
    across = direction(across - (across @ along) * along)
    turn = math.radians(angle)
    p = math.cos(turn) * across + math.sin(turn) * along
    length = 1.0 if unit == "one" else float(np.linalg.norm(spread_of(honest, ddof=0)))
    strength = little_z(len(honest) + f, f) if z is None else z
    return repeated(relocation * momentum + (1 - relocation) * mu + strength * length * p, f)


def direction(vector: Any) -> Array:
    """The vector at length one; 0 stays 0."""
    vector = np.asarray(vector, np.float64)
    scale = np.abs(vector).max(initial=0.0)
    if scale == 0 or not np.isfinite(scale):
        return np.zeros_like(vector)
    return vector / scale / np.linalg.norm(vector / scale)
