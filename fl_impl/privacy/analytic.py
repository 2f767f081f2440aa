"""The Gaussian mechanism's exact (epsilon, delta): Balle & Wang 2018 (arXiv 1805.06530)."""

from __future__ import annotations

import math
from typing import Final

from scipy.special import log_ndtr

BISECTIONS: Final = 200
"""Halvings of a bracket in logarithms: more than float64 can use."""


def gaussian_delta(mu: float, epsilon: float) -> float:
    """delta(epsilon) = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu), where mu = sensitivity / noise std.

    Exact for one Gaussian release, and for T of them with mu sqrt(T) in place of mu. Theorem 8 of Balle & Wang 2018.
    """
    if mu <= 0:
        return 0.0
    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = float(log_ndtr(-mu / 2 - epsilon / mu)) + epsilon
    return math.exp(first) * -math.expm1(min(second - first, 0.0))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon >= 0 with gaussian_delta(mu, epsilon) <= delta, from the safe side."""
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(mu, high) > delta:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > delta else (low, middle)
    return high


def gaussian_noise(epsilon: float, delta: float, *, sensitivity: float = 1.0) -> float:
    """The least noise standard deviation for (epsilon, delta), from the safe side; valid for every epsilon > 0.

    The classical sensitivity * sqrt(2 log(1.25/delta)) / epsilon is proven for epsilon < 1 only; it is larger there, and
    too small for large epsilon.
    """
    if not (epsilon > 0 and 0 < delta < 1):
        raise ValueError(f"expected epsilon > 0 and 0 < delta < 1; got epsilon={epsilon}, delta={delta}")
    low, high = 0.0, 1.0
    while gaussian_delta(1 / high, epsilon) > delta:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if middle == 0 or gaussian_delta(1 / middle, epsilon) > delta else (low, middle)
    return sensitivity * high
