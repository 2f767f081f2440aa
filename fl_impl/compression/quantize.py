"""Quantizing codecs: few bits a coordinate, rounded at random without bias, or one bit and a common scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from fl_impl.compression.codecs import Usual, Vector, codec
from fl_impl.compression.packing import pack_nibbles, pack_trits, unpack_nibbles, unpack_trits

if TYPE_CHECKING:
    from collections.abc import Callable

    from fl_impl.compression.wire import Arrays, Layout

Codes = npt.NDArray[np.int8]

LEAST_SCALE: Final = np.float32(1e-37)
"""Buckets of smaller steps, which float32 cannot divide by, become zero."""


@codec("int8")
def int8(bucket: int = 512) -> Stochastic:
    """One byte a coordinate: 255 levels."""
    return Stochastic("int8", 127, bucket)


@codec("int4")
def int4(bucket: int = 512) -> Stochastic:
    """Half a byte a coordinate: 15 levels."""
    return Stochastic("int4", 7, bucket)


@codec("ternary")
def ternary(bucket: int = 512) -> Stochastic:
    """A fifth of a byte a coordinate: -1, 0 or 1 times the greatest magnitude of the bucket."""
    return Stochastic("ternary", 1, bucket)


@dataclass(frozen=True)
class Stochastic(Usual):
    """Integers from -s to s times a step a bucket, the greatest magnitude over s; rounded up with the odds of being near.

    Unbiased, with omega = (sqrt(1 + (b - 1) / s^2) - 1) / 2 for buckets of b: attained where one entry is the greatest
    and all others are the same small fraction of a step. After QSGD (Alistarh et al. 2017, arXiv 1610.02132) and
    TernGrad (Wen et al. 2017, arXiv 1705.07878), by the greatest magnitude.
    """

    name: str
    levels: int
    """s, the greatest code: values are rounded to multiples of the peak of their bucket over s."""
    bucket: int

    def __post_init__(self) -> None:
        """Raise ValueError for a bucket of no coordinates."""
        if self.bucket < 1:
            raise ValueError(f"a bucket must hold at least 1 coordinate, e.g. 512; got {self.bucket}")

    @property
    def sparse(self) -> bool:
        """With one level: of Gaussian entries, 0 are about three in four of a bucket of 512."""
        return self.levels == 1

    def layout(self, d: int) -> Layout:
        """A float32 step a bucket, and the codes."""
        dtype, per_byte = ("|i1", 1) if self.levels > 7 else ("|u1", 2 if self.levels > 1 else 5)
        return {"steps": ("<f4", (-(-d // self.bucket),)), "codes": (dtype, (-(-d // per_byte),))}

    def encode(self, x: Vector, rng: np.random.Generator) -> Arrays:
        """The step of each bucket, and the codes, packed."""
        rows = _in_buckets(x, self.bucket)
        steps = np.abs(rows).max(axis=1) / np.float32(self.levels)
        usable = steps >= LEAST_SCALE
        scaled = rows * np.divide(1, steps, out=np.zeros_like(steps), where=usable)[:, None]
        scaled += rng.random(scaled.shape, np.float32)
        np.floor(scaled, out=scaled)
        np.clip(scaled, -self.levels, self.levels, out=scaled)  # the rounding of x / step may pass the last level
        codes = scaled.astype(np.int8).reshape(-1)[: x.size]
        return {"steps": np.where(usable, steps, np.float32(0)), "codes": PACK[self.levels](codes)}

    def decode(self, arrays: Arrays, d: int) -> Vector:
        """Codes times steps. Raises ValueError for a code beyond the levels or a negative step."""
        codes = UNPACK[self.levels](arrays["codes"], d)
        if codes.size and max(int(codes.max()), -int(codes.min())) > self.levels:
            raise ValueError(f"expected codes from {-self.levels} to {self.levels}; got some beyond")
        if not (arrays["steps"] >= 0).all():
            raise ValueError("expected steps of 0 or more; got negative ones, or NaN")
        rows = _in_buckets(codes.astype(np.float32), self.bucket)
        return (rows * arrays["steps"][:, None]).reshape(-1)[:d]

    def contraction(self, d: int) -> float:
        """1 - omega, where that is positive."""
        return max(0.0, 1 - self.variance(d))

    def variance(self, d: int) -> float:
        """omega = (sqrt(1 + (bucket - 1) / s^2) - 1) / 2, what stochastic rounding adds at most."""
        return (math.sqrt(1 + (min(self.bucket, d) - 1) / self.levels**2) - 1) / 2


@codec("sign")
@dataclass(frozen=True)
class ScaledSign(Usual):
    """mean|x| sign(x): a bit a coordinate, a contraction with alpha = ||x||_1^2 / (d ||x||^2) >= 1/d.

    Karimireddy, Rebjock, Stich & Jaggi 2019 (arXiv 1901.09847), Lemma 8.
    """

    name: ClassVar[str] = "sign"

    def layout(self, d: int) -> Layout:
        """A float32 and d bits."""
        return {"scale": ("<f4", (1,)), "bits": ("|u1", (-(-d // 8),))}

    def encode(self, x: Vector, rng: np.random.Generator) -> Arrays:
        """The mean magnitude, and a bit for each entry that is not negative."""
        del rng
        return {"scale": np.abs(x).mean(dtype=np.float64, keepdims=True).astype("<f4"), "bits": np.packbits(x >= 0)}

    def decode(self, arrays: Arrays, d: int) -> Vector:
        """Plus or minus the scale. Raises ValueError for a negative scale."""
        scale = arrays["scale"][0]
        if not scale >= 0:
            raise ValueError(f"expected a scale of 0 or more; got {scale}")
        return (np.unpackbits(arrays["bits"], count=d) * np.float32(2) - 1) * scale

    def contraction(self, d: int) -> float:
        """The worst, 1/d, attained by a vector with one entry."""
        return 1 / d

    def variance(self, d: int) -> None:
        """None: signs are biased."""
        del d


PACK: Final[dict[int, Callable[[Codes], npt.NDArray[Any]]]] = {127: np.asarray, 7: pack_nibbles, 1: pack_trits}
UNPACK: Final[dict[int, Callable[[npt.NDArray[Any], int], Codes]]] = {
    127: lambda codes, d: codes[:d], 7: unpack_nibbles, 1: unpack_trits,
}  # fmt: skip


def _in_buckets(x: Vector, bucket: int) -> Vector:
    """(d,) as (buckets, bucket), padded with zeros at the end."""
    missing = -x.size % bucket
    whole = np.concatenate([x, np.zeros(missing, x.dtype)]) if missing else x
    return whole.reshape(-1, bucket)
