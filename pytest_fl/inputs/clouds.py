"""Honest clouds: what n - f honest clients may send. Each is a function (h, d, rng) -> (h, d) of size about one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Cloud = npt.NDArray[np.float64]
Maker = Callable[[int, int, np.random.Generator], Cloud]
CLOUDS: Final[dict[str, Maker]] = {}
TIED: Final = frozenset({"two clusters", "duplicated", "integers", "one dissenter", "sparse"})
"""Clouds in which rows or entries coincide: symmetries say nothing by value on them."""


def cloud(name: str) -> Callable[[Maker], Maker]:
    """Register a cloud under the name that a failure prints."""

    def register(maker: Maker) -> Maker:
        CLOUDS[name] = maker
        return maker

    return register


@cloud("gaussian")
def gaussian(h: int, d: int, rng: np.random.Generator) -> Cloud:
    """Independent standard normal entries: no structure at all."""
    return rng.standard_normal((h, d))


@cloud("two clusters")
def two_clusters(h: int, d: int, rng: np.random.Generator) -> Cloud:
    """Half of the clients at one point, the rest at another: the worst case of many rules."""
    return np.where(np.arange(h)[:, None] < h // 2, rng.standard_normal(d), rng.standard_normal(d))


@cloud("one dissenter")
def one_dissenter(h: int, d: int, rng: np.random.Generator) -> Cloud:
    """All but one at one point."""
    return np.where(np.arange(h)[:, None] == h - 1, rng.standard_normal(d), rng.standard_normal(d))


@cloud("collinear")
def collinear(h: int, d: int, rng: np.random.Generator) -> Cloud:
    """Points on one line: medians and Weiszfeld steps tie there."""
    return rng.standard_normal((h, 1)) * rng.standard_normal(d) + rng.standard_normal(d)


@cloud("duplicated")
def duplicated(h: int, d: int, rng: np.random.Generator) -> Cloud:
    """Each point twice: nearest neighbours at distance zero."""
    return np.repeat(rng.standard_normal(((h + 1) // 2, d)), 2, axis=0)[:h]


@cloud("heavy-tailed")
def heavy_tailed(h: int, d: int, rng: np.random.Generator) -> Cloud:
    """Cauchy entries: honest clients that look like outliers."""
    return np.clip(rng.standard_cauchy((h, d)), -1e3, 1e3)


@cloud("tight and far")
def tight_and_far(h: int, d: int, rng: np.random.Generator) -> Cloud:
    """A spread of 1e-3 around a point at 30 from the origin in each coordinate."""
    return 30 + rng.standard_normal(d) + 1e-3 * rng.standard_normal((h, d))


@cloud("integers")
def integers(h: int, d: int, rng: np.random.Generator) -> Cloud:
    """Small integers, so that many entries and distances tie."""
    return rng.integers(-2, 3, (h, d)).astype(np.float64)


@cloud("sparse")
def sparse(h: int, d: int, rng: np.random.Generator) -> Cloud:
    """Nine entries of ten are zero, and one client is all zero."""
    rows = rng.standard_normal((h, d)) * (rng.random((h, d)) < 0.3)
    rows[0] = 0
    return rows


@cloud("uneven coordinates")
def uneven_coordinates(h: int, d: int, rng: np.random.Generator) -> Cloud:
    """Coordinates of very different size, as the layers of a network have."""
    return rng.standard_normal((h, d)) * 10.0 ** rng.integers(-4, 3, d)
