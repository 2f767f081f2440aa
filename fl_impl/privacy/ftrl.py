"""DP-FTRL by banded matrix factorisation: noise correlated over rounds, so that prefix sums carry less of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.signal import lfilter

from fl_impl.privacy.accounting import calibrate
from fl_impl.privacy.analytic import gaussian_epsilon, gaussian_noise
from fl_impl.privacy.clipping import shorten
from fl_impl.privacy.ledger import Entry
from fl_impl.privacy.mechanisms import Central, Release, as_rows, mechanism, noise_grid
from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness, discrete_gaussian
from fl_impl.privacy.sampling import cyclic_sample

if TYPE_CHECKING:
    from fl_impl.privacy.accounting import Budget

Vector = npt.NDArray[np.float64]
MOST_BANDS: Final = 32
"""More bands than this gain little, and cost as many noises in memory."""
BITS: Final = 36
"""Grid of the noise: finer than that of independent noise, as what is subtracted of earlier rounds is rounded to it."""


@lru_cache(maxsize=32)
def banded_factor(rounds: int, separation: int) -> tuple[float, ...]:
    """The first column (c_0 = 1, c_1, ...) of the lower-triangular Toeplitz C with the least error of all prefix sums.

    At most `separation` bands, so that the contributions of one client, `separation` rounds or more apart, are orthogonal:
    the sensitivity is sqrt(ceil(rounds / separation)) ||c||. Minimised is ||c||^2 ||A C^-1||_F^2, A being 1 on and
    below the diagonal. Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta & Xu 2023 (arXiv 2306.08153). One band
    is independent noise. Raises ValueError for numbers below 1.
    """
    if min(rounds, separation) < 1:
        raise ValueError(f"rounds and separation must be at least 1; got {rounds} and {separation}")
    bands = min(rounds, separation, MOST_BANDS)
    if bands == 1:
        return (1.0,)
    weights = np.arange(rounds, 0, -1.0)  # how many prefix sums an entry of A C^-1 is in

    def loss(free: Vector) -> tuple[float, Vector]:
        c = np.append(1.0, free)
        prefix = _prefix_of_inverse(c, rounds)
        error, length = float(weights @ prefix**2), float(c @ c)
        # d prefix / d c_k = -(prefix / c) shifted by k: the power series 1 / ((1 - x) c(x)).
        derived = -np.asarray(lfilter([1.0], c, prefix), np.float64)
        slope = np.array([2 * float(weights[k:] @ (prefix[k:] * derived[: rounds - k])) for k in range(1, len(c))])
        return math.log(error) + math.log(length), slope / error + 2 * free / length

    k = np.arange(1, bands)
    start = np.cumprod((2 * k - 1) / (2 * k))  # of the square root of A: best without bands
    found = cast("Any", minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * (bands - 1)))
    return (1.0, *(float(x) for x in found.x))


def _prefix_of_inverse(c: Vector, rounds: int) -> Vector:
    """(T,): the first column of A C^-1, the power series of 1 / ((1 - x) c(x))."""
    return np.cumsum(np.asarray(lfilter([1.0], c, np.eye(1, rounds)[0]), np.float64))


def sensitivity(factor: Vector, rounds: int, *, separation: int) -> float:
    """The greatest L2 length by which a client with contributions of norm 1 moves C x, C the banded Toeplitz matrix.

    The client takes part in any rounds that are `separation` or more apart. With no more bands than that the columns
    are orthogonal, and the worst is rounds 1, 1 + separation, ...: the tests try all patterns of small cases.
    """
    if len(factor) > separation:
        raise ValueError(f"expected at most separation={separation} bands; got {len(factor)}")
    square = sum(float(factor[: rounds - start] @ factor[: rounds - start]) for start in range(0, rounds, separation))
    return math.sqrt(square)


def prefix_error(factor: Vector, rounds: int) -> float:
    """||A C^-1||_F / sqrt(T): the root mean square, over rounds, of a prefix sum's noise, for noise of deviation 1 in C x."""
    prefix = _prefix_of_inverse(factor, rounds)
    return math.sqrt(float(np.arange(rounds, 0, -1.0) @ prefix**2) / rounds)


def independent_on_the_model(budget: Budget, rounds: int, expected_clients: float) -> float:
    """What `BandedFTRL.on_the_model` is for `Gaussian`, whose clients are sampled with budget.sampling."""
    noise = calibrate(epsilon=budget.epsilon, delta=budget.delta, sampling=budget.sampling, rounds=rounds)
    return noise * math.sqrt((rounds + 1) / 2) / expected_clients


