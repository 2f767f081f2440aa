"""The one-run empirical audit: a lower bound of epsilon from canaries, beside the upper bound that is claimed.

Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846): each of m canaries is in or out by a fair coin, all in one run; whoever sees
the output guesses. Under (epsilon, delta) no more guesses are right than of a binomial law, but for delta m.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.guard import as_vector
from pytest_fl.subjects.parts import Mechanism

if TYPE_CHECKING:
    from fl_impl import FLConfig

Reals = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]

CANARIES: Final = 400
ROUNDS: Final = 3
DELTA: Final = 1e-10
UNLIKELY: Final = 1e-6
"""The probability with which the bound is above the true epsilon."""
LARGEST: Final = 50.0
"""Where the search for the bound ends."""


def lower_epsilon(scores: Reals, present: Coins, *, delta: float, significance: float = 0.05) -> float:
    """The epsilon that canaries prove, but for a chance of `significance`: at least so much was spent. 0 where none is.

    scores: (m,), the higher the likelier that the canary was in; present: (m,), whether it was, by a fair coin each. The
    k highest are guessed to be in, and the k lowest out or nothing of them, for several k, each at its share of the
    significance.
    Theorem 5.2 of Steinke, Nasr & Jagielski 2023. Raises ValueError for fewer than two canaries, or lengths that differ.
    """
    m = len(scores)
    if m < 2 or len(present) != m:
        raise ValueError(f"expected scores and coins of the same two canaries or more; got {m} and {len(present)}")
    order = np.argsort(scores, kind="stable")
    sizes = sorted({max(1, m // 2 >> shift) for shift in range(5)})
    share = significance / (2 * len(sizes))
    best = 0.0
    for k in sizes:
        inside, outside = int(present[order[-k:]].sum()), int((~present[order[:k]]).sum())
        best = max(best, _proven(inside, k, m, delta, share), _proven(inside + outside, 2 * k, m, delta, share))
    return best


def _proven(right: int, guesses: int, m: int, delta: float, significance: float) -> float:
    """The largest epsilon under which so many right guesses are too unlikely."""
    low, high = 0.0, LARGEST
    if _chance(right, guesses, m, 0.0, delta) > significance:
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if _chance(right, guesses, m, middle, delta) <= significance else (low, middle)
    return low


def _chance(right: int, guesses: int, m: int, epsilon: float, delta: float) -> float:
    """The most that the probability of so many right guesses can be under (epsilon, delta)."""
    from scipy.stats import binom  # noqa: PLC0415  # loaded when a mechanism is judged

    law = binom(guesses, 1 / (1 + math.exp(-epsilon)))
    beyond = float(law.sf(right - 1))
    i = np.arange(1, m + 1)
    alpha = float((2 / i * (law.sf(right - 1 - i) - beyond)).max())
    return beyond + alpha * m * delta


def _can_be_run(part: Mechanism) -> str:
    if not part.spent:
        return "it states no price"
    return "" if part.run else "it has no rounds"


@audited(Mechanism, needs=_can_be_run)
def canaries_prove_no_more_than_the_price(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """What 400 canaries in one run prove to have been spent is not above what the rounds are said to cost."""
    assert part.spent is not None
    assert part.run is not None
    present = rng.random(CANARIES) < 0.5
    updates = np.diag(np.where(present, 1.0, 0.0 if part.removes else -1.0)) * part.clip_bound
    rounds = [updates[_chosen(part, number, rng)] for number in range(1, ROUNDS + 1)]
    released = part.run(rounds, int(rng.integers(2**31)))
    sums = [as_vector(value, CANARIES) * part.divisor(len(x)) for (value, *_), x in zip(released, rounds, strict=True)]
    proven = lower_epsilon(np.sum(sums, axis=0), present, delta=DELTA, significance=UNLIKELY)
    claimed = part.spent(ROUNDS, DELTA)
    yield Bound(proven, claimed, f"canaries prove epsilon >= {proven:.3g}, and {claimed:.3g} is claimed at delta={DELTA:g}")


def _chosen(part: Mechanism, number: int, rng: np.random.Generator) -> list[int]:
    if part.sample is None:
        return list(range(CANARIES))
    return [int(i) for i in part.sample(CANARIES, number, int(rng.integers(2**31)))]


@dataclass(frozen=True)
class CanaryAudit:
    """What canaries proved of one run, and what it claims."""

    proven: float
    """At least so much epsilon was spent, but for a chance of the significance."""
    claimed: float
    """What the run says it spent."""
    delta: float
    canaries: int

    @property
    def holds(self) -> bool:
        """proven <= claimed."""
        return self.proven <= self.claimed


@dataclass(frozen=True)
class Canary:
    """A client whose update is the clip bound along one coordinate, or nothing."""

    number: int
    d: int
    length: float
    inside: bool

    def fit(self, parameters: Any, round: int) -> Any:  # noqa: A002  # the protocol's name
        """The canary, the same in every round."""
        from fl_impl import ClientUpdate  # noqa: PLC0415  # as above

        del parameters, round
        delta = np.zeros(self.d, np.float32)
        delta[self.number] = self.length if self.inside else 0.0
        return ClientUpdate(delta, 1, 0.0)


def canary_audit(config: FLConfig, *, delta: float | None = None, significance: float = 0.05, seed: int = 0) -> CanaryAudit:
    """Run a whole private federation of canaries once: what its final model proves, beside the epsilon that it claims.

    config: an `FLConfig` with differential privacy, a server that adds up (`server_optimizer="sgd"`) and one attack-free mean.
    Each client is a canary along a coordinate of its own, at the clip bound, and is in or out by a fair coin; the score is
    what the final model has of it. delta: at which the bound is stated, dp_delta where not given. The bound is above the truth
    with a probability of `significance`. Raises ValueError for a configuration without privacy.
    """
    from fl_impl import FederatedLearningCoordinator  # noqa: PLC0415  # fl_impl is loaded when a federation is judged
    from fl_impl.training.models import Evaluation  # noqa: PLC0415  # as above

    guard = config.protection
    if guard is None or guard.budget is None:
        raise ValueError("expected a configuration with differential_privacy=True; there is no epsilon to audit here")
    m = config.num_clients
    present = np.random.default_rng([seed, 0xCA]).random(m) < 0.5
    clients = [Canary(i, m, guard.clip_bound, inside=bool(present[i])) for i in range(m)]
    coordinator = FederatedLearningCoordinator(
        config, parameters=np.zeros(m, np.float32), evaluate=lambda _: Evaluation(0.0, 0.0)
    )
    metrics = coordinator.run(clients, output=None)
    stated = guard.budget.delta if delta is None else delta
    proven = lower_epsilon(coordinator.parameters.astype(np.float64), present, delta=stated, significance=significance)
    return CanaryAudit(proven, float(metrics.final.epsilon or 0.0), stated, m)
