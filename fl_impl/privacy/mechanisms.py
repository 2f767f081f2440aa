"""Differentially private means of updates: the central Gaussian, adaptive clipping, and the local Gaussian.

Each is a small frozen dataclass under `@mechanism(name)`: `calibrated` finds its noise for a budget, `spent` says what
rounds cost, `sample` draws a round's clients, `start` is the first state, `release` maps updates to one `Release`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fl_impl.common.registry import Registry
from fl_impl.privacy.accounting import Budget, calibrate, spent_epsilon
from fl_impl.privacy.analytic import gaussian_epsilon, gaussian_noise
from fl_impl.privacy.clipping import check_bound, clip, shorten
from fl_impl.privacy.fixed_point import FixedPoint
from fl_impl.privacy.ledger import Entry
from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness, discrete_gaussian
from fl_impl.privacy.sampling import poisson_sample

if TYPE_CHECKING:
    from collections.abc import Callable

Vector = npt.NDArray[np.float64]
GRID_BITS: Final = 30
"""Sums are taken in steps of clip_bound / 2^30, and noise in whole steps: in coarser ones where it is very long."""
LARGEST_SIGMA: Final = 2.0**47
"""In grid steps: below this, noise and sums are exact in 64 bits, and in float64."""
COUNT_BITS: Final = 20
"""A count gets its noise in steps of 2^-20."""


@dataclass(frozen=True, eq=False)
class Release:
    """What leaves a round: the (d,) noisy mean, and what was done to it."""

    value: Vector
    noise_std: float
    """Of each coordinate of value."""
    clip_bound: float
    clipped: int
    """Clients whose update was longer than the bound. Not private: for tests, not for publication."""
    randomness: str
    """"operating system", or the seed that a test asked for."""


class Mechanism(Protocol):
    """All that a run calls of a mechanism, and its traits, which decide what it goes together with."""

    local: ClassVar[bool]
    """Whether each client adds noise to what it sends, so that the server need not be trusted."""
    accounted: ClassVar[bool]
    """Whether the noise is that of a sum, which a trusted server or secure aggregation takes."""
    divisible: ClassVar[bool]
    """Whether the clients of a secure sum can add the noise together, in discrete shares."""
    correlated: ClassVar[bool]
    """Whether the noise of a round depends on that of rounds before: then all rounds are one release."""

    @property
    def clip_bound(self) -> float:
        """The length that updates are clipped to, in the first round at least."""
        ...

    @property
    def noise_multiplier(self) -> float:
        """The standard deviation of the noise, in units of the clip bound."""
        ...

    @property
    def expected_clients(self) -> float:
        """What a noisy sum is divided by, a public number; 1 where there is no such sum."""
        ...

    @classmethod
    def calibrated(cls, budget: Budget, *, rounds: int, clip_bound: float, clients: int) -> Mechanism:
        """With the least noise for that many rounds of `clients` clients within the budget."""
        ...

    def advice(self, budget: Budget) -> str:
        """Why another mechanism would do better, as a sentence; empty where none is known to."""
        ...

    def start(self) -> Any:
        """The state before the first round."""
        ...

    def spent(self, rounds: int, budget: Budget) -> float:
        """The epsilon at budget.delta of so many rounds under budget.sampling."""
        ...

    def entry(self, round_number: int, budget: Budget, run: str = "") -> Entry:
        """What a ledger is told of a round, before it is released."""
        ...

    def sample(
        self, clients: int, round_number: int, budget: Budget, randomness: Randomness = OPERATING_SYSTEM
    ) -> tuple[int, ...]:
        """The clients of a round, drawn as `spent` assumes."""
        ...

    def privatize(self, update: Any, randomness: Randomness = OPERATING_SYSTEM) -> Any:
        """What one client sends in place of its (d,) update; the update itself unless the mechanism is local."""
        ...

    def release(self, updates: Any, state: Any = None, randomness: Randomness = OPERATING_SYSTEM) -> tuple[Release, Any]:
        """The noisy mean of (m, d) updates, m >= 0, and the state for the next round."""
        ...


class Central:
    """The traits of a mechanism whose noise is that of a sum which a trusted server takes."""

    local: ClassVar[bool] = False
    accounted: ClassVar[bool] = True
    divisible: ClassVar[bool] = False
    correlated: ClassVar[bool] = False

    def advice(self, budget: Budget) -> str:
        """None is known to do better."""
        del budget
        return ""

    def privatize(self, update: Any, randomness: Randomness = OPERATING_SYSTEM) -> Any:
        """The update as it is: the server clips it and adds the noise."""
        del randomness
        return update


MECHANISMS: Final[Registry[Any]] = Registry("a privacy mechanism", package="fl_impl.privacy", group="pytest_fl.mechanisms")
"""The mechanisms by name."""

T = TypeVar("T", bound=type)


def mechanism(name: str) -> Callable[[T], T]:
    """Enter a mechanism under a name. Raises ValueError where it is taken."""

    def enter(cls: T) -> T:
        MECHANISMS.enter(name, cls)
        return cls

    return enter


@mechanism("gaussian")
@dataclass(frozen=True)
class Gaussian(Central):
    """User-level DP-FedAvg: (sum_i clip(x_i, C) + N(0, (z C)^2 I)) / (q n), noise drawn once, on the unweighted sum.

    The sum is divided by the public expectation q n, not by the number of clients that came: that number is private
    under Poisson sampling. Sum and noise are integers, multiples of C / 2^30, and the noise a discrete Gaussian: no
    rounding of floats leaks (Mironov 2012). McMahan et al. 2018 (arXiv 1710.06963), Algorithm 1, fixed denominator.
    """

    divisible: ClassVar[bool] = True

    clip_bound: float
    noise_multiplier: float
    expected_clients: float

    @classmethod
    def calibrated(cls, budget: Budget, *, rounds: int, clip_bound: float, clients: int) -> Gaussian:
        """With the least noise for that many rounds of `clients` clients, each sampled with budget.sampling."""
        noise = calibrate(epsilon=budget.epsilon, delta=budget.delta, sampling=budget.sampling, rounds=rounds)
        return cls(clip_bound, noise, budget.sampling * clients)

    def start(self) -> None:
        """No state."""

    def spent(self, rounds: int, budget: Budget) -> float:
        """The epsilon at budget.delta of so many rounds, adding or removing one client."""
        return spent_epsilon(
            noise_multiplier=self.noise_multiplier, delta=budget.delta, sampling=budget.sampling, rounds=rounds
        )

    def entry(self, round_number: int, budget: Budget, run: str = "") -> Entry:
        """One sum with noise z, of clients sampled with budget.sampling."""
        return Entry("gaussian", round_number, self.noise_multiplier, budget.sampling, run=run)

    def sample(
        self, clients: int, round_number: int, budget: Budget, randomness: Randomness = OPERATING_SYSTEM
    ) -> tuple[int, ...]:
        """Poisson: each client with probability budget.sampling, by itself."""
        del round_number
        return poisson_sample(clients, budget.sampling, randomness)

    def release(self, updates: Any, state: None = None, randomness: Randomness = OPERATING_SYSTEM) -> tuple[Release, None]:
        """The noisy mean of (m, d) updates, m >= 0. Raises ValueError for a NaN or infinite entry."""
        rows = as_rows(updates)
        grid, sigma = noise_grid(self.clip_bound, self.noise_multiplier)
        total = discrete_gaussian(randomness, rows.shape[1:], sigma)
        clipped = 0
        for row in rows:
            short, was_longer = shorten(row, self.clip_bound)
            total += grid.encode(short)
            clipped += was_longer
        std = self.noise_multiplier * self.clip_bound / self.expected_clients
        value = grid.decode(total) / self.expected_clients
        return Release(value, std, self.clip_bound, clipped, randomness.source), state


@mechanism("adaptive")
@dataclass(frozen=True)
class AdaptiveGaussian(Central):
    """`Gaussian` whose bound follows the private gamma-quantile of the norms: C <- C exp(-eta (b - gamma)).

    b is the share of norms within C, released with noise sigma_b on the count; the sum then takes the greater
    multiplier z_sum = (z^-2 - (2 sigma_b)^-2)^(-1/2), so that both together cost what z alone would.
    Andrew, Thakkar, McMahan & Ramaswamy 2021 (arXiv 1905.03871), Theorem 1 and Algorithm 1.
    """

    clip_bound: float
    """The first round's."""
    noise_multiplier: float
    """z: what is accounted."""
    expected_clients: float
    quantile: float = 0.5
    rate: float = 0.2
    count_noise: float | None = None
    """sigma_b; the larger of expected_clients / 20 and z where None."""

    @classmethod
    def calibrated(cls, budget: Budget, *, rounds: int, clip_bound: float, clients: int, **options: float) -> AdaptiveGaussian:
        """As `Gaussian.calibrated`; clip_bound is the first."""
        fixed = Gaussian.calibrated(budget, rounds=rounds, clip_bound=clip_bound, clients=clients)
        return cls(clip_bound, fixed.noise_multiplier, fixed.expected_clients, **options)

    @property
    def sigma_count(self) -> float:
        """sigma_b, which must be above z / 2."""
        return max(self.expected_clients / 20, self.noise_multiplier) if self.count_noise is None else self.count_noise

    @property
    def sum_noise_multiplier(self) -> float:
        """z_sum. Raises ValueError where sigma_b <= z / 2: the count alone would cost more than z."""
        rest = self.noise_multiplier**-2 - (2 * self.sigma_count) ** -2
        if rest <= 0:
            raise ValueError(
                f"count_noise must be above half the noise multiplier, {self.noise_multiplier / 2:.4g}; "
                f"got {self.sigma_count:.4g}"
            )
        return rest**-0.5

    def start(self) -> float:
        """The first bound."""
        check_bound(self.clip_bound)
        return self.clip_bound

    def spent(self, rounds: int, budget: Budget) -> float:
        """As `Gaussian.spent`: sum and count together cost what z alone would."""
        return Gaussian(self.clip_bound, self.noise_multiplier, self.expected_clients).spent(rounds, budget)

    def entry(self, round_number: int, budget: Budget, run: str = "") -> Entry:
        """Sum and count together, as one sum with noise z."""
        return Entry("adaptive", round_number, self.noise_multiplier, budget.sampling, run=run)

    def sample(
        self, clients: int, round_number: int, budget: Budget, randomness: Randomness = OPERATING_SYSTEM
    ) -> tuple[int, ...]:
        """Poisson: each client with probability budget.sampling, by itself."""
        del round_number
        return poisson_sample(clients, budget.sampling, randomness)

    def release(
        self, updates: Any, state: float | None = None, randomness: Randomness = OPERATING_SYSTEM
    ) -> tuple[Release, float]:
        """The noisy mean at the bound of the state, and the next bound."""
        bound = self.start() if state is None else state
        inner = Gaussian(bound, self.sum_noise_multiplier, self.expected_clients)
        rows = as_rows(updates)
        released, _ = inner.release(rows, None, randomness)
        within = len(rows) - released.clipped
        noise = float(discrete_gaussian(randomness, (1,), self.sigma_count * 2**COUNT_BITS)[0]) / 2**COUNT_BITS
        share = (within - len(rows) / 2 + noise) / self.expected_clients + 0.5  # halves of a count and noise on one grid
        return released, bound * math.exp(-self.rate * (share - self.quantile))


