"""Sparse codecs: the largest entries, or entries drawn by a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from fl_impl.compression.codecs import Usual, Vector, codec
from fl_impl.compression.selection import indices_from_blocks, indices_to_blocks, largest

if TYPE_CHECKING:
    from fl_impl.compression.wire import Arrays, Layout


@codec("top_k")
@dataclass(frozen=True)
class TopK(Usual):
    """The k = ceil(fraction d) entries of greatest magnitude, of equals the first: a contraction with alpha = k/d.

    6 bytes an entry: indices are 16 bits within blocks of 65536, and a count a block. Stich, Cordonnier & Jaggi 2018
    (arXiv 1809.07599), Definition 2.1.
    """

    name: ClassVar[str] = "top_k"
    fraction: float = 0.01

    @property
    def sparse(self) -> bool:
        """The largest entries are elsewhere in each update."""
        return True

    def entries(self, d: int) -> int:
        """The number k of entries that are sent of d."""
        return entries(self.fraction, d)

    def layout(self, d: int) -> Layout:
        """k values, k offsets, and a count for each block of 65536 coordinates."""
        k = self.entries(d)
        return {"counts": ("<u4", (-(-d // 2**16),)), "offsets": ("<u2", (k,)), "values": ("<f4", (k,))}

    def encode(self, x: Vector, rng: np.random.Generator) -> Arrays:
        """The chosen values and where they are, in order."""
        del rng
        chosen = largest(x, self.entries(x.size))
        counts, offsets = indices_to_blocks(chosen, x.size)
        return {"counts": counts, "offsets": offsets, "values": x[chosen]}

    def decode(self, arrays: Arrays, d: int) -> Vector:
        """Zero but for the values. Raises ValueError for an index beyond d, out of order, or given twice."""
        x = np.zeros(d, np.float32)
        x[indices_from_blocks(arrays["counts"], arrays["offsets"], d)] = arrays["values"]
        return x

    def contraction(self, d: int) -> float:
        """k / d, attained where all entries are equal."""
        return self.entries(d) / d

    def variance(self, d: int) -> None:
        """None: leaving entries out is biased."""
        del d


@codec("rand_k")
@dataclass(frozen=True)
class RandK(Usual):
    """k = ceil(fraction d) entries drawn by a seed that travels with them: 8 bytes and 4 an entry.

    Times d/k and unbiased with omega = d/k - 1; with scaled=False as they are, and a contraction with alpha = k/d.
    With `seed` all clients of a round keep the same coordinates, so that updates can be summed, sorted and compared
    coordinate by coordinate: RoSDHB, arXiv 2508.17129. Konecny & Richtarik 2018 (arXiv 1611.07555).
    """

    name: ClassVar[str] = "rand_k"
    fraction: float = 0.01
    scaled: bool = True
    seed: int | None = None

    @property
    def linear(self) -> bool:
        """With the round's mask, values add up."""
        return True

    def for_round(self, seed: int) -> RandK:
        """The same, with the mask that all clients share in a round."""
        return replace(self, seed=seed)

    def entries(self, d: int) -> int:
        """The number k of entries that are sent of d."""
        return entries(self.fraction, d)

    def kept(self, d: int) -> npt.NDArray[np.int64] | None:
        """Those of the round's seed; None outside a round, where each message draws its own."""
        return None if self.seed is None else self.support(self.seed, d)

    def support(self, seed: int, d: int) -> npt.NDArray[np.int64]:
        """The coordinates that a seed keeps, in order."""
        return np.sort(np.random.default_rng(seed).choice(d, self.entries(d), replace=False, shuffle=False))

    def layout(self, d: int) -> Layout:
        """A seed and k values."""
        return {"seed": ("<u8", (1,)), "values": ("<f4", (self.entries(d),))}

    def encode(self, x: Vector, rng: np.random.Generator) -> Arrays:
        """The seed, the round's or a new one, and the values that it keeps."""
        seed = int(rng.integers(2**63)) if self.seed is None else self.seed
        with np.errstate(over="ignore"):
            values = x[self.support(seed, x.size)] * np.float32(self.scale(x.size))
        if not np.isfinite(values).all():
            raise ValueError("entries times d / k are beyond the range of float32; use rand_k(scaled=False)")
        return {"seed": np.array([seed], "<u8"), "values": values}

    def decode(self, arrays: Arrays, d: int) -> Vector:
        """Zero but for the values. Raises ValueError for another seed than the round's."""
        seed = int(arrays["seed"][0])
        if self.seed not in (None, seed):
            raise ValueError(f"expected the coordinates of this round's seed, {self.seed}; got those of {seed}")
        x = np.zeros(d, np.float32)
        x[self.support(seed, d)] = arrays["values"]
        return x

    def contraction(self, d: int) -> float:
        """k / d where not scaled."""
        return 0.0 if self.scaled else self.entries(d) / d

    def variance(self, d: int) -> float | None:
        """d / k - 1 where scaled, for every x."""
        return d / self.entries(d) - 1 if self.scaled else None

    def scale(self, d: int) -> float:
        """What kept values are multiplied by."""
        return d / self.entries(d) if self.scaled else 1.0


def entries(fraction: float, d: int) -> int:
    """ceil(fraction d), at least 1. Raises ValueError for a fraction outside (0, 1]."""
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of entries to keep must lie in (0, 1], e.g. 0.01; got {fraction}")
    return max(1, math.ceil(round(fraction * d, 9)))
