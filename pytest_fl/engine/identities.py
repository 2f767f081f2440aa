"""`identify`: which rule is this? Its answers compared with every definition and every known mistake."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Unpack

import numpy as np
import numpy.typing as npt

from pytest_fl.adapters import as_subject
from pytest_fl.adapters.options import Options
from pytest_fl.oracles.variants import Variant, variants
from pytest_fl.subjects.guard import Hung, Misbehaved, Rule

if TYPE_CHECKING:
    from pytest_fl.subjects.subject import Subject

Floats = npt.NDArray[np.float64]
PAIRS: Final = ((11, 2), (7, 1), (15, 3), (13, 2), (12, 1), (16, 3), (9, 3), (49, 1), (55, 7))
"""(n, f) at which n-f-2, n-2f and small constants are different numbers, and int(f / n * n) is f - 1 at the last two."""
MANY: Final = 16
SLOW: Final = 0.005
"""Seconds of a call up to MANY clients, beyond which no more are tried."""
SECONDS: Final = 4.0
"""For all answers; then what was answered must do."""
FEWEST: Final = 3
"""Rounds on which a rule must have answered for anything to be said of it."""
BY_DISTANCE: Final = ("Krum", "Bulyan", "NNM", "MDA", "MVA", "SMEA", "medoid", "nearest")
"""Words in the names of rules that compare distances."""
FAR: Final = 3e8
"""Distance from the origin at which a difference of squared norms has lost the spread, in float64."""


@dataclass(frozen=True)
class Identity:
    """What a rule was seen to be."""

    name: str
    """The definition that it agrees with everywhere, or the nearest one."""
    agrees: int
    """Rounds on which it does."""
    rounds: int
    remark: str = ""
    """What sets it apart: distances that cancel far from the origin."""

    @property
    def known(self) -> bool:
        """Whether it agrees everywhere."""
        return self.rounds > 0 and self.agrees == self.rounds

    def __str__(self) -> str:
        """A sentence's part: "Multi-Krum with n-f-2 neighbours and m = n-f"."""
        if not self.rounds:
            return "unknown: it answered on too few rounds"
        nearest = f"; the nearest is {self.name} ({self.agrees} of {self.rounds})" if 2 * self.agrees > self.rounds else ""
        text = self.name if self.known else f"no rule known here{nearest}"
        return ", ".join(filter(None, (text, self.remark)))


def identify(rule: object, **options: Unpack[Options]) -> Identity:
    """What a rule is, from its answers alone: `print(identify(my_rule))`; options as for `verify`.

    Raises ValueError for what is no rule.
    """
    return identity(Rule(as_subject(rule, **options)))


def identity(rule: Rule) -> Identity:
    """The same of a guarded rule; found once for each."""
    if "identity" not in rule.cache:
        rule.cache["identity"] = _identity(rule)
    return rule.cache["identity"]


def published_minimum(name: str) -> Callable[[int], int] | None:
    """f -> the clients that the named rule needs by its paper, where that is more than 2f + 1.

    Blanchard et al. (2017): 2f + 2 < n for Krum; El Mhamdi et al. (2018): n >= 4f + 3 for Bulyan.
    """
    if name.startswith("Bulyan"):
        return lambda f: 4 * f + 3
    return (lambda f: 2 * f + 3) if "Krum with n-f-2 neighbours" in name else None


def _identity(rule: Rule) -> Identity:
    answered = list(_answered(rule))
    if len(answered) < FEWEST:
        return Identity("", 0, 0)
    best, most = "", -1
    for variant in variants():
        agrees = _agreements(variant, answered)
        if agrees == len(answered):
            return Identity(variant.name, agrees, agrees, _remark(rule, variant))
        if agrees > most:
            best, most = variant.name, agrees
    return Identity(best, most, len(answered))


def _answered(rule: Rule) -> Iterator[tuple[Floats, int, Floats]]:
    """Rounds in general position, with the rule's answers; those that it refuses are left out."""
    slowest, until = 0.0, time.monotonic() + SECONDS
    for index, (x, f) in enumerate(sorted(_rounds(rule.subject), key=lambda round_: len(round_[0]))):
        if slowest > SLOW and len(x) > MANY:
            return  # a search over subsets does not come back
        if time.monotonic() > until and index:
            return
        started = time.process_time()
        try:
            yield x, f, rule(x, f)
            slowest = max(slowest, time.process_time() - started)
        except Hung:
            return
        except Misbehaved:
            if index > 2 * len(PAIRS):
                return


def _rounds(subject: Subject) -> Iterator[tuple[Floats, int]]:
    d = min(4, subject.most_d or 4)
    pairs = PAIRS if subject.fixed_f is None else tuple((n, subject.fixed_f) for n in (11, 13, 15, 16, 20))
    for lap, reach in enumerate((1.5, 6.0, 0.0, 3.0, 0.5)):
        for n, f in pairs:
            if subject.takes(n, f) and (n <= MANY or lap < 2):
                rng = np.random.default_rng([31, lap, n, f])
                x = rng.standard_normal((n, d if lap % 2 == 0 else min(d, 2))) + 0.5
                x[rng.permutation(n)[:f]] += reach * rng.standard_normal(x.shape[1])
                yield x, f


def _agreements(variant: Variant, answered: Sequence[tuple[Floats, int, Floats]]) -> int:
    """On how many rounds; where it says nothing of one it is not the rule, unless its search is too long there."""
    agrees, judged, missed = 0, 0, 0
    for x, f, answer in answered:
        if missed > 3 and not agrees:
            return 0
        try:
            answers = variant.answers(x, f)
        except (IndexError, ValueError):
            answers = np.empty((0, x.shape[1]))
        if not len(answers):
            agrees += len(x) > MANY  # too many subsets to search
            missed += len(x) <= MANY
            continue
        judged += 1
        close = np.abs(answers - answer).max(1).min() <= 2e-5 * max(float(np.ptp(x)), float(np.abs(answer).max()))
        agrees += bool(close)
        missed += not close
    return agrees if judged else 0


def _remark(rule: Rule, variant: Variant) -> str:
    """Whether it is still that rule far from the origin, where the Gram matrix of rows that are not centred has no digits."""
    if not any(word in variant.name for word in BY_DISTANCE):
        return ""  # an iteration loses digits there too, by no Gram matrix
    for x, f in _rounds(rule.subject):
        if len(x) > MANY:
            continue
        far = x + FAR
        try:
            answer = rule(far, f)
            answers = variant.answers(far, f)
        except (Misbehaved, IndexError, ValueError):
            continue
        if len(answers) and np.abs(answers - answer).max(1).min() > 1e-3 * float(np.ptp(x)) and not _float32(rule):
            return "distances cancel far from the origin: by the Gram matrix of rows that are not centred"
    return ""


def _float32(rule: Rule) -> str:
    from pytest_fl.inputs.precision import narrows  # noqa: PLC0415  # it explores the grid, which few rules need here

    return narrows(rule)