@mechanism("ftrl")
@dataclass(frozen=True)
class BandedFTRL(Central):
    """DP-FTRL: round t releases sum_i clip(x_i, C) + n_t, where the noise n solves F n = s z C Z, Z ~ N(0, I).

    F is banded Toeplitz (see `banded_factor`), so n_t = s z C Z_t - sum_k c_k n_(t-k): the noise of rounds cancels in part,
    and the model, a prefix sum, carries less of it than of independent draws. s is the sensitivity of F to a client that
    takes part every `separation` rounds: `sample` keeps that schedule, in place of amplification by sampling. Sums and
    noise are integers, multiples of a public step. Kairouz et al. 2021 (arXiv 2103.00039); Choquette-Choo et al. 2023
    (arXiv 2306.08153). The state holds the last noises, (bands - 1, d), and the number of the round.
    """

    correlated: ClassVar[bool] = True

    clip_bound: float
    noise_multiplier: float
    expected_clients: float
    rounds: int
    separation: int = 1

    @classmethod
    def calibrated(
        cls, budget: Budget, *, rounds: int, clip_bound: float, clients: int, separation: int | None = None
    ) -> BandedFTRL:
        """With the least noise for that many rounds; a client takes part every floor(1 / budget.sampling) rounds."""
        apart = max(1, int(1 / budget.sampling)) if separation is None else separation
        return cls(clip_bound, gaussian_noise(budget.epsilon, budget.delta), clients / apart, rounds, apart)

    @property
    def factor(self) -> Vector:
        """(bands,): the first column of F."""
        return np.array(banded_factor(self.rounds, self.separation))

    @property
    def sensitivity(self) -> float:
        """How far one client moves F x, in units of the clip bound."""
        return sensitivity(self.factor, self.rounds, separation=self.separation)

    def start(self) -> None:
        """No noise yet."""

    def spent(self, rounds: int, budget: Budget) -> float:
        """The exact epsilon at budget.delta of the first rounds: one Gaussian release of the whole stream."""
        if rounds > self.rounds:
            return math.inf
        return gaussian_epsilon(1 / self._multiplier_of(rounds), budget.delta) if rounds else 0.0

    def on_the_model(self) -> float:
        """Root mean square over rounds of the noise of a prefix sum of the releases, in clip bounds."""
        return self.noise_multiplier * self.sensitivity * prefix_error(self.factor, self.rounds) / self.expected_clients

    def advice(self, budget: Budget) -> str:
        """Whether independent noise, whose cost sampling amplifies, leaves less on the model."""
        correlated, independent = self.on_the_model(), independent_on_the_model(budget, self.rounds, self.expected_clients)
        if correlated < independent:
            return ""
        return (
            f"ftrl leaves {correlated / independent:.2f} times the noise of gaussian on the model in {self.rounds} rounds, of "
            f'which a client is in one of {self.separation}: dp_mechanism="gaussian" is no worse here. ftrl pays where nobody '
            "can be sampled in secret, so that independent noise is not amplified either"
        )

    def entry(self, round_number: int, budget: Budget, run: str = "") -> Entry:
        """What the ledger is told of a round: the noise multiplier of the stream up to it. A round past the last has none."""
        del budget
        noise = self._multiplier_of(round_number) if round_number <= self.rounds else 0.0
        return Entry("ftrl", round_number, noise, 1.0, f"{self.rounds} rounds, {self.noise_multiplier!r}", run)

    def _multiplier_of(self, rounds: int) -> float:
        """The noise multiplier of the first rounds as one Gaussian release."""
        return self.noise_multiplier * self.sensitivity / sensitivity(self.factor, rounds, separation=self.separation)

    def sample(
        self, clients: int, round_number: int, budget: Budget, randomness: Randomness = OPERATING_SYSTEM
    ) -> tuple[int, ...]:
        """Every `separation`-th client, each in its turn."""
        del budget, randomness
        return cyclic_sample(clients, round_number, self.separation)

    def release(
        self, updates: Any, state: Vector | None = None, randomness: Randomness = OPERATING_SYSTEM
    ) -> tuple[Release, Vector]:
        """The noisy mean of the next round. Raises ValueError past the last round that the noise is made for.

        state: None, or (bands, d) float64: the number of rounds so far in the first row, then the noises of the last ones in
        grid steps, the latest first. What is subtracted of them is rounded to the grid, which moves each entry of F n by
        less than a step: the noise is longer by what that adds to the sensitivity.
        """
        rows, factor = as_rows(updates), self.factor
        d, bands = rows.shape[1], len(factor)
        done = 0 if state is None else int(state[0, 0])
        if done >= self.rounds:
            raise ValueError(f"this noise is made for {self.rounds} rounds; round {done + 1} is not covered")
        earlier = np.zeros((bands - 1, d)) if state is None else state[1:]
        grid, _ = noise_grid(self.clip_bound, self.sensitivity * self.noise_multiplier, BITS)
        rounding = math.sqrt(d * self.rounds) * grid.step / self.clip_bound
        scale = (self.sensitivity + rounding) * self.noise_multiplier
        sigma = scale * self.clip_bound / grid.step
        noise = discrete_gaussian(randomness, (d,), sigma) - np.rint(factor[1:] @ earlier).astype(np.int64)
        total, clipped = noise.copy(), 0
        for row in rows:
            short, was_longer = shorten(row, self.clip_bound)
            total += grid.encode(short)
            clipped += was_longer
        std = scale * self.clip_bound * self._noise_length(done + 1) / self.expected_clients
        kept = np.concatenate([np.full((1, d), done + 1.0), noise[None].astype(np.float64), earlier])[:bands]
        value = grid.decode(total) / self.expected_clients
        return Release(value, std, self.clip_bound, clipped, randomness.source), kept

    def _noise_length(self, rounds: int) -> float:
        """The deviation of n_t for Z of deviation 1: the length of the first `rounds` coefficients of 1 / c(x)."""
        inverse = np.asarray(lfilter([1.0], self.factor, np.eye(1, rounds)[0]), np.float64)
        return float(np.linalg.norm(inverse))
