"""What makes a rule robust: exact where the honest agree, bounded where they do not, within its constant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np

from pytest_fl.checks import Bound, check
from pytest_fl.inputs import corpus
from pytest_fl.inputs.adversary import hunt
from pytest_fl.oracles.coefficient import deviation, rounding
from pytest_fl.oracles.theory import WorstInput, all_worst_inputs, most_of_any_rule, rule_theory, worst_inputs
from pytest_fl.subjects.guard import Hung, Misbehaved, Rule, as_vector
from pytest_fl.subjects.profiles import Profile
from pytest_fl.subjects.round import STORED, Round
from pytest_fl.subjects.subject import Subject

SEARCH = 1500
"""Evaluations in which the adversary reaches 0.99 of every exact kappa at n <= 11; `scripts/worst_cases.py` prints them."""


def is_robust(subject: Subject) -> str:
    """Whether anything is expected of it under attack: a rule that claims kappa = infinity claims nothing."""
    if subject.kappa is not None and all(math.isinf(subject.kappa(n, 1)) for n in range(subject.min_clients(1), 42)):
        return "it claims no finite kappa for f >= 1"
    return ""


def is_exact(subject: Subject) -> str:
    """Whether it must give the row on which n - f agree: as every rule with a finite kappa, or by a claim of its own."""
    return "" if "exactness" in (subject.symmetries or ()) else is_robust(subject)


def claims_kappa(subject: Subject) -> str:
    """Whether a coefficient is claimed."""
    return is_robust(subject) if subject.kappa is not None else "no kappa is claimed; pass kappa= or claims="


def claims_exact(subject: Subject) -> str:
    """Whether the coefficient is claimed to be the exact one, and its worst inputs are known."""
    if subject.kappa is None or subject.rule is None or not subject.exact:
        return "no exact kappa is claimed"
    return "" if worst_inputs(rule_theory(subject.rule).stored) else "no worst inputs are stored for this rule"


def promises(rule: Rule, round_: Round) -> bool:
    """Whether the rule says anything at this (n, f)."""
    kappa = rule.subject.kappa
    return rule.takes(round_.n, round_.f) and (kappa is None or math.isfinite(kappa(round_.n, round_.f)))


def _exact(rule: Rule, round_: Round) -> Bound | None:
    honest = round_.honest
    exact = "exactness" in (rule.subject.symmetries or ()) and rule.takes(round_.n, round_.f)
    if round_.f == 0 or not (exact or promises(rule, round_)) or (honest != honest[0]).any():
        return None
    value = honest[0].astype(np.float64)
    # Where the honest rows are zero there is no honest size: then the outliers' own, which are ordinary, must do.
    size = float(np.abs(value).max()) or float(np.abs(round_.updates).max())
    if "scaled" not in round_.tags:
        size = max(size, 1.0)  # an iteration may end at an absolute tolerance, where numbers are ordinary
    error = np.abs(rule(round_.updates, round_.f) - value)
    return Bound(float(error.max()), rounding(round_.n, round_.d, round_.updates.dtype, size))


@check(rounds=corpus.unanimous, needs=is_exact, search="unanimous")
def exactness(rule: Rule, round_: Round) -> Bound | None:
    """n - f equal rows give that row, whatever the other f send and wherever they stand."""
    return _exact(rule, round_)


@check(rounds=corpus.nobody_attacks, needs=is_exact)
def nobody_attacks(rule: Rule, round_: Round) -> Bound | None:
    """With f = 0 and n equal rows the result is that row, or a refusal of f = 0: [f:-f] is empty there."""
    if round_.f or (round_.updates != round_.updates[0]).any():
        return None
    try:
        result = rule.raw(round_.updates, 0)
    except Hung:
        raise
    except Misbehaved:
        return None  # it refuses to be called where nobody attacks
    error = np.abs(as_vector(result, round_.d) - round_.updates[0].astype(np.float64))
    size = float(np.abs(round_.updates).max())
    return Bound(float(error.max()), rounding(round_.n, round_.d, round_.updates.dtype, size))


@check(rounds=corpus.many_clients, needs=is_exact)
def many_clients(rule: Rule, round_: Round) -> Bound | None:
    """n - f equal rows give that row for 15 to 100 clients too, also where f / n * n truncates in float arithmetic."""
    return _exact(rule, round_)


@check(rounds=corpus.many_coordinates, needs=is_exact)
def many_coordinates(rule: Rule, round_: Round) -> Bound | None:
    """n - f equal rows give that row in 63 to 70 000 coordinates too, to the last of them."""
    return _exact(rule, round_)


@check(rounds=corpus.every_scale, needs=is_exact)
def every_scale(rule: Rule, round_: Round) -> Bound | None:
    """n - f equal rows give that row when everything is 1e-30 or 1e30 times as large too."""
    return _exact(rule, round_)


@check(needs=is_robust, search="rounds", adversary=True)
def boundedness(rule: Rule, round_: Round) -> Bound | None:
    """However far f colluders go, the result stays within some radii of the honest mean."""
    if round_.f == 0 or not promises(rule, round_):
        return None
    claimed = rule.subject.kappa(round_.n, round_.f) if rule.subject.kappa else 0.0
    allowed = max(claimed, most_of_any_rule(round_.n, round_.f))
    found = deviation(rule(round_.updates, round_.f), round_, allowed, every_set=False)
    return Bound(found.distance, found.limit(allowed))


@check(rounds=corpus.huge_outliers, needs=is_robust)
def huge_outliers(rule: Rule, round_: Round) -> Bound | None:
    """A finite row of any size, up to the dtype's limit, is an outlier and no more."""
    return _exact(rule, round_) if (round_.honest == round_.honest[0]).all() else boundedness(rule, round_)


