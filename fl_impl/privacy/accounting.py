"""What Poisson-sampled Gaussian rounds cost in (epsilon, delta), and the noise that keeps a run within its budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np
from scipy.optimize import brentq

from fl_impl.common.extras import require
from fl_impl.privacy.analytic import gaussian_epsilon, gaussian_noise

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

INTERVAL: Final = 1e-3
"""Grid of the privacy loss. Estimates are pessimistic on any grid; this one costs at most 0.2 % of epsilon."""


class PrivacyBudgetError(ValueError):
    """The next round would spend more than the budget; nothing has been released by it."""


def spent_epsilon(*, noise_multiplier: float, delta: float, sampling: float, rounds: int) -> float:
    """The epsilon at delta of `rounds` sums sum_i clip(x_i, C) + N(0, (noise_multiplier C)^2 I).

    Neighbours differ by one client more or less. sampling is the probability with which each client takes part in a
    round, by itself (Poisson): no other scheme is accounted. An upper bound by numerical composition of privacy loss
    distributions (Koskela, Jalko & Honkela 2020, arXiv 1906.03049; Doroshenko et al. 2022, arXiv 2207.04380); exact
    where sampling = 1.
    Raises ValueError for parameters out of range.
    """
    _check(delta, sampling, rounds)
    if rounds == 0:
        return 0.0
    if noise_multiplier <= 0:
        return math.inf
    if sampling == 1:
        return gaussian_epsilon(math.sqrt(rounds) / noise_multiplier, delta)
    return _round_loss(noise_multiplier, sampling).self_compose(rounds).get_epsilon_for_delta(delta)


@lru_cache(maxsize=64)
def calibrate(*, epsilon: float, delta: float, sampling: float, rounds: int) -> float:
    """The noise multiplier with which `rounds` rounds spend at most epsilon, within 0.2 % of the least such.

    On the safe side: `spent_epsilon` of the result is never above epsilon. Raises ValueError as that does.
    """
    _check(delta, sampling, rounds)
    high = gaussian_noise(epsilon, delta) * math.sqrt(max(rounds, 1))  # without sampling: enough, and exact
    if sampling == 1 or rounds == 0:
        return high

    def excess(noise: float) -> float:
        return spent_epsilon(noise_multiplier=noise, delta=delta, sampling=sampling, rounds=rounds) / epsilon - 1

    while excess(high / 2) <= 0:  # little noise makes a long distribution, slow to compose: come down to it
        high /= 2
    noise = cast("float", brentq(excess, high / 2, high, rtol=np.float64(1e-4)))
    while excess(noise) > 0:
        noise *= 1 + 1e-4
    return noise


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

    def authorize(self, mechanism: Accounted, round_number: int) -> float:
        """The epsilon that will be spent once round number `round_number` (from 1) is released.

        Asked before the round. Raises PrivacyBudgetError where the round may not run.
        """
        spent = mechanism.spent(round_number, self)
        if spent > self.epsilon * (1 + 1e-9):
            raise PrivacyBudgetError(
                f"round {round_number} would bring the spent epsilon to {spent:.4g} of a budget of {self.epsilon:.4g} "
                f"at delta={self.delta:g}. Stop here, or calibrate for more rounds, with more noise from the first on"
            )
        return spent


class Accounted(Protocol):
    """A mechanism whose cost is known."""

    def spent(self, rounds: int, budget: Budget) -> float:
        """The epsilon at budget.delta of so many rounds under budget.sampling."""
        ...


@lru_cache(maxsize=64)
def _round_loss(noise_multiplier: float, sampling: float) -> PrivacyLossDistribution:
    """The privacy loss of one round: computed once a run, composed anew for every round."""
    distributions = require("dp_accounting.pld.privacy_loss_distribution", extra="privacy")
    return distributions.from_gaussian_mechanism(
        noise_multiplier, value_discretization_interval=INTERVAL, sampling_prob=sampling
    )


def _check(delta: float, sampling: float, rounds: int) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, e.g. 1e-5; got {delta}")
    if not 0 < sampling <= 1:
        raise ValueError(f"sampling must be a probability in (0, 1], e.g. 0.8; got {sampling}")
    if rounds < 0:
        raise ValueError(f"rounds must not be negative; got {rounds}")
