"""What an accountant owes at the corners: exact costs from a table, neither below them nor, where claimed, far above."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

import numpy as np

from pytest_fl.checks import Bound, verdict
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.parts import Accountant

TINY: Final = 1e-9
"""Absolute: rounding of what is next to no cost at all."""
UNSEEN: Final = 1e-6
"""Absolute: how far above the exact cost nobody minds."""
FALLS: Final = 2e-3
"""Relative: by how much a cost may fall where it should grow, from one grid to another."""
ROWS: Final = 40
"""Rows of the table that one run tries; the seed says which."""


class ExactCost(NamedTuple):
    """A row of the table: what so many rounds cost, exactly."""

    noise: float
    delta: float
    sampling: float
    rounds: int
    epsilon: float
    within: float
    """How far the two methods are apart that agree on it, relative."""

    def __str__(self) -> str:
        """The row as a failure names it."""
        return f"q={self.sampling:g}, {self.rounds} rounds, noise {self.noise:g}, delta={self.delta:g}"


@cache
def exact_costs() -> tuple[ExactCost, ...]:
    """The table that `scripts/accountant_table.py` makes, where two methods agree on each row."""
    with (files("pytest_fl") / "oracles/data/accountant.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return tuple(ExactCost(float(z), float(delta), float(q), int(t), float(e), float(w)) for z, delta, q, t, e, w in rows)


def _some(rng: np.random.Generator) -> list[ExactCost]:
    rows = exact_costs()
    return [rows[i] for i in sorted(rng.permutation(len(rows))[:ROWS])]


@audited(Accountant)
def never_below_exact_costs(part: Accountant, rng: np.random.Generator) -> Iterator[Bound]:
    """At the corners (q 1e-4 .. 1, 1 .. 1e5 rounds, delta 1e-4 .. 1e-12, noise 0.3 .. 100) rounds cost no less than they do."""
    for row in _some(rng):
        spent = part.epsilon(row.noise, row.delta, row.sampling, row.rounds)
        least = row.epsilon * (1 - row.within) - TINY
        yield Bound(least, spent, f"{row}: said to cost {spent:.5g}, and costs {row.epsilon:.5g}")
        if not least <= spent:
            return  # one is enough, and some rows take seconds


def _precise(part: Accountant) -> str:
    return "" if part.precision is not None else "it is not claimed to be near the exact cost"


@audited(Accountant, needs=_precise)
def not_far_above_exact_costs(part: Accountant, rng: np.random.Generator) -> Iterator[Bound]:
    """At the same corners rounds are said to cost at most the claimed share more than they do."""
    assert part.precision is not None
    for row in _some(rng):
        spent = part.epsilon(row.noise, row.delta, row.sampling, row.rounds)
        most = row.epsilon * (1 + part.precision + row.within) + UNSEEN
        yield Bound(spent, most, f"{row}: said to cost {spent:.5g}, and costs {row.epsilon:.5g}")
        if not spent <= most:
            return


@audited(Accountant)
def more_costs_more_everywhere(part: Accountant, rng: np.random.Generator) -> Iterator[Bound]:
    """From any place of the table, twice the rounds, more sampling, less noise or a smaller delta never cost less."""
    for row in _some(rng)[: ROWS // 5]:
        base = part.epsilon(row.noise, row.delta, row.sampling, row.rounds)
        slack = base * (1 - FALLS) - UNSEEN
        more = {
            "twice the rounds": part.epsilon(row.noise, row.delta, row.sampling, 2 * row.rounds),
            "more sampling": part.epsilon(row.noise, row.delta, min(1.0, 1.5 * row.sampling), row.rounds),
            "less noise": part.epsilon(row.noise / 1.5, row.delta, row.sampling, row.rounds),
            "a smaller delta": part.epsilon(row.noise, row.delta / 10, row.sampling, row.rounds),
        }
        for said, spent in more.items():
            yield Bound(slack, spent, f"{said} than {row} cost {spent:.5g}, less than {base:.5g}")
            if not slack <= spent:
                return


@audited(Accountant)
def nonsense_is_refused(part: Accountant, rng: np.random.Generator) -> Iterator[Bound]:
    """No noise costs infinity, no round nothing; NaN, and a delta or a probability out of range, raise a ValueError."""
    del rng
    yield verdict("" if part.epsilon(0.0, 1e-5, 0.5, 1) == math.inf else "no noise is said to cost something finite")
    yield Bound(part.epsilon(1.0, 1e-5, 0.5, 0), 0.0, "no round at all is said to cost something")
    nan = math.nan
    for noise, delta, sampling in (
        (nan, 1e-5, 0.5),
        (nan, 1e-5, 1.0),
        (1.0, nan, 0.5),
        (1.0, 1e-5, nan),
        (1.0, 0.0, 0.5),
        (1.0, 1e-5, 1.5),
    ):
        said = f"noise {noise}, delta {delta}, sampling {sampling}"
        try:
            spent = part.epsilon(noise, delta, sampling, 10)
        except ValueError:
            yield verdict("")
        else:
            yield verdict(f"{said} are said to cost {spent:.3g}; expected a ValueError")


def _calibrates(part: Accountant) -> str:
    return "" if part.calibrate else "it does not calibrate"


EPSILONS: Final = (0.1, 0.3, 0.7, 1.0)
SAMPLINGS: Final = (0.1, 0.3, 0.6, 0.9)
ROUNDS: Final = (100, 1000, 3000)
DELTAS: Final = (1e-5, 1e-8, 1e-12)
CELLS: Final = 6
"""Of these, tried in one run."""


@audited(Accountant, needs=_calibrates)
def calibrates_in_every_cell(part: Accountant, rng: np.random.Generator) -> Iterator[Bound]:
    """The noise for epsilon 0.1 .. 1, q 0.1 .. 0.9, 100 .. 3000 rounds, delta 1e-5 .. 1e-12 spends 99 to 100 % of it."""
    assert part.calibrate is not None
    for _ in range(CELLS):
        epsilon, q, rounds, delta = (pool[int(rng.integers(len(pool)))] for pool in (EPSILONS, SAMPLINGS, ROUNDS, DELTAS))
        cell = f"epsilon={epsilon}, q={q}, {rounds} rounds, delta={delta:g}"
        noise = part.calibrate(epsilon, delta, q, int(rounds))
        spent = part.epsilon(noise, delta, q, int(rounds))
        yield Bound(spent, epsilon * (1 + 1e-9), f"{cell}: noise {noise:.5g} spends {spent:.5g}")
        yield Bound(0.99 * epsilon, spent, f"{cell}: noise {noise:.5g} spends {spent:.5g}, and 1 % is wasted")
    for said, noise in (
        ("q T < delta", part.calibrate(1.0, 1e-2, 1e-4, 10)),
        ("epsilon = 300", part.calibrate(300.0, 1e-5, 0.5, 10)),
    ):
        yield verdict("" if 0 < noise < math.inf else f"{said} is given the noise {noise}")