@mechanism("local")
@dataclass(frozen=True)
class LocalGaussian:
    """Local DP: each client sends clip(x_i, C) + N(0, (s C)^2 I), and the server, which need not be trusted, averages.

    Neighbours are any two updates of one client, up to 2 C apart. `noise_multiplier` is s, by the analytic Gaussian
    mechanism: Balle & Wang 2018 (arXiv 1805.06530), Algorithm 1, valid for every epsilon. Update and noise are integers,
    multiples of a public step, as in `Gaussian`.
    """

    local: ClassVar[bool] = True
    accounted: ClassVar[bool] = False
    divisible: ClassVar[bool] = False
    correlated: ClassVar[bool] = False
    expected_clients: ClassVar[float] = 1.0

    clip_bound: float
    noise_multiplier: float

    @classmethod
    def calibrated(cls, budget: Budget, *, rounds: int, clip_bound: float, clients: int) -> LocalGaussian:
        """With the least noise for a client that takes part in every one of that many rounds."""
        del clients
        once = gaussian_noise(budget.epsilon, budget.delta, sensitivity=2.0)
        return cls(clip_bound, once * math.sqrt(max(rounds, 1)))

    def start(self) -> None:
        """No state."""

    def spent(self, rounds: int, budget: Budget) -> float:
        """The epsilon at budget.delta of a client that took part in every round: the server sees who is sampled."""
        return gaussian_epsilon(2 * math.sqrt(rounds) / self.noise_multiplier, budget.delta)

    def advice(self, budget: Budget) -> str:
        """None needs no trust in the server."""
        del budget
        return ""

    def privatize(self, update: Any, randomness: Randomness = OPERATING_SYSTEM) -> Vector:
        """What one client sends in place of its (d,) update."""
        short = clip(update, self.clip_bound)
        grid, sigma = noise_grid(self.clip_bound, self.noise_multiplier)
        return grid.decode(grid.encode(short) + discrete_gaussian(randomness, short.shape, sigma))

    def entry(self, round_number: int, budget: Budget, run: str = "") -> Entry:
        """A client in every round, whose updates may be 2 C apart: noise s / 2 in units of that distance."""
        del budget
        return Entry("local", round_number, self.noise_multiplier / 2, 1.0, run=run)

    def sample(
        self, clients: int, round_number: int, budget: Budget, randomness: Randomness = OPERATING_SYSTEM
    ) -> tuple[int, ...]:
        """Poisson: each client with probability budget.sampling, by itself."""
        del round_number
        return poisson_sample(clients, budget.sampling, randomness)

    def release(self, updates: Any, state: None = None, randomness: Randomness = OPERATING_SYSTEM) -> tuple[Release, None]:
        """The mean of m privatized updates. Raises ValueError where m = 0: there is nothing to average."""
        rows = as_rows(updates)
        if not len(rows):
            raise ValueError("local differential privacy needs at least one client in a round; got none")
        value, clipped = np.zeros(rows.shape[1]), 0
        for row in rows:
            value += self.privatize(row, randomness) / len(rows)
            clipped += shorten(row, self.clip_bound)[1]
        std = self.noise_multiplier * self.clip_bound / math.sqrt(len(rows))
        return Release(value, std, self.clip_bound, clipped, randomness.source), state


def noise_grid(clip_bound: float, noise_multiplier: float, bits: int = GRID_BITS) -> tuple[FixedPoint, float]:
    """The grid of sums and noise, of step clip_bound / 2^bits or coarser, and the deviation of the noise in its steps.

    Raises ValueError for a noise multiplier that is not positive and finite.
    """
    if not 0 < noise_multiplier < math.inf:
        raise ValueError(f"the noise multiplier must be positive and finite; got {noise_multiplier}")
    fitting = math.floor(math.log2(LARGEST_SIGMA / noise_multiplier))
    if fitting < 1:
        raise ValueError(f"noise of {noise_multiplier:.3g} clip bounds leaves nothing of an update: lower the noise multiplier")
    fine = min(bits, fitting)
    return FixedPoint(clip_bound / 2**fine, 2**fine), noise_multiplier * 2.0**fine


def as_rows(updates: Any) -> npt.NDArray[Any]:
    """The updates as (m, d), m >= 0; ValueError where they are not."""
    rows = np.asarray(updates)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(
            f"updates must be (m, d), one row a client; got shape {rows.shape}. "
            "Where nobody was sampled pass numpy.empty((0, d))"
        )
    return rows
