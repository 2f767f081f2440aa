"""What a grid of federations shows: accuracy and its spread over seeds, the strongest attack, ranks, the breakdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fl_impl.experiment.grid import NONE, Trial

if TYPE_CHECKING:
    from fl_impl.metrics import FLMetrics, RoundResult

DRAWS: Final = 4000
"""Bootstrap samples; they are drawn from a fixed seed, so that a table is the same whenever it is made."""
KEPT: Final = 0.9
"""The share of the clean accuracy that a rule keeps where it has not broken down."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval; NaN bounds where there are fewer than two values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "failed"
        spread = "" if math.isnan(self.low) else f" [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{100 * self.mean:.1f}{spread}"


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of the values that are numbers, with the percentile bootstrap's 95 % interval (Efron & Tibshirani 1993)."""
    known = np.array([value for value in values if not math.isnan(value)])
    if len(known) < 2:
        return Estimate(float(known[0]) if len(known) else math.nan, math.nan, math.nan)
    drawn = np.random.default_rng(0).integers(0, len(known), (DRAWS, len(known)))
    low, high = np.quantile(known[drawn].mean(axis=1), (0.025, 0.975))
    return Estimate(float(known.mean()), float(low), float(high))


@dataclass(frozen=True)
class Headline:
    """A rule under the attack that cost it most."""

    attack: str
    accuracy: Estimate
    clean: Estimate

    @property
    def lost(self) -> float:
        """Points of 100 against the rule's own clean run."""
        return 100 * (self.clean.mean - self.accuracy.mean)


@dataclass(frozen=True)
class Comparison:
    """The results of a grid, looked up by aggregator, attack and fraction."""

    results: Mapping[Trial, FLMetrics]

    @property
    def aggregators(self) -> list[str]:
        """In the order in which they were asked for."""
        return list(dict.fromkeys(trial.aggregator for trial in self.results))

    @property
    def attacks(self) -> list[str]:
        """In the order in which they were asked for, "none" first."""
        return list(dict.fromkeys(trial.attack for trial in self.results))

    @property
    def shared_attacks(self) -> list[str]:
        """Those that every aggregator met at every fraction: all but the ones that were searched for one rule."""
        met = {(t.aggregator, t.attack, t.fraction) for t in self.results}
        everybody = [(rule, fraction) for rule in self.aggregators for fraction in self.fractions]
        return [a for a in self.attacks if all((rule, a, fraction) in met for rule, fraction in everybody)]

    @property
    def fractions(self) -> list[float]:
        """The Byzantine fractions of the grid, ascending."""
        return sorted({trial.fraction for trial in self.results})

    @property
    def seeds(self) -> list[int]:
        """The seeds of the grid, ascending."""
        return sorted({trial.seed for trial in self.results})

    def runs(self, aggregator: str, attack: str, fraction: float) -> list[FLMetrics]:
        """The metrics of these settings, one for each seed."""
        wanted = (aggregator, attack, fraction)
        return [metrics for t, metrics in self.results.items() if (t.aggregator, t.attack, t.fraction) == wanted]

    def accuracies(self, aggregator: str, attack: str, fraction: float) -> list[float]:
        """After the last round, one for each seed in ascending order; NaN where a run got through no round."""
        wanted = (aggregator, attack, fraction)
        found = {t.seed: m for t, m in self.results.items() if (t.aggregator, t.attack, t.fraction) == wanted}
        return [found[seed].rounds[-1].accuracy if found[seed].rounds else math.nan for seed in sorted(found)]

    def estimate(self, aggregator: str, attack: str, fraction: float) -> Estimate:
        """The accuracy after the last round, with its interval over the seeds."""
        return estimate(self.accuracies(aggregator, attack, fraction))

    def accuracy(self, aggregator: str, attack: str, fraction: float) -> float:
        """After the last round, mean over the seeds; NaN where no run got through a round."""
        return self.estimate(aggregator, attack, fraction).mean

    def worst(self, aggregator: str, fraction: float) -> float:
        """Under the attack that hurts most."""
        return self.headline(aggregator, fraction).accuracy.mean

    def headline(self, aggregator: str, fraction: float) -> Headline:
        """The attack with the least mean accuracy, the searched ones among them, and the clean run beside it."""
        known = [(self.estimate(aggregator, attack, fraction), attack) for attack in self.attacks]
        met = [(found, attack) for found, attack in known if not math.isnan(found.mean)]
        clean = self.estimate(aggregator, NONE, fraction)
        found, attack = min(met, key=lambda pair: pair[0].mean, default=(Estimate(*[math.nan] * 3), NONE))
        return Headline(attack, found, clean)

    def breakdown(self, aggregator: str) -> float:
        """The largest fraction of the grid up to which 90 % of the clean accuracy is kept under every attack; 0 if none is."""
        held = 0.0
        for fraction in self.fractions:
            line = self.headline(aggregator, fraction)
            if not line.accuracy.mean >= KEPT * line.clean.mean:
                break
            held = fraction
        return held

    def ranks(self, fraction: float) -> dict[str, int]:
        """Aggregator -> 1 + how many are better than it under their strongest attacks, seed by seed.

        Better: the 95 % interval of the difference, paired over the seeds, lies above 0. All others are ties.
        """
        series = {rule: self.accuracies(rule, self.headline(rule, fraction).attack, fraction) for rule in self.aggregators}
        return {rule: 1 + sum(better(other, own) for other in series.values()) for rule, own in series.items()}

    def course(self, aggregator: str, attack: str, fraction: float) -> list[tuple[float, Estimate]]:
        """(round, accuracy with its interval over the seeds), as far as all of them went."""
        runs = self.runs(aggregator, attack, fraction)
        lines: list[tuple[RoundResult, ...]] = list(zip(*(run.rounds for run in runs), strict=False))
        return [(float(line[0].round), estimate([result.accuracy for result in line])) for line in lines]


def better(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the paired differences one - other have an interval above 0; with one seed, whether the difference is."""
    if len(one) != len(other):
        return False
    found = estimate([a - b for a, b in zip(one, other, strict=True)])
    return found.mean > 0 if math.isnan(found.low) else found.low > 0
