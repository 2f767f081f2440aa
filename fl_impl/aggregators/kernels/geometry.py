"""What n updates look like to a rule that sees only their distances: everything here is on the n x n matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.vectors import FloatArray

FARTHEST: Final = 1e300
"""Squared distances beyond this are given as this: sums over clients stay finite, and 0 times it is 0."""
CANCELLED: Final = 1e-4
"""A difference of sums below this share of its terms is recomputed without the cancellation."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """The pairwise squared distances of n updates: all that a selecting, weighting or mixing rule needs to know.

    distances[i, j] = ||x_i - x_j||^2, (n, n) float64, symmetric, finite, exactly 0 for equal rows. It is computed from
    differences, so it carries the relative error of its own entries: a far row spoils no distance but its own.
    """

    distances: FloatArray

    def __len__(self) -> int:
        """The number of clients."""
        return len(self.distances)

    def subset(self, rows: npt.ArrayLike) -> Geometry:
        """The geometry of some of the rows."""
        chosen = np.asarray(rows)
        return Geometry(self.distances[np.ix_(chosen, chosen)])

    def to_mean(self, weights: npt.ArrayLike) -> FloatArray:
        """(n,) squared distances ||x_i - sum_j w_j x_j||^2, for weights that sum to 1.

        = (D w)_i - w'Dw / 2. Only rows of non-zero weight matter beside x_i itself.
        """
        w = np.asarray(weights, np.float64)
        to_rows = self.distances @ w
        return np.maximum(to_rows - 0.5 * (w @ to_rows), 0.0)

    def centred_gram(self, weights: npt.ArrayLike | None = None) -> FloatArray:
        """(n, n) inner products <x_i - c, x_j - c> around c = sum_k w_k x_k, the mean where no weights are given.

        Weights sum to 1. Where they vanish on far rows, the products of near rows keep their precision.
        """
        n = len(self)
        w = np.full(n, 1 / n) if weights is None else np.asarray(weights, np.float64)
        to_rows = self.distances @ w
        return 0.5 * (to_rows[:, None] + to_rows[None, :] - self.distances - w @ to_rows)

    def mixed(self, mixing: npt.ArrayLike) -> Geometry:
        """The geometry of the rows of M x, for an (n', n) matrix M with rows that sum to 1.

        ||m_a x - m_b x||^2 = m_a D m_b' - (m_a D m_a' + m_b D m_b') / 2 = -c D c' / 2 with c = m_a - m_b. The first form is
        a matrix product; the second, free of cancellation between shared rows, redoes the pairs that came out small.
        """
        m = np.asarray(mixing, np.float64)
        products = (m @ self.distances) @ m.T
        own = 0.5 * np.diag(products)
        distances = products - own[:, None] - own[None, :]
        a, b = np.nonzero(np.triu(distances < CANCELLED * products, 1))
        for start in range(0, len(a), 4096):
            pairs = a[start : start + 4096], b[start : start + 4096]
            c = m[pairs[0]] - m[pairs[1]]
            distances[pairs] = -0.5 * np.einsum("pi,pi->p", c @ self.distances, c)
        return Geometry(symmetric(distances))


def symmetric(distances: FloatArray) -> FloatArray:
    """The upper triangle mirrored, the diagonal 0, within [0, FARTHEST]."""
    upper = np.triu(np.clip(distances, 0.0, FARTHEST), 1)
    return upper + upper.T
