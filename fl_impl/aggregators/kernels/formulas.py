"""The coordinate-wise rules, each written once: run on numpy rows they compute, run on vectors they are compiled.

A value is what one client has at some coordinates, a numpy row or an `emit.Vector`. Both know + - / and <; what they do
not share is in `Operations`. Both ways of running give the same bits.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.kernels.networks import selection_network

Value = Any
"""A numpy array (columns,) or an `emit.Vector`."""


class Operations(Protocol):
    """Arithmetic on values that is not an operator of Python."""

    @property
    def dtype(self) -> str:
        """The name of the element type, "float32" or "float64"."""
        ...

    def minimum(self, a: Value, b: Value) -> Value:
        """The lesser of a and b, entry by entry."""
        ...

    def maximum(self, a: Value, b: Value) -> Value:
        """The greater of a and b, entry by entry."""
        ...

    def choose(self, mask: Value, yes: Value, no: Value) -> Value:
        """Elementwise: yes where the mask is true."""
        ...

    def widen(self, value: Value) -> Value:
        """The values in float64."""
        ...

    def narrow(self, value: Value) -> Value:
        """The values rounded to `dtype`."""
        ...

    def arrange(self, values: Sequence[Value], classes: Sequence[Hashable | None]) -> list[Value]:
        """Sort the values as far as the classes of positions tell them apart (see `networks.selection_network`)."""
        ...


@dataclass(frozen=True)
class RankMean:
    """The mean of the sorted values number low to high - 1."""

    low: int
    high: int

    def __call__(self, do: Operations, values: Sequence[Value]) -> Value:
        """The mean of the values at these ranks, one number a column."""
        wanted = ["window" if self.low <= place < self.high else None for place in range(len(values))]
        return mean(do, ordered(do, values, wanted)[self.low : self.high])


@dataclass(frozen=True)
class NearestMean:
    """The mean of the `keep` values nearest to c, the mean of the sorted values number low to high - 1.

    They are neighbours in order: the window starts at 0 and moves past place s while value s + keep is nearer to c than
    value s. Each of its seats holds a value until the window has moved past it, then the one `keep` later.
    """

    low: int
    high: int
    keep: int

    def __call__(self, do: Operations, values: Sequence[Value]) -> Value:
        """The mean of the `keep` values nearest to the centre, one number a column."""
        moves = len(values) - self.keep
        inner = range(moves, self.keep)  # in every window; that they are, and whether in the centre, is all that matters
        classes = [("inner", self.low <= p < self.high) if p in inner else p for p in range(len(values))]
        places = ordered(do, values, classes)
        centre = mean(do, places[self.low : self.high])
        seats = places[: self.keep]
        for place in range(moves):
            moved = places[place + self.keep] - centre < centre - places[place]
            seats[place % self.keep] = do.choose(moved, places[place + self.keep], seats[place % self.keep])
        return mean(do, seats)


Formula = RankMean | NearestMean


def mean(do: Operations, values: Sequence[Value]) -> Value:
    """The mean, accumulated in float64 and rounded once.

    The ends of the window are added first: that cancels best, and negating the values negates the sum to the bit.
    """
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    ends = zip(values[:half], reversed(values), strict=False)
    sums = [do.widen(first) + do.widen(last) for first, last in ends] + [do.widen(value) for value in values[half:-half]]
    while len(sums) > 1:
        sums = [a + b for a, b in zip(sums[::2], sums[1::2], strict=False)] + sums[len(sums) & ~1 :]
    return do.narrow(sums[0] / len(values))


def ordered(do: Operations, values: Sequence[Value], classes: Sequence[Hashable | None]) -> list[Value]:
    """The values in order, except within a class.

    The last bit of a sum of float64 values depends on their order, so there every position is a class of its own, and no
    permutation of clients changes a bit. Sums of float32 values are exact in float64, but for extreme ranges.
    """
    if do.dtype == "float64":
        classes = [None if wanted is None else place for place, wanted in enumerate(classes)]
    return do.arrange(values, classes)


def reference(mixing: npt.NDArray[np.float64]) -> int:
    """The row to take differences from before mixing: the one used most, which lies among the others.

    As rows of a mixing matrix sum to 1, M x = r + M (x - r) for any r, and near r nothing is lost to a common offset.
    """
    return int(mixing.sum(axis=0).argmax())


def exchanged(do: Operations, values: Sequence[Value], classes: Sequence[Hashable | None]) -> list[Value]:
    """`Operations.arrange` by a selection network."""
    places = list(values)
    for low, high, keep_low, keep_high in selection_network(tuple(classes)):
        a, b = places[low], places[high]
        if keep_low:
            places[low] = do.minimum(a, b)
        if keep_high:
            places[high] = do.maximum(a, b)
    return places
