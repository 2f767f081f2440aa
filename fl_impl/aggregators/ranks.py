"""Rules that sorting decides, coordinate by coordinate, as data: so that mixing before them needs no second matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fl_impl.aggregators.kernels import nearest_mean, rank_mean

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix

Ranks = tuple[int, int] | tuple[int, int, int]
"""(low, high): the mean of the sorted values number low to high - 1; (low, high, keep): of the `keep` nearest to it."""


def mean_of_ranks(x: Matrix, ranks: Ranks, mixing: npt.ArrayLike | None = None) -> Any:
    """(d,): those means in each coordinate of x, or of mixing @ x."""
    if len(ranks) == 2:
        return rank_mean(x, *ranks, mixing=mixing)
    return nearest_mean(x, *ranks, mixing=mixing)
