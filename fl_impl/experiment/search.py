"""The strongest attack on a rule that a search finds: successive halving over attacks, factors, start and duration."""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fl_impl.attacks import ALL
from fl_impl.attacks.registry import resolve
from fl_impl.experiment.grid import NONE, Trial, TrialGrid, kept, parallel, run_trial
from fl_impl.tasks import named

RULES: Final = ("mean", "krum", "coordinate_median", "trimmed_mean", "geometric_median", "nnm|trimmed_mean")
"""What is compared where nobody says."""
SUITE: Final = ("sign_flip", "a_little_is_enough", "inner_product_manipulation", "min_max", "mimic", "label_flip")
"""Attacks with the defaults of their authors, against which every rule is run."""
LEAST_BUDGET: Final = 8
HELD_OUT: Final = 1000
"""The first seed of the search. The figures of a comparison are of seeds below, which the search never sees."""
FACTORS: Final = (1.0, 4.0, 0.25, 2.0, 0.5, 10.0, 0.1)
"""Tried of an attack with a factor, the first one first."""
LEFT_OUT: Final = frozenset({"waiting", "optimized", "worst_case", "non_finite", "zero", "drop_out", "stale", "inflated_count"})
"""Not candidates by themselves: `waiting` comes in by the survivors, the white boxes below, the rest are faults that screening
or a quorum meets."""
VARIANTS: Final = (
    "optimized(attack='inner_product_manipulation', objective='descent', evaluations=16)",
    "optimized(attack='a_little_is_enough', evaluations=16)",
    "worst_case(objective='descent', evaluations=48)",
    "min_max(along='unit')",
    "min_max(along='sign')",
    "min_sum(along='unit')",
    "a_little_is_enough(sign=1, z=1.5)",
    "label_flip|model_replacement(gamma=4.0)",
)
"""Candidates beside every attack with its defaults and factors."""


@dataclass(frozen=True)
class Found:
    """The attack that cost a rule most on the held-out seeds, and what the search looked at."""

    attack: str
    """A spec: any federation can be run under it."""
    accuracy: float
    """Mean over the held-out seeds that it was tried on."""
    clean: float
    """Of the rule's clean runs on the same seeds."""
    seeds: tuple[int, ...]
    federations: int
    """How many were run or read again."""
    tried: Mapping[str, float] = field(default_factory=dict[str, float])
    """Attack -> its mean accuracy."""

    @property
    def lost(self) -> float:
        """Points of 100 against the clean runs."""
        return 100 * (self.clean - self.accuracy)


def candidates(families: Iterable[str] | None = None) -> list[str]:
    """Specs to begin with: each family's defaults first, then its factors in turn, then the variants.

    families: names of attacks, or specs that are tried as they are; every attack on updates or data where None.
    """
    names = [name for name, made in ALL.items() if made.kind != "protocol" and name not in LEFT_OUT]
    chosen = names if families is None else list(families)
    lines = [_strengths(spec) if spec in ALL else [spec] for spec in chosen]
    turns = [spec for turn in itertools.zip_longest(*lines) for spec in turn if spec is not None]
    extra = VARIANTS if families is None else ()
    return list(dict.fromkeys([*turns[: len(lines)], *extra, *turns[len(lines) :]]))


def _strengths(name: str) -> list[str]:
    factor = ALL[name].factor
    return [name, *(f"{name}({factor}={value})" for value in FACTORS)] if factor else [name]


def neighbours(spec: str, rounds: int) -> list[str]:
    """The same attack somewhat stronger and weaker, and one that waits, or stops."""
    attack = resolve(spec)
    around: list[str] = []
    value = attack.options.get(attack.factor) if attack.factor else None
    if attack.factor and isinstance(value, int | float):
        around = [attack.configured(**{attack.factor: round(value * by, 4)}).spec for by in (1.5, 0.67)]
    if attack.name == "waiting" or attack.stages("data") or attack.kind == "protocol":
        return around
    later = [f"waiting(attack={spec!r}, start={start}, rounds={length})" for start, length in _times(rounds)]
    return [*around, *later]


