"""Proven robustness coefficients kappa(n, f), each with its proof in a few lines.

Throughout, S is any set of n - f updates with mean mu and variance s = mean over S of ||x_i - mu||^2, and F(x) is the
result: ||F(x) - mu||^2 <= kappa s. h = n - f and a = n - 2f. No rule has kappa < f / (n - 2f) (`least`). The
definition is that of Allouah et al. 2023 (arXiv:2302.01772).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

Neighbours = Literal["n-f-1", "n-f-2"]
Convention = Literal["midpoint", "lower"]


def least(n: int, f: int) -> float:
    """f / (n - 2f), below which no rule can be.

    n - f updates equal to 0 and f equal to 1: a finite kappa forces F = 0 (S = the zeros, s = 0). For S' with the f
    ones and n - 2f zeros, ||F - mu||^2 / s is then f / (n - 2f).
    """
    return f / (n - 2 * f)


def trimmed_mean(n: int, f: int) -> float:
    """f / (n - 2f), exactly: no rule has less.

    F is monotone in every entry, so the worst Byzantine values are all +infinity or all -infinity; F is then a
    weighted sum of the ordered honest values, and its greatest deviation from their mean at variance 1 is the
    projection on the cone of ordered vectors (isotonic regression) of the difference of weights. Coordinates add up,
    so the value is the same for every d.
    """
    return least(n, f)


def coordinate_median(n: int, f: int, *, convention: Convention = "midpoint") -> float:
    """(n - 1) / (n + 1 - 2f) for n odd, (n - 2) / (n + 2 - 2f) for n even; lower median, n even: n / (n - 2f). Exact.

    Proof as for `trimmed_mean`.
    """
    if n % 2:
        return (n - 1) / (n + 1 - 2 * f)
    return n / (n - 2 * f) if convention == "lower" else (n - 2) / (n + 2 - 2 * f)


def geometric_median(n: int, f: int) -> float:
    """floor(n/2) / (n - f - floor(n/2)), exactly, for every minimiser.

    With z = 0 the minimiser, k = #{i in S: x_i = 0} and c_i the cosine of x_i and mu, optimality says that the sum of
    c_i over S is at most f + k; so the sum of the squared positive c_i is at most floor(n/2), and Cauchy-Schwarz
    bounds ||mu||. In one dimension, where it is the median, the bound is attained.
    """
    half = n // 2
    return half / (n - f - half)


def nearest_to_centre(centre: float, n: int, f: int) -> float:
    """(4f / (n - f)) (1 + kappa of the centre): the mean of the n - f updates (or values) nearest to a robust centre c.

    Pair the kept outsiders with the members of S left out, each nearer to c than its partner:
    ||F - mu|| <= (2/h) sum over S minus kept of ||x_i - c||, then Cauchy-Schwarz.
    """
    return 4 * f / (n - f) * (1 + centre)


def meamed(n: int, f: int) -> float:
    """`nearest_to_centre` of the median: 8f / (n + 1 - 2f) for n odd, 8f / (n + 2 - 2f) for n even."""
    return nearest_to_centre(coordinate_median(n, f), n, f)


def phocas(n: int, f: int) -> float:
    """`nearest_to_centre` of the trimmed mean: 4f / (n - 2f), exactly."""
    return nearest_to_centre(trimmed_mean(n, f), n, f)


def krum(n: int, f: int, *, neighbours: Neighbours = "n-f-1") -> float:
    """(sqrt(2h) + sqrt(f))^2 / a with n - f - 1 neighbours.

    The least score is at most the average one over S, which is at most 2hs; at least a of the chosen update's
    neighbourhood A lie in S, so ||x_k - m_A||^2 <= 2hs / a, and ||m_A - mu||^2 <= (f/a) s. With n - f - 2 neighbours
    the same with one less.
    """
    h, a = n - f, n - 2 * f
    if neighbours == "n-f-1":
        return (math.sqrt(2 * h) + math.sqrt(f)) ** 2 / a
    a -= 2
    return (math.sqrt(2 * h * (h - 2) / (h - 1) / a) + math.sqrt((h - a) / a)) ** 2 if a >= 1 else math.inf


def multi_krum(n: int, f: int, *, m: int | None = None, neighbours: Neighbours = "n-f-1") -> float:
    """`krum`'s for any m <= n - f (Jensen over the scores); for m = n - f also (f/a) ((sqrt(nh) + f + sqrt(ha)) / h)^2.

    With K the chosen and S differing in b <= f pairs, each chosen outsider scores no more than a member left out.
    """
    h, a = n - f, n - 2 * f
    one = krum(n, f, neighbours=neighbours)
    if m not in (None, h) or neighbours != "n-f-1":
        return one
    return min(one, f / a * ((math.sqrt(n * h) + f + math.sqrt(h * a)) / h) ** 2)


def bulyan(n: int, f: int) -> float:
    """(sqrt(k) + sqrt(h (1 + k) / b))^2 with b = n - 4f and k that of the median of n - 2f updates, f of them bad.

    It holds whatever rule picks the n - 2f.
    """
    chosen, kept, h = n - 2 * f, n - 4 * f, n - f
    middle = (chosen + 1) // 2 - f if chosen % 2 else chosen // 2 + 1 - f  # honest values at or above the median
    median = (h - middle) / middle
    return (math.sqrt(median) + math.sqrt(h / kept * (1 + median))) ** 2


def minimum_diameter(n: int, f: int) -> float:
    """8 f^2 / (n - f), which grows with n at a fixed f/n.

    ||F - mu|| <= (2f/h) diam(S), by an update that both have, and diam(S)^2 <= 2hs.
    """
    return 8 * f**2 / (n - f)


def minimum_variance(n: int, f: int) -> float:
    """4f / (n - 2f), exactly; for the least operator norm of the covariance the same, in that norm and so in this.

    The chosen K varies no more than S. With b of S outside K, the mean of K and S in common is within (b / (h - b))
    times the variance of both means.
    """
    return 4 * f / (n - 2 * f)


def nnm(inner: Callable[[int, int], float], n: int, f: int) -> float:
    """(8f / (n - f)) (1 + kappa of the rule after it). Allouah et al. 2023, Lemma 1 (arXiv:2302.01772).

    Pairing neighbours inside and outside of S gives (1/h) sum_S ||y_i - mu||^2 <= (8f/h) s.
    """
    return 8 * f / (n - f) * (1 + inner(n, f))


def bucketing(inner: Callable[[int, int], float], n: int, f: int, *, size: int = 2) -> float:
    """(sqrt(k h / A) + sqrt((size - 1) f / A))^2 with A = n - size f and k = kappa(n / size, f), where size divides n.

    For the worst permutation: up to f buckets are bad, and the honest ones left leave out at most (size - 1) f of S.
    Where size does not divide n nothing is proven.
    """
    if n % size:
        return math.inf
    rest = n - size * f
    return (math.sqrt(inner(n // size, f) * (n - f) / rest) + math.sqrt((size - 1) * f / rest)) ** 2


def arc(inner: Callable[[int, int], float], n: int, f: int) -> float:
    """kappa of the rule after it + 2f / (n - 2f). Allouah et al. 2025, Theorem 3.2 (arXiv:2405.14432)."""
    return inner(n, f) + 2 * f / (n - 2 * f)
