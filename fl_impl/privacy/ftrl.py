"""DP-FTRL with square-root Toeplitz factors: noise correlated over rounds, so that prefix sums carry less of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fl_impl.privacy.analytic import gaussian_epsilon, gaussian_noise
from fl_impl.privacy.clipping import shorten
from fl_impl.privacy.mechanisms import Central, Release, as_rows, mechanism
from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness, normal
from fl_impl.privacy.sampling import cyclic_sample

if TYPE_CHECKING:
    from fl_impl.privacy.accounting import Budget

Vector = npt.NDArray[np.float64]


def factor(rounds: int) -> Vector:
    """(T,) coefficients c_k of (1 - x)^(-1/2): the Toeplitz C for which C @ C is 1 on and below the diagonal.

    c_0 = 1, c_k = c_{k-1} (2k - 1) / (2k). Fichtenberger, Henzinger & Upadhyay 2023 (arXiv 2202.11205).
    """
    k = np.arange(1, rounds)
    return np.concatenate([[1.0], np.cumprod((2 * k - 1) / (2 * k))])


def inverse_factor(rounds: int) -> Vector:
    """(T,) coefficients of (1 - x)^(1/2), the first column of C^-1: c_0 = 1, c_k = c_{k-1} (2k - 3) / (2k)."""
    k = np.arange(1, rounds)
    return np.concatenate([[1.0], np.cumprod((2 * k - 3) / (2 * k))])


def sensitivity(rounds: int, *, separation: int) -> float:
    """The greatest L2 length by which a client with contributions of norm 1 moves C x, where C = `factor(rounds)`.

    The client takes part in any rounds that are `separation` or more apart. As the coefficients are positive and fall,
    the worst is rounds 1, 1 + separation, ...: Kalinin & Lampert 2024 (arXiv 2405.13763). separation >= rounds is the
    single pass. Raises ValueError for numbers below 1.
    """
    if min(rounds, separation) < 1:
        raise ValueError(f"rounds and separation must be at least 1; got {rounds} and {separation}")
    coefficients, moved = factor(rounds), np.zeros(rounds)
    for start in range(0, rounds, separation):
        moved[start:] += coefficients[: rounds - start]
    return math.sqrt(float(moved @ moved))


@mechanism("ftrl")
@dataclass(frozen=True)
class ToeplitzFTRL(Central):
    """DP-FTRL: round t releases sum_i clip(x_i, C) + s z C (F^-1 Z)_t, F the square-root Toeplitz factor, Z ~ N(0, I).

    The noise of rounds cancels in part, so that the model, a prefix sum, carries less of it than of independent draws.
    s is the sensitivity of F to a client that takes part every `separation` rounds: `sample` keeps that schedule, in
    place of amplification by sampling. Kairouz et al. 2021 (arXiv 2103.00039); Fichtenberger, Henzinger & Upadhyay
    2023 (arXiv 2202.11205). The state holds the earlier draws: (t, d) float64.
    """

    clip_bound: float
    noise_multiplier: float
    expected_clients: float
    rounds: int
    separation: int = 1

    @classmethod
    def calibrated(
        cls, budget: Budget, *, rounds: int, clip_bound: float, clients: int, separation: int | None = None
    ) -> ToeplitzFTRL:
        """With the least noise for that many rounds; a client takes part every floor(1 / budget.sampling) rounds."""
        apart = max(1, int(1 / budget.sampling)) if separation is None else separation
        return cls(clip_bound, gaussian_noise(budget.epsilon, budget.delta), clients / apart, rounds, apart)

    @property
    def sensitivity(self) -> float:
        """How far one client moves F x, in units of the clip bound."""
        return sensitivity(self.rounds, separation=self.separation)

    def start(self) -> None:
        """No draws yet."""

    def spent(self, rounds: int, budget: Budget) -> float:
        """The exact epsilon at budget.delta of the first rounds: one Gaussian release of the whole stream."""
        if rounds > self.rounds:
            return math.inf
        if rounds == 0:
            return 0.0
        moved = sensitivity(rounds, separation=self.separation) / self.sensitivity
        return gaussian_epsilon(moved / self.noise_multiplier, budget.delta)

    def sample(
        self, clients: int, round_number: int, budget: Budget, randomness: Randomness = OPERATING_SYSTEM
    ) -> tuple[int, ...]:
        """Every `separation`-th client, each in its turn."""
        del budget, randomness
        return cyclic_sample(clients, round_number, self.separation)

    def release(
        self, updates: Any, state: Vector | None = None, randomness: Randomness = OPERATING_SYSTEM
    ) -> tuple[Release, Vector]:
        """The noisy mean of round len(state) + 1. Raises ValueError past the last round that the noise is made for."""
        rows = as_rows(updates)
        before = np.empty((0, rows.shape[1])) if state is None else state
        if len(before) >= self.rounds:
            raise ValueError(f"this noise is made for {self.rounds} rounds; round {len(before) + 1} is not covered")
        draws = np.vstack([before, normal(randomness, rows.shape[1:])])
        weights = inverse_factor(len(draws))[::-1]
        scale = self.sensitivity * self.noise_multiplier * self.clip_bound
        total, clipped = scale * (weights @ draws), 0
        for row in rows:
            short, was_longer = shorten(row, self.clip_bound)
            total += short
            clipped += was_longer
        std = scale * float(np.linalg.norm(weights)) / self.expected_clients
        return Release(total / self.expected_clients, std, self.clip_bound, clipped, randomness.source), draws
