"""Shamir's secret sharing over the integers modulo the Mersenne prime 2^521 - 1 (Shamir 1979)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

PRIME: Final = 2**521 - 1
SHARE_BYTES: Final = 66
SECRET_BYTES: Final = 32


def split(secret: bytes, points: Sequence[int], threshold: int) -> dict[int, bytes]:
    """A share of 66 bytes for each point: any `threshold` of them give the 32-byte secret, fewer say nothing of it.

    Points are distinct positive integers below the prime. Raises ValueError for other points, or a threshold that is
    not between 1 and their number.
    """
    if len(set(points)) != len(points) or not all(0 < point < PRIME for point in points):
        raise ValueError(f"points must be distinct and positive; got {list(points)}")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"threshold must lie between 1 and the {len(points)} points; got {threshold}")
    polynomial = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    constant = int.from_bytes(secret, "little")
    return {point: _value(polynomial, constant, point).to_bytes(SHARE_BYTES, "little") for point in points}


def combine(shares: Mapping[int, bytes]) -> bytes | None:
    """The secret that exactly `threshold` shares give, by interpolation at 0; None where they are no shares of one."""
    weights = _weights(tuple(shares))
    total = sum(weight * int.from_bytes(share, "little") for weight, share in zip(weights, shares.values(), strict=True))
    secret = total % PRIME
    return secret.to_bytes(SECRET_BYTES, "little") if secret < 2 ** (8 * SECRET_BYTES) else None


def _value(polynomial: list[int], constant: int, point: int) -> int:
    value = 0
    for coefficient in polynomial:
        value = (value + coefficient) * point % PRIME
    return (value + constant) % PRIME


@lru_cache(maxsize=1024)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's coefficients at 0: the same for all secrets with the same holders."""
    weights = list[int]()
    for point in points:
        numerator, denominator = 1, 1
        for other in points:
            if other != point:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - point) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)
