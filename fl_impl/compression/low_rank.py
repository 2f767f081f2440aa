"""The low-rank codec: the vector as a nearly square matrix, projected on what one power iteration finds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fl_impl.compression.codecs import Usual, Vector, codec

if TYPE_CHECKING:
    from fl_impl.compression.wire import Arrays, Layout


@codec("power_sgd")
@dataclass(frozen=True)
class PowerSGD(Usual):
    """P P^T M with P an orthonormal basis of M G, G random of `rank` columns: rank (rows + columns) floats.

    An orthogonal projection, so never longer than x; a contraction with alpha = 1 / columns in expectation, as the mean
    eigenvalue of M^T M that a random direction meets is at least their mean. Vogels, Karimireddy & Jaggi 2019
    (arXiv 1905.13727), Algorithm 1, for one client and without warm start.
    """

    name: ClassVar[str] = "power_sgd"
    rank: int = 4

    def __post_init__(self) -> None:
        """Raise ValueError for a rank that is no number from 1: it would send nothing."""
        if not isinstance(self.rank, int) or self.rank < 1:  # pyright: ignore[reportUnnecessaryIsInstance]  # read from a spec
            raise ValueError(f"expected a rank of at least 1, e.g. power_sgd(rank=4); got {self.rank!r}")

    def shape(self, d: int) -> tuple[int, int]:
        """(rows, columns) of the matrix that d entries fill row by row, zeros after."""
        columns = math.isqrt(d)
        return -(-d // columns), columns

    def layout(self, d: int) -> Layout:
        """The two factors, P of (rows, rank) and P^T M of (rank, columns)."""
        rows, columns = self.shape(d)
        rank = min(self.rank, rows, columns)
        return {"left": ("<f4", (rows, rank)), "right": ("<f4", (rank, columns))}

    def encode(self, x: Vector, rng: np.random.Generator) -> Arrays:
        """The factors P and P^T M of the matrix that x fills."""
        rows, columns = self.shape(x.size)
        peak = np.abs(x).max() or np.float32(1)  # products of entries must not overflow
        matrix = np.zeros((rows, columns), np.float32)
        matrix.reshape(-1)[: x.size] = x / peak
        start = rng.standard_normal((columns, min(self.rank, rows, columns)), np.float32)
        left = np.linalg.qr(matrix @ start)[0]
        return {"left": left, "right": (left.T @ matrix) * peak}

    def decode(self, arrays: Arrays, d: int) -> Vector:
        """The product, row by row."""
        return (arrays["left"] @ arrays["right"]).reshape(-1)[:d]

    def contraction(self, d: int) -> float:
        """alpha = 1 / columns, in expectation over the random start."""
        return 1 / self.shape(d)[1]

    def variance(self, d: int) -> None:
        """None: a projection is biased."""
        del d
