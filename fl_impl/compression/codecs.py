"""Codecs: a vector of floats as few bytes, with what is claimed of the error.

Each is a small frozen dataclass under `@codec(name)`, in `sparse`, `quantize` and `low_rank`: `layout` says which arrays a
d-vector becomes (so how many bytes exactly), `encode` and `decode` go there and back, and the claims are numbers:
`contraction(d)` is an alpha with E ||x - C(x)||^2 <= (1 - alpha) ||x||^2, 0 where there is none;
`variance(d)` is an omega with E C(x) = x and E ||x - C(x)||^2 <= omega ||x||^2, None where C is biased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from fl_impl.common.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from fl_impl.compression.wire import Arrays, Layout

Vector = npt.NDArray[np.float32]


class Codec(Protocol):
    """What compression needs of a codec; x is a finite (d,) float32 vector, and so is what comes back.

    Traits and methods from `linear` on have the usual answers in `Usual`, from which a codec may derive.
    """

    @property
    def name(self) -> str:
        """The name that it is registered under, which its messages carry."""
        ...

    def layout(self, d: int) -> Layout:
        """The arrays that any d-vector becomes."""
        ...

    def encode(self, x: Vector, rng: np.random.Generator) -> Arrays:
        """The arrays that stand for x."""
        ...

    def decode(self, arrays: Arrays, d: int) -> Vector:
        """The vector that arrays of the layout stand for; ValueError where their values can be no codec's."""
        ...

    def contraction(self, d: int) -> float:
        """alpha, 0 where none is claimed."""
        ...

    def variance(self, d: int) -> float | None:
        """omega, None where the codec is biased."""
        ...

    @property
    def linear(self) -> bool:
        """Whether, in one round, C(x) + C(y) = C(x + y) but for rounding: then messages may be summed unseen."""
        ...

    @property
    def sparse(self) -> bool:
        """Whether a message leaves most entries 0, at places of its own, so that a median over such finds little."""
        ...

    def for_round(self, seed: int) -> Codec:
        """The codec of a round, with what all clients draw alike from the round's seed."""
        ...

    def kept(self, d: int) -> npt.NDArray[np.int64] | None:
        """The coordinates that all messages of a round keep, where they keep only some and the same ones."""
        ...

    def scale(self, d: int) -> float:
        """What kept values are multiplied by."""
        ...


class Usual:
    """A codec that draws nothing with the others, and whose messages are dense and do not add up."""

    @property
    def linear(self) -> bool:
        """They do not add up."""
        return False

    @property
    def sparse(self) -> bool:
        """They are dense."""
        return False

    def for_round(self, seed: int) -> Self:
        """The same in every round."""
        del seed
        return self

    def kept(self, d: int) -> npt.NDArray[np.int64] | None:
        """No coordinates in common."""
        del d
        return None

    def scale(self, d: int) -> float:
        """As they are."""
        del d
        return 1.0


CODECS: Final[Registry[Callable[..., Codec]]] = Registry("a codec", package="fl_impl.compression", group="pytest_fl.codecs")
"""The codecs by name."""

T = TypeVar("T", bound=Any)


def codec(name: str) -> Callable[[T], T]:
    """Enter a codec, or a function that makes one, under a name. Raises ValueError where it is taken."""

    def enter(make: T) -> T:
        CODECS.enter(name, make)
        return make

    return enter


@codec("none")
@dataclass(frozen=True)
class Plain(Usual):
    """The float32 values as they are: 4 d bytes."""

    name: ClassVar[str] = "none"

    @property
    def linear(self) -> bool:
        """Values add up."""
        return True

    def layout(self, d: int) -> Layout:
        """The one array of a message: d float32 values."""
        return {"values": ("<f4", (d,))}

    def encode(self, x: Vector, rng: np.random.Generator) -> Arrays:
        """The update as it is."""
        del rng
        return {"values": x}

    def decode(self, arrays: Arrays, d: int) -> Vector:
        """A copy of the values that came."""
        del d
        return arrays["values"].copy()

    def contraction(self, d: int) -> float:
        """1: a message without error keeps all of x."""
        del d
        return 1.0

    def variance(self, d: int) -> float:
        """0: a message without error adds no variance."""
        del d
        return 0.0
