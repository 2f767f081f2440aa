"""The rule that it claims to be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fl.checks import Bound, check
from pytest_fl.inputs import corpus
from pytest_fl.oracles.coefficient import rounding
from pytest_fl.oracles.definitions import DEFINITIONS
from pytest_fl.oracles.theory import rule_theory
from pytest_fl.subjects.guard import Rule
from pytest_fl.subjects.profiles import Profile
from pytest_fl.subjects.round import Round
from pytest_fl.subjects.subject import Subject


def has_definition(subject: Subject) -> str:
    """Whether it claims to be a rule that is defined here."""
    if subject.rule is None:
        return "it does not claim to be a known rule; pass claims="
    return "" if rule_theory(subject.rule).name in DEFINITIONS else f"no definition of {subject.rule} to compare with"


def _few_clients(rule: Rule, profile: Profile) -> Iterator[Round]:
    """General position, and no more clients than a search over all subsets can afford."""
    yield from (round_ for round_ in corpus.generic(rule, profile) if round_.n <= 10)


@check(rounds=_few_clients, needs=has_definition)
def definition(rule: Rule, round_: Round) -> Bound | None:
    """The result is what the definition of the claimed rule gives, or one of its tied answers."""
    if rule.subject.rule is None or not rule.takes(round_.n, round_.f):
        return None
    x = round_.updates.astype(np.float64)
    answers = DEFINITIONS[rule_theory(rule.subject.rule).name](x, round_.f)
    if not len(answers):
        return None
    error = float(np.abs(answers - rule(round_.updates, round_.f)).max(1).min())
    # 1e-6 of the spread is for rules that iterate: a step of that size changes the cost by 1e-12 of itself.
    iteration = 1e-6 * float(np.ptp(x))
    return Bound(error, rounding(round_.n, round_.d, round_.updates.dtype, float(np.abs(x).max())) + iteration)
