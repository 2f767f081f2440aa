"""What Poisson-sampled Gaussian rounds cost in (epsilon, delta), and the noise that keeps a run within its budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from fl_impl.privacy.analytic import gaussian_noise
from fl_impl.privacy.ledger import Entry, Ledger
from fl_impl.privacy.losses import Releases, composed_epsilon

NEAR: Final = 5e-4
"""Relative: how near `calibrate` comes to the least noise."""
ROUNDING: Final = 2e-3
"""Relative: how far the bound of epsilon may be above the truth."""
LEAST_NOISE: Final = 0.01
"""The noise multiplier below which `calibrate` looks for none."""


class PrivacyBudgetError(ValueError):
    """The next round would spend more than the budget; nothing has been released by it."""


def spent_epsilon(*, noise_multiplier: float, delta: float, sampling: float, rounds: int) -> float:
    """The epsilon at delta of `rounds` sums sum_i clip(x_i, C) + N(0, (noise_multiplier C)^2 I).

    Neighbours differ by one client more or less. sampling is the probability with which each client takes part in a
    round, by itself (Poisson): no other scheme is accounted. An upper bound within 0.1 %, by numerical composition of the
    privacy loss: see `composed_epsilon`. Exact where sampling = 1 (Balle & Wang 2018, arXiv 1805.06530).
    Raises ValueError for parameters out of range.
    """
    _check(delta, sampling, rounds)
    return composed_epsilon([Releases(noise_multiplier, sampling, rounds)], delta)


@lru_cache(maxsize=64)
def calibrate(*, epsilon: float, delta: float, sampling: float, rounds: int) -> float:
    """The noise multiplier with which `rounds` rounds spend at most epsilon, and hardly less: within 0.1 % of the least.

    On the safe side: `spent_epsilon` of the result is never above epsilon. Where hardly any noise is enough, as for a
    client that takes part with a probability below delta, it is 0.01. Raises ValueError as `spent_epsilon` does.
    """
    _check(delta, sampling, rounds)
    high = gaussian_noise(epsilon, delta) * math.sqrt(max(rounds, 1))  # without sampling: enough, and exact
    if sampling == 1 or rounds == 0:
        return high

    def too_little(noise: float) -> bool:
        return spent_epsilon(noise_multiplier=noise, delta=delta, sampling=sampling, rounds=rounds) > epsilon

    while too_little(high):  # by the rounding of a grid, at a sampling next to 1
        high *= 1 + NEAR
    low = high / 2
    while low > LEAST_NOISE and not too_little(low):
        low, high = low / 2, low
    if low <= LEAST_NOISE and not too_little(LEAST_NOISE):
        return LEAST_NOISE
    while high / low > 1 + NEAR:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if too_little(middle) else (low, middle)
    return high


@dataclass(frozen=True)
class Budget:
    """What a run may spend, (epsilon, delta), and the probability with which it samples each client in a round."""

    epsilon: float
    delta: float
    sampling: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for an epsilon, delta or sampling out of range."""
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon must be positive and finite; got {self.epsilon}")
        _check(self.delta, self.sampling, 0)

    def authorize(
        self, mechanism: Accounted, round_number: int, ledger: Ledger | None = None, *, rounds: int = 0, run: str = ""
    ) -> float:
        """The epsilon that will be spent, by all that the ledger holds, once round `round_number` (from 1) is released.

        Without a ledger, by the rounds of this mechanism alone. rounds: how many the noise was calibrated for.
        Asked before the round. Raises PrivacyBudgetError where the round may not run.
        """

        def entries(numbers: range) -> list[Entry]:
            return [mechanism.entry(number, self, run) for number in numbers]

        before = Ledger(entries(range(1, round_number))) if ledger is None else ledger
        most = self.epsilon * (1 + 1e-9)
        spent = before.epsilon(self.delta, entries(range(round_number, round_number + 1)))
        if most < spent < self.epsilon * (1 + ROUNDING) and round_number <= rounds:
            # Within the rounding of a grid: all planned rounds cost no less than this one, and may be known more closely.
            spent = min(spent, before.epsilon(self.delta, entries(range(round_number, rounds + 1))))
        if spent > most:
            raise PrivacyBudgetError(
                f"round {round_number} would bring the spent epsilon to {spent:.4g} of a budget of {self.epsilon:.4g} "
                f"at delta={self.delta:g}, by {len(before)} releases so far. Stop here, or calibrate for more rounds, with "
                "more noise from the first on"
            )
        return spent


class Accounted(Protocol):
    """A mechanism whose cost is known."""

    def entry(self, round_number: int, budget: Budget, run: str = "") -> Entry:
        """What a ledger is told of a round."""
        ...


def _check(delta: float, sampling: float, rounds: int) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, e.g. 1e-5; got {delta}")
    if not 0 < sampling <= 1:
        raise ValueError(f"sampling must be a probability in (0, 1], e.g. 0.8; got {sampling}")
    if rounds < 0:
        raise ValueError(f"rounds must not be negative; got {rounds}")
