"""The adapters of n clients as arrays: for each module the factors of s_i B_i A_i, padded to a common rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


class Shape(NamedTuple):
    """A module that is adapted: its weight is (m, k)."""

    name: str
    m: int
    k: int


class Module(NamedTuple):
    """One module of n adapters: client i adds up[i].T @ down[i] to the weight."""

    up: Array
    """(n, r, m): the transposes of s_i B_i, where s_i is the scale of client i."""
    down: Array
    """(n, r, k): the A_i."""


@dataclass(frozen=True, eq=False)
class Factors:
    """n adapters. The scale s = alpha / r is inside B, and a lower rank is padded with zeros, so products are just that."""

    modules: tuple[Module, ...]

    def __len__(self) -> int:
        """The number of clients."""
        return len(self.modules[0].up)

    @property
    def rank(self) -> int:
        """Of the factors, padding included."""
        return self.modules[0].up.shape[1]

    def at(self, rows: slice | npt.ArrayLike) -> Factors:
        """The adapters of some of the clients, by number."""
        chosen = rows if isinstance(rows, slice) else np.asarray(rows)
        return Factors(tuple(Module(up[chosen], down[chosen]) for up, down in self.modules))

    def beside(self, other: Factors) -> Factors:
        """These clients, then the others, at the greater of the two ranks."""
        rank = max(self.rank, other.rank)
        pairs = zip(self.padded(rank).modules, other.padded(rank).modules, strict=True)
        return Factors(tuple(Module(*map(np.concatenate, zip(one, two, strict=True))) for one, two in pairs))

    def minus(self, other: Factors) -> Factors:
        """The differences of the products, client by client: [B_i, -C_i] [A_i; D_i], of the sum of the two ranks."""
        pairs = zip(self.modules, other.modules, strict=True)
        return Factors(
            tuple(
                Module(np.concatenate([one.up, -two.up], axis=1), np.concatenate([one.down, two.down], axis=1))
                for one, two in pairs
            )
        )

    def padded(self, rank: int) -> Factors:
        """The same products with factors of that rank, which is no lower."""
        more = rank - self.rank
        if not more:
            return self
        widths = ((0, 0), (0, more), (0, 0))
        return Factors(tuple(Module(np.pad(up, widths), np.pad(down, widths)) for up, down in self.modules))

    def contiguous(self) -> Factors:
        """The same in C order, as it comes out of a file: products of other orders differ in their last bits."""
        return Factors(tuple(Module(np.ascontiguousarray(up), np.ascontiguousarray(down)) for up, down in self.modules))

    def products(self) -> list[Array]:
        """The (n, m, k) products of each module: for small ones only."""
        return [np.einsum("nrm,nrk->nmk", up, down) for up, down in self.modules]

    def flat(self, scale: float) -> npt.NDArray[np.float32]:
        """(n, d): what each client sends: B / scale as (m, r), then A as (r, k), module after module."""
        n = len(self)
        parts = [(np.swapaxes(up, 1, 2).reshape(n, -1) / scale, down.reshape(n, -1)) for up, down in self.modules]
        return np.concatenate([part for pair in parts for part in pair], axis=1).astype(np.float32)


def length(shapes: tuple[Shape, ...], rank: int) -> int:
    """The length d of a client's row in `Factors.flat`."""
    return sum(rank * (shape.m + shape.k) for shape in shapes)


def unflat(rows: npt.ArrayLike, shapes: tuple[Shape, ...], rank: int, scale: float) -> Factors:
    """The factors of (n, d) rows as `Factors.flat` makes them, in float64."""
    x, modules, at = np.asarray(rows, np.float64), list[Module](), 0
    n = len(x)
    for shape in shapes:
        middle, end = at + shape.m * rank, at + (shape.m + shape.k) * rank
        up = np.swapaxes(x[:, at:middle].reshape(n, shape.m, rank), 1, 2) * scale
        modules.append(Module(np.ascontiguousarray(up), x[:, middle:end].reshape(n, rank, shape.k)))
        at = end
    return Factors(tuple(modules))


def zeros(shapes: tuple[Shape, ...], rank: int, n: int = 1) -> Factors:
    """n adapters that add nothing."""
    return Factors(tuple(Module(np.zeros((n, rank, s.m)), np.zeros((n, rank, s.k))) for s in shapes))