@check(rounds=corpus.far_from_origin, needs=is_robust)
def far_from_origin(rule: Rule, round_: Round) -> Bound | None:
    """Honest rows that differ little around a far point are still told from outliers at some radii."""
    return boundedness(rule, round_)


def _worst_then_corpus(rule: Rule, profile: Profile) -> Iterator[Round]:
    """The worst inputs of this rule, those of all others (a part of them in the quick profile), then the corpus."""
    own = worst_inputs(rule_theory(rule.subject.rule).stored) if rule.subject.rule else []
    others = all_worst_inputs()[:: 8 if profile.name == "quick" else 1]
    for found, origin in chain(((found, "its own") for found in own), ((found, "another rule's") for found in others)):
        if rule.takes(len(found.updates), found.f):
            yield _as_round(found, f"{origin} worst input known")
    yield from corpus.clouds_and_colluders(rule, profile)


def _as_round(found: WorstInput, origin: str) -> Round:
    return Round(found.updates, found.f, tuple(range(found.f)), origin, frozenset({"worst"}))


@check(rounds=_worst_then_corpus, needs=claims_kappa, search="rounds", adversary=True)
def coefficient(rule: Rule, round_: Round) -> Bound | None:
    """||F(x) - mean_S||^2 <= kappa (1/h) sum_S ||x_i - mean_S||^2 for every set S of h = n - f rows."""
    kappa = rule.subject.kappa
    if kappa is None or not rule.takes(round_.n, round_.f) or math.isinf(kappa(round_.n, round_.f)):
        return None
    found = deviation(rule(round_.updates, round_.f), round_, kappa(round_.n, round_.f))
    return Bound(found.distance, found.limit(kappa(round_.n, round_.f)))


def _tightest(rule: Rule, profile: Profile) -> Iterator[Round]:
    del profile
    theory = rule_theory(rule.subject.rule or "")
    for found in worst_inputs(theory.stored):
        n = len(found.updates)
        # On a line every notion of spread is the same, so that a constant in the operator norm is attained there too.
        same_spread = found.updates.shape[1] == 1 or not theory.operator_norm
        attained = theory.attained(n, found.f) and found.ratio >= 0.995 * theory.kappa(n, found.f)
        if same_spread and attained and rule.takes(n, found.f):
            yield replace(_as_round(found, "a stored input that attains kappa"), tags=frozenset({STORED}))


@check(rounds=_tightest, needs=claims_exact)
def tightness(rule: Rule, round_: Round) -> Bound | None:
    """Some input reaches 0.99 of an exact kappa, the stored one or another: a rule that stays below is another rule."""
    if rule.subject.kappa is None or STORED not in round_.tags:
        return None
    n, f = round_.n, round_.f
    kappa = rule.subject.kappa(n, f)
    found = deviation(rule(round_.updates, f), round_, kappa, every_set=False)
    reached = (found.distance / found.spread) ** 2
    if reached < 0.99 * kappa:  # it breaks ties another way than the rule that the input was found for
        reached = max(reached, hunt(rule, n, f, max(2, round_.d), evaluations=SEARCH, enough=0.99 * kappa).ratio)
    held = reached >= 0.99 * kappa
    return Bound(0.99 * kappa, reached, "" if held else f"no input gives more than {reached:.4g}; {kappa:.4g} is exact")


@check(
    rounds=corpus.no_attackers,
    needs=lambda subject: "" if "mean" in (subject.symmetries or ()) else "not claimed to be the mean at f = 0",
)
def mean_at_zero(rule: Rule, round_: Round) -> Bound | None:
    """With f = 0 the result is the mean."""
    x = round_.updates.astype(np.float64)
    try:
        result = rule(round_.updates, 0)
    except Misbehaved as finding:
        if round_.n < 3 and isinstance(finding.__cause__, ValueError | AssertionError):
            return None  # it refuses to aggregate one or two
        raise
    error = float(np.abs(result - x.mean(0)).max())
    return Bound(error, rounding(round_.n, round_.d, round_.updates.dtype, float(np.abs(x).max())))
