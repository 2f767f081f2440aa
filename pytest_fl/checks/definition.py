"""The rule that it claims to be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from pytest_fl.checks import Bound, check
from pytest_fl.inputs import corpus, sweep
from pytest_fl.oracles.coefficient import rounding
from pytest_fl.oracles.definitions import DEFINITIONS
from pytest_fl.oracles.theory import rule_theory
from pytest_fl.subjects.guard import Rule
from pytest_fl.subjects.profiles import Profile
from pytest_fl.subjects.round import Round
from pytest_fl.subjects.subject import Subject

SEARCHES: Final = frozenset({"minimum_diameter", "minimum_variance", "smea"})
"""Rules whose definition looks through all subsets of n - f rows."""
SUBSETS: Final = 1000


def has_definition(subject: Subject) -> str:
    """Whether it claims to be a rule that is defined here."""
    if subject.rule is None:
        return "it does not claim to be a known rule; pass claims="
    known = subject.definition is not None or rule_theory(subject.rule).name in DEFINITIONS
    return "" if known else f"no definition of {subject.rule} to compare with"


def _few_clients(rule: Rule, profile: Profile) -> Iterator[Round]:
    """General position: few clients, then 12 to 41 in up to 129 coordinates, as far as a search over subsets can afford."""
    yield from (round_ for round_ in corpus.generic(rule, profile) if round_.n <= 10)
    searches = rule.subject.rule in SEARCHES
    yield from (round_ for round_ in sweep.generic(rule, profile) if not searches or math.comb(round_.n, round_.f) <= SUBSETS)


@check(rounds=_few_clients, needs=has_definition)
def definition(rule: Rule, round_: Round) -> Bound | None:
    """The result is what the definition of the claimed rule gives, or one of its tied answers."""
    if rule.subject.rule is None or not rule.takes(round_.n, round_.f):
        return None
    x = round_.updates.astype(np.float64)
    answers = (rule.subject.definition or DEFINITIONS[rule_theory(rule.subject.rule).name])(x, round_.f)
    if not len(answers):
        return None
    error = float(np.abs(answers - rule(round_.updates, round_.f)).max(1).min())
    # 1e-6 of the spread is for rules that iterate: a step of that size changes the cost by 1e-12 of itself.
    iteration = 1e-6 * float(np.ptp(x))
    return Bound(error, rounding(round_.n, round_.d, round_.updates.dtype, float(np.abs(x).max())) + iteration)