def _times(rounds: int) -> list[tuple[int, int | None]]:
    return [(rounds // 2, None), (max(rounds - 10, 1), None), (0, max(rounds // 4, 1))]


class Book:
    """What is known of each attack: its accuracy on each held-out seed; federations are counted."""

    def __init__(self, rule: str, settings: Mapping[str, Any], fraction: float, folder: Path) -> None:
        self.rule, self.settings, self.fraction, self.folder = rule, dict(settings), fraction, folder
        self.known: dict[str, dict[int, float]] = {}
        self.federations = 0

    def measure(self, specs: Iterable[str], seeds: Iterable[int], budget: int) -> None:
        """Run each attack on each seed, as far as the budget goes; what lies in the folder is read."""
        for seed, spec in itertools.product(seeds, specs):
            if seed in self.known.get(spec, {}) or self.federations >= budget:
                continue
            trial = Trial(self.rule, spec, self.fraction, seed, self.settings)
            metrics = kept(trial, self.folder) or run_trial(trial, self.folder)
            self.federations += 1
            # A federation that an attack stopped in its first round has learnt nothing.
            self.known.setdefault(spec, {})[seed] = metrics.rounds[-1].accuracy if metrics.rounds else 0.0

    def mean(self, spec: str) -> float:
        """Over the seeds that it was tried on; inf before."""
        return statistics.fmean(self.known[spec].values()) if spec in self.known else math.inf

    def best(self, specs: Iterable[str], count: int) -> list[str]:
        """Those that left least accuracy."""
        return sorted((spec for spec in specs if spec in self.known), key=self.mean)[: max(count, 1)]


def strongest(
    rule: str,
    task: str | Mapping[str, Any],
    *,
    fraction: float = 0.2,
    families: Sequence[str] | None = None,
    budget: int = 60,
    folder: str | Path = "fl_compare",
) -> Found:
    """The attack that leaves a rule least accuracy on a task, among at most `budget` federations on held-out seeds.

    Half of the budget tries the candidates on one seed; the best quarter stays, and variations of the best few join it: other
    factors, attackers that wait or stop. From then on each rung adds a seed and keeps the better half (successive halving,
    Jamieson & Talwalkar 2016, arXiv 1502.07943). White-box attacks are told the rule. task: a name, or settings of FLConfig.
    folder: results lie in its `runs`, so that a search that was stopped goes on. Raises ValueError where no candidate is left.
    """
    settings = named(task).configured({}) if isinstance(task, str) else dict(task)
    check_budget(budget)
    book, rounds = Book(rule, settings, fraction, Path(folder)), int(settings.get("num_rounds", 10))
    pool = candidates(families)[: budget // 2]
    if not pool:
        raise ValueError("there is no attack to try: give families, such as ['sign_flip', 'min_max']")
    book.measure(pool, [HELD_OUT], budget)
    pool = book.best(pool, len(pool) // 4)
    near = [spec for best in pool[:3] for spec in neighbours(best, rounds)][: budget // 4]
    book.measure(near, [HELD_OUT], budget)
    pool, seeds = book.best(dict.fromkeys([*pool, *near]), len(pool)), [HELD_OUT]
    while len(pool) > 1 and book.federations + len(pool) <= budget:
        seeds.append(seeds[-1] + 1)
        book.measure(pool, seeds, budget)
        pool = book.best(pool, len(pool) // 2)
    won, clean = pool[0], Book(rule, settings, fraction, Path(folder))
    clean.measure([NONE], book.known[won], budget)
    tried = {spec: book.mean(spec) for spec in book.known}
    return Found(won, book.mean(won), clean.mean(NONE), tuple(book.known[won]), book.federations + clean.federations, tried)


def check_budget(budget: int) -> None:
    """Raise ValueError for a search that would not get beyond its first candidates."""
    if budget < LEAST_BUDGET:
        raise ValueError(f"the budget of a search is its number of federations, {LEAST_BUDGET} at least; got {budget}")


def search_all(
    grid: TrialGrid, folder: Path, pairs: Sequence[tuple[str, float]], *, budget: int, workers: int | None = None
) -> Iterator[tuple[str, float, str]]:
    """(rule, fraction, the attack found) for each pair, as the searches end."""
    calls = [(rule, grid.settings, fraction, budget, folder) for rule, fraction in pairs]
    for (rule, fraction), found in parallel(_search, calls, pairs, workers or os.cpu_count() or 1):
        yield rule, fraction, found.attack


def _search(rule: str, settings: Mapping[str, Any], fraction: float, budget: int, folder: Path) -> Found:
    return strongest(rule, settings, fraction=fraction, budget=budget, folder=folder)
