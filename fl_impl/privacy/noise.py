"""Noise from the operating system's randomness, or, where a test asks, from a seed; the draw says which."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

Shape = tuple[int, ...]
Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LEAST_SIGMA: Final = 1024.0
"""Below this many grid steps `discrete_gaussian`'s acceptance would not be accurate to 1e-11."""


@dataclass(frozen=True)
class Randomness:
    """A supply of uniform bytes and the name of where they come from, which every release repeats."""

    read: Callable[[int], bytes]
    source: str


OPERATING_SYSTEM: Final = Randomness(os.urandom, "operating system")
"""The only randomness with which a privacy guarantee holds: whoever knows a seed can subtract the noise."""


def seeded(seed: int) -> Randomness:
    """Repeatable bytes for tests: no privacy. Two objects of one seed give the same bytes in the same order."""
    return Randomness(np.random.default_rng(seed).bytes, f"seed {seed}")


def uniform(randomness: Randomness, shape: Shape) -> Reals:
    """Uniform on {1, ..., 2^53} / 2^53: never 0, so that its logarithm is finite."""
    words = np.frombuffer(randomness.read(8 * math.prod(shape)), np.uint64) >> np.uint64(11)
    return ((words + np.uint64(1)).astype(np.float64) * 2.0**-53).reshape(shape)


def normal(randomness: Randomness, shape: Shape) -> Reals:
    """Independent N(0, 1).

    Each is the scaled sum of two Box-Muller draws: it takes some 2^100 values, so that no gap between attainable
    floats tells apart two sums that it may have been added to (Mironov 2012; Holohan & Braghin 2021, arXiv 2107.10138).
    """
    return (_box_muller(randomness, shape) + _box_muller(randomness, shape)) * math.sqrt(0.5)


def discrete_gaussian(randomness: Randomness, shape: Shape, sigma: float) -> Integers:
    """Independent integers k with P(k) proportional to exp(-k^2 / (2 sigma^2)), sigma >= 1024.

    The discrete Gaussian of Canonne, Kamath & Steinke 2020 (arXiv 2004.00010), by rejection from rounded normals: the
    ratio of the two probabilities is 1 - k^2 / (24 sigma^4) of its greatest, up to 1e-11.
    Raises ValueError for sigma below 1024 or above 2^48.
    """
    if not LEAST_SIGMA <= sigma <= 2.0**48:
        raise ValueError(f"sigma must lie between 1024 and 2^48 grid steps; got {sigma:g}. Change the grid")
    drawn = np.rint(sigma * normal(randomness, shape))
    flat = drawn.reshape(-1)
    pending = np.arange(flat.size)
    while (pending := pending[uniform(randomness, pending.shape) <= (flat[pending] / sigma**2) ** 2 / 24]).size:
        flat[pending] = np.rint(sigma * normal(randomness, pending.shape))
    return drawn.astype(np.int64)


def _box_muller(randomness: Randomness, shape: Shape) -> Reals:
    pairs = (math.prod(shape) + 1) // 2
    radius, angle = uniform(randomness, (2, pairs))
    radius, angle = np.sqrt(-2 * np.log(radius)), 2 * math.pi * angle
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return both[: math.prod(shape)].reshape(shape)
