"""How far a result is from the mean of honest rows, in units of what kappa allows, over every set that may be honest."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pytest_fl.subjects.round import Round

Floats = npt.NDArray[np.float64]
ITERATION = 1e-8
MANY_SUBSETS = 1000
"""Beyond so many sets of n - f rows only the honest one and its neighbours are looked at."""


class Deviation(NamedTuple):
    """||F(x) - mean_S|| against the spread of S, for the set S where it is worst."""

    distance: float
    spread: float
    """sqrt of (1/h) sum_S ||x_i - mean_S||^2."""
    rounding: float
    """What floating point may do: 4 n u sqrt(d) max_S |x|, and 1e-8 of max_S |x| for rules that iterate."""

    @property
    def coefficient(self) -> float:
        """The smallest kappa that explains the distance beyond rounding."""
        excess = self.distance - self.rounding
        return 0.0 if excess <= 0 else math.inf if self.spread == 0 else (excess / self.spread) ** 2

    def limit(self, kappa: float) -> float:
        """What kappa allows."""
        return math.sqrt(kappa) * self.spread * (1 + 1e-6) + self.rounding


def rounding(n: int, d: int, dtype: np.dtype, size: float) -> float:
    """4 n u sqrt(d) size, the forward error of a mean of at most n terms of that size, with room; u of the dtype.

    Beside it 1e-8 of the size, for rules that iterate to a tolerance: less than one rounding to float32.
    """
    unit = float(np.finfo(dtype).eps) / 2
    return (4 * n * unit * math.sqrt(d) + ITERATION) * size


def deviation(result: Floats, round_: Round, kappa: float, *, every_set: bool = True) -> Deviation:
    """The deviation from the mean of the set S of n - f rows that exceeds sqrt(kappa) times its spread the most.

    kappa-robustness speaks of every S, not only of the rows that a test calls honest: all of them are looked at where they
    are at most 1000, else the honest rows and each set one exchange away from them. `every_set=False`: the honest rows only.
    """
    n, d = round_.updates.shape
    x = round_.updates.astype(np.float64)
    honest = np.delete(np.arange(n), round_.byzantine)
    scale = _power_of_two(float(np.abs(x[honest]).max(initial=0.0)))
    with np.errstate(over="ignore", invalid="ignore"):
        x, result = x / scale, result / scale
        sets = _sets(n, round_.f, tuple(honest.tolist()), every_set)
        distance, spread, size = _measure(x - result, np.abs(x).max(1), sets)
        size = np.where(size > 0, size, np.abs(x).max())  # where the honest rows are zero only the others give a size
        slack = rounding(n, d, round_.updates.dtype, 1.0) * size
        room = math.sqrt(kappa) * spread * (1 + 1e-6) + slack
        excess = np.where(np.isfinite(room), distance / np.maximum(room, 1e-300), 0.0)
    worst = int(np.nanargmax(excess))
    return Deviation(*(float(values[worst]) * scale for values in (distance, spread, slack)))


def _measure(centred: Floats, sizes: Floats, sets: npt.NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    rows = centred[sets]
    means = rows.mean(1)
    spread = np.sqrt(((rows - means[:, None]) ** 2).sum(2).mean(1))
    return np.linalg.norm(means, axis=1), spread, sizes[sets].max(1)


def _power_of_two(size: float) -> float:
    return 2.0 ** math.floor(math.log2(size)) if size > 0 and math.isfinite(size) else 1.0


def _sets(n: int, f: int, honest: tuple[int, ...], every_set: bool) -> npt.NDArray[np.int64]:
    if not every_set:
        return np.array([honest[: n - f]])
    if math.comb(n, f) <= MANY_SUBSETS:
        return _all_sets(n, n - f)
    outside = [row for row in range(n) if row not in honest[: n - f]]
    neighbours = [
        [row if member == taken else member for member in honest[: n - f]] for taken in honest[: n - f] for row in outside
    ]
    return np.array([honest[: n - f], *neighbours])


@lru_cache(maxsize=64)
def _all_sets(n: int, h: int) -> npt.NDArray[np.int64]:
    return np.array(list(combinations(range(n), h)))
