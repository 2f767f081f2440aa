"""What f colluding clients send, given what the honest ones did: (honest, f, reach, rng) -> (f, d).

`reach` is a distance: the honest rows' greatest distance from their mean times a factor, or an absolute size where the
honest rows agree. Each is like a mistake that a rule may make: what it fails to see, or takes for honest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float64]
Plot = Callable[[Rows, int, float, np.random.Generator], Rows]
COLLUDERS: Final[dict[str, Plot]] = {}


def colluders(name: str) -> Callable[[Plot], Plot]:
    """Register a plot under the name that a failure prints."""

    def register(plot: Plot) -> Plot:
        COLLUDERS[name] = plot
        return plot

    return register


def _direction(d: int, rng: np.random.Generator) -> Rows:
    vector = rng.standard_normal(d)
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


@colluders("identical, far")
def identical_far(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """f identical rows in one direction: nobody is nearer to them than they are."""
    return np.tile(honest.mean(0) + reach * _direction(honest.shape[1], rng), (f, 1))


@colluders("all coordinates down")
def all_down(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Every coordinate below: one-sided trimming keeps them."""
    del rng
    return np.tile(honest.mean(0) - reach, (f, 1))


@colluders("all coordinates up")
def all_up(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Every coordinate of the attackers lies above the honest ones."""
    del rng
    return np.tile(honest.mean(0) + reach, (f, 1))


@colluders("scattered")
def scattered(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Attackers in independent directions, so that no two look alike."""
    return honest.mean(0) + reach * rng.standard_normal((f, honest.shape[1]))


@colluders("far outlier, decoys at the shifted barycentre")
def decoys(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """One far row moves the mean of all; the others sit exactly there."""
    rows = np.tile(honest.mean(0), (f, 1))
    outlier = honest.mean(0) + reach * _direction(honest.shape[1], rng)
    rows[1:] += (outlier - rows[0]) / (len(honest) + 1)
    rows[0] = outlier
    return rows


@colluders("ladder")
def ladder(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Each row ten times nearer than the one before: removing one uncovers the next."""
    steps = reach * 10.0 ** -np.arange(f)[:, None]
    return honest.mean(0) + steps * _direction(honest.shape[1], rng)


@colluders("giant masks another, orthogonal")
def orthogonal(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Row j is far along axis j, each a thousand times less: the top singular vector sees the first only."""
    del rng
    rows = np.tile(honest.mean(0), (f, 1))
    for j in range(f):
        rows[j, j % honest.shape[1]] += reach * 10.0 ** (-3 * min(j, 1))
    return rows


@colluders("pairs of opposite sign")
def pairs(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Rows in pairs whose mean is the honest mean: the mean looks right."""
    signs = np.where(np.arange(f)[:, None] % 2, -1.0, 1.0)
    return honest.mean(0) + signs * reach * _direction(honest.shape[1], rng)


@colluders("last coordinate only")
def last_coordinate(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """An honest row but for its last coordinate."""
    del rng
    rows = np.tile(honest[0], (f, 1))
    rows[:, -1] += reach
    return rows


@colluders("one coordinate each")
def one_coordinate_each(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Row j is an honest row but for one coordinate of its own."""
    del rng
    rows = np.tile(honest[-1], (f, 1))
    rows[np.arange(f), np.arange(f) % honest.shape[1]] -= reach
    return rows


@colluders("same direction, shrunk or grown")
def multiples(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Multiples of the honest mean: a cosine tells nothing of them."""
    size = max(float(np.linalg.norm(honest.mean(0))), 1e-300)
    factors = np.array([0.5, 1 + reach / size, 2.0, 0.01])[(np.arange(f) + rng.integers(4)) % 4]
    return factors[:, None] * honest.mean(0)


@colluders("reversed, smaller")
def reversed_smaller(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """The honest mean reversed at a tenth of its size: a filter by norm keeps it."""
    del reach, rng
    return np.tile(-0.1 * honest.mean(0), (f, 1))


@colluders("same norm, other direction")
def same_norm(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Random directions with the norm of the honest mean."""
    del reach
    size = float(np.linalg.norm(honest.mean(0)))
    return np.stack([size * _direction(honest.shape[1], rng) for _ in range(f)])


@colluders("same sum")
def same_sum(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """First coordinate up, last one down: the sum over coordinates is honest."""
    del rng
    rows = np.tile(honest.mean(0), (f, 1))
    rows[:, 0] += reach
    rows[:, -1] -= reach
    return rows


@colluders("zeros")
def zeros(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """All attackers send zeros, as if they had learnt nothing."""
    del reach, rng
    return np.zeros((f, honest.shape[1]))


@colluders("just outside")
def just_outside(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Each a little farther than the last, near enough to pass for honest."""
    steps = reach * (1 + 0.1 * np.arange(f)[:, None]) * 1e-2
    return honest.mean(0) + steps * _direction(honest.shape[1], rng)


def permuted(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Entries of honest rows in another order: norm, sum and every sorted statistic are honest."""
    del reach
    return np.stack([honest[i % len(honest)][rng.permutation(honest.shape[1])] for i in range(f)])


def swapped(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """An honest row with its first and last entries exchanged."""
    del reach, rng
    rows = honest[np.arange(f) % len(honest)].copy()
    rows[:, [0, -1]] = rows[:, [-1, 0]]
    return rows


def plus_and_minus(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """An honest row with r added to one entry of a random pair and taken from the other: its sum is honest."""
    rows = honest[np.arange(f) % len(honest)].copy()
    one, other = rng.permutation(honest.shape[1])[[0, -1]]
    rows[:, one] += reach
    rows[:, other] -= reach
    return rows


def alternating(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """The honest mean plus r times +1, -1, +1, ...: orthogonal to the vector of ones."""
    del rng
    return np.tile(honest.mean(0) + reach * (-1.0) ** np.arange(honest.shape[1]), (f, 1))


KEEPERS: Final[dict[str, Plot]] = {
    "entries permuted": permuted,
    "first and last entry exchanged": swapped,
    "plus and minus on a pair of entries": plus_and_minus,
    "alternating signs": alternating,
}
"""Plots that keep a statistic of an honest row, for rules that look at summaries, sketches or projections."""


@colluders("one of them copies an honest row")
def one_copies(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """A copy of an honest row, the others far and identical."""
    rows = identical_far(honest, f, reach, rng)
    rows[0] = honest[0]
    return rows


@colluders("fewer than f")
def fewer(honest: Rows, f: int, reach: float, rng: np.random.Generator) -> Rows:
    """Only one attacks; the others send what the honest ones do."""
    rows = honest[np.arange(f) % len(honest)].copy()
    rows[0] = honest.mean(0) - reach * _direction(honest.shape[1], rng)
    return rows
