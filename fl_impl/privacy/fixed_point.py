"""Reals as integer multiples of a public step: their sums are exact, with discrete noise or in a ring of 32 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.privacy.clipping import finite_vector

if TYPE_CHECKING:
    from fl_impl.privacy.noise import Randomness

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]
Reals = npt.NDArray[np.float64]

RING_BITS: Final = 32
HALF_RING: Final = 2 ** (RING_BITS - 1)


@dataclass(frozen=True)
class FixedPoint:
    """The grid of multiples of `step`, with entries up to `largest` steps."""

    step: float
    largest: int

    def encode(self, values: Any) -> Integers:
        """The (d,) integers nearest to values / step, rounded toward zero: no norm grows by it.

        Raises ValueError where an entry is NaN, infinite, or beyond `largest` steps: it would wrap around unseen.
        """
        return self._within(np.trunc(finite_vector(values) / self.step))

    def rounded(self, values: Any, randomness: Randomness) -> Integers:
        """(d,) integers next to values / step, up or down at random so that their mean is that: no sum is biased by it.

        Each entry moves by less than one step. Raises ValueError as `encode`.
        """
        scaled = finite_vector(values) / self.step
        scaled += np.frombuffer(randomness.read(4 * scaled.size), np.uint32) * 2.0**-32
        return self._within(np.floor(scaled, out=scaled))

    def _within(self, scaled: Reals) -> Integers:
        peak = float(np.abs(scaled).max())
        if peak > self.largest:
            raise ValueError(
                f"an entry of {peak * self.step:.4g} is beyond the bound of {self.largest * self.step:.4g} of the "
                "fixed-point encoding. Clip the update first, or agree on a greater bound"
            )
        return scaled.astype(np.int64)

    def decode(self, integers: Integers) -> Reals:
        """The reals that (d,) integers stand for."""
        return integers.astype(np.float64) * self.step


def ring_encoding(bound: float, terms: int, *, noise_std: float = 0.0) -> FixedPoint:
    """The finest grid on which a sum of `terms` entries in [-bound, bound], and noise, does not overflow 32 bits.

    terms * bound + 10 noise_std < 2^31 steps, the noise being that of the whole sum. Raises ValueError for a bound or
    number of terms that is not positive, or fewer than 1024 steps of precision.
    """
    if not (bound > 0 and terms >= 1 and noise_std >= 0):
        raise ValueError(f"expected bound > 0, terms >= 1, noise_std >= 0; got {bound}, {terms}, {noise_std}")
    step = (terms * bound + 10 * noise_std) / (HALF_RING - terms)
    largest = int(bound / step) + 1
    if largest < 1024:
        raise ValueError(
            f"{terms} terms of up to {bound:g} with noise {noise_std:g} leave {largest} steps a term in a ring of 32 "
            "bits, and 1024 are needed. Sum in smaller groups, or with less noise"
        )
    return FixedPoint(step, largest)


def to_ring(integers: Integers) -> Words:
    """Integers modulo 2^32."""
    return integers.astype(np.uint64).astype(np.uint32)


def from_ring(words: Words) -> Integers:
    """The integers in [-2^31, 2^31) that (d,) words modulo 2^32 stand for."""
    return words.view(np.int32).astype(np.int64)
