"""Shamir's secret sharing over the integers modulo the order of edwards25519 (Shamir 1979)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from fl_impl.privacy.secure_aggregation.curve import ORDER

SECRET_BYTES: Final = 31
"""Of a secret that is any bytes: it must lie below the order."""


def polynomial(constant: int, threshold: int) -> tuple[int, ...]:
    """`threshold` coefficients, the constant first, the others uniform: any `threshold` of its values give the constant.

    Fewer say nothing of it. Raises ValueError for a threshold below 1, or a constant that is not below the order.
    """
    if threshold < 1 or not 0 <= constant < ORDER:
        raise ValueError(f"expected a threshold of 1 or more and a secret below the order; got threshold {threshold}")
    return (constant, *(secrets.randbelow(ORDER) for _ in range(threshold - 1)))


def value(coefficients: Sequence[int], point: int) -> int:
    """The polynomial at a point, modulo the order."""
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * point + coefficient) % ORDER
    return total


def combine(shares: Mapping[int, int]) -> int:
    """The value at 0 of the polynomial of degree below len(shares) that takes these values at these positive points."""
    weights = _weights(tuple(shares))
    return sum(weight * share for weight, share in zip(weights, shares.values(), strict=True)) % ORDER


@lru_cache(maxsize=1024)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's coefficients at 0: the same for all secrets with the same holders."""
    weights = list[int]()
    for point in points:
        numerator, denominator = 1, 1
        for other in points:
            if other != point:
                numerator = numerator * other % ORDER
                denominator = denominator * (other - point) % ORDER
        weights.append(numerator * pow(denominator, -1, ORDER) % ORDER)
    return tuple(weights)
