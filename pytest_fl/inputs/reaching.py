"""How far colluders get unseen: an evolution strategy on the one direction in which they all stand.

A rule that looks at a sketch, a projection, a part of the coordinates or one power step accepts rows that agree with the
honest ones in what it sees. Those rows form a cylinder: narrow where the rule looks, endless elsewhere. A covariance
matrix that adapts to the steps that went well finds its axis, and then the coefficient grows without end.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DEEP: Final = 16
"""Dimensions in which the reach is looked for where nobody says how many."""
FAR: Final = 1e5
"""A coefficient beyond which there is nothing more to find."""
LONGEST: Final = 600
"""Steps from one cloud."""


class Objective(Protocol):
    """What is maximised, and whether the budget is spent."""

    @property
    def spent(self) -> bool:
        """Whether no evaluation is left."""
        ...

    def __call__(self, x: Floats, backwards: bool = False) -> float:
        """The coefficient at x, the f Byzantine rows first."""
        ...


def reach(search: Objective, n: int, f: int, d: int, rng: np.random.Generator, *, steps: int) -> None:
    """Climb from one cloud after another, `steps` from each, until the budget is spent or the coefficient is huge.

    In turns in any direction, and along directions in which the sum of a row stays what it is: a projection on the
    vector of ones, or a power step that begins there, sees nothing of those.
    """
    every, level = np.eye(d), np.eye(d) - 1 / d
    while not search.spent:
        for directions in (every, level):
            if _climb(search, rng.standard_normal((n - f, d)), f, directions, rng, min(steps, LONGEST)) > FAR:
                return


def _climb(search: Objective, honest: Floats, f: int, directions: Floats, rng: np.random.Generator, steps: int) -> float:
    """(1+1)-CMA-ES (Igel, Suttorp & Hansen 2006) on the attackers' common displacement; the greatest coefficient."""
    d = honest.shape[1]
    wanted, memory, learning = 2 / 11, 2 / (d + 2), 2 / (d * d + 6)
    jitter = 1e-3 * rng.standard_normal((f, d))  # equal rows are a sign by themselves

    def value(displacement: Floats) -> float:
        return search(np.concatenate([honest.mean(0) + displacement + jitter, honest]))

    at, size, covariance, path, successes = np.zeros(d), 1.0, directions.copy(), np.zeros(d), wanted
    best = value(at)
    for _ in range(steps):
        if search.spent or best > FAR:
            break
        eigenvalues, axes = np.linalg.eigh(covariance)
        step = axes @ (np.sqrt(np.maximum(eigenvalues, 0)) * rng.standard_normal(d))
        tried = value(at + size * step)
        better = tried > best
        successes += ((1.0 if better else 0.0) - successes) / 12
        if better:
            best, at = tried, at + size * step
            stalled = successes > 0.44  # steps are too short to tell directions apart
            path = (1 - memory) * path + (0 if stalled else math.sqrt(memory * (2 - memory))) * step
            kept = 1 - learning + (learning * memory * (2 - memory) if stalled else 0)
            covariance = kept * covariance + learning * np.outer(path, path)
        size *= math.exp((successes - wanted) / ((1 + d / 2) * (1 - wanted)))
    return best
