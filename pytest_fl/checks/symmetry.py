"""Symmetries that a rule claims, tried where ties cannot make its answer ambiguous.

A rule that selects may jump when two scores are equal to rounding. A transformed answer that differs is therefore accepted
if it is one of the tied answers: the rule's definition has both, or the rule gives it, untransformed, for updates moved by a
millionth of their spread. On a line distances tie by themselves; there a second coordinate of that size breaks the ties, and
if the rule is then symmetric it is taken to be so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from pytest_fl.checks import Bound, check
from pytest_fl.checks.robustness import promises
from pytest_fl.inputs import corpus
from pytest_fl.oracles.coefficient import rounding
from pytest_fl.oracles.definitions import DEFINITIONS
from pytest_fl.subjects.guard import Rule
from pytest_fl.subjects.profiles import Profile
from pytest_fl.subjects.round import Round, Updates
from pytest_fl.subjects.subject import Subject

Floats = npt.NDArray[np.float64]
SUBSETS: Final = 500
"""Subsets of n - f rows that a definition may look through to find tied answers."""
NEARBY = 12
"""Perturbed copies that are asked whether an answer is one of several tied ones."""


def claims(symmetry: str) -> Callable[[Subject], str]:
    """Whether the subject claims this symmetry."""

    def reason(subject: Subject) -> str:
        if subject.symmetries is None:
            return "no symmetries are claimed; pass symmetries= or claims="
        return "" if symmetry in subject.symmetries else f"{symmetry!r} is not among the claimed symmetries"

    return reason


def _compare(rule: Rule, round_: Round, back: Callable[[Floats], Floats], moved: Updates, factor: float = 1.0) -> Bound | None:
    """The rule's answer for the moved updates, taken back, against its answer for the original ones, `factor` times smaller."""
    if not promises(rule, round_):
        return None
    x = round_.updates
    expected, answer = rule(x, round_.f), back(rule(moved, round_.f))
    size = max(float(np.abs(x).max()), float(np.abs(moved).max()) / factor)
    limit = 4 * rounding(round_.n, round_.d, x.dtype, size)
    error = float(np.abs(answer - expected).max())
    if error > limit and (_both_defined(rule, round_, expected, answer) or _is_tied(rule, round_, answer)):
        return Bound(0.0, limit)
    return Bound(error, limit)


def _both_defined(rule: Rule, round_: Round, one: Floats, other: Floats) -> bool:
    """Whether both are answers of the rule's own definition, or of any that is known where it claims to be none."""
    x, spread = round_.updates.astype(np.float64), float(np.ptp(round_.updates)) or 1.0
    if round_.d == 1 and round_.n % 2 == 0:
        low, high = np.sort(x[:, 0])[round_.n // 2 - 1 : round_.n // 2 + 1]
        if all(low - 1e-6 * spread <= float(value[0]) <= high + 1e-6 * spread for value in (one, other)):
            return True  # every point between the middle two has the least summed distance
    if math.comb(round_.n, round_.f) > SUBSETS:
        return False
    claimed = rule.subject.definition or DEFINITIONS.get(rule.subject.rule or "")
    for define in [claimed] if claimed else DEFINITIONS.values():
        answers = define(x, round_.f)
        if len(answers) > 1 and all(np.abs(answers - value).max(1).min() <= 1e-6 * spread for value in (one, other)):
            return True
    return False


def _is_tied(rule: Rule, round_: Round, answer: Floats) -> bool:
    x = round_.updates
    spread = float(np.ptp(x)) or 1.0
    rng = np.random.default_rng(0)
    for _ in range(NEARBY):
        nearby = x + (1e-6 * spread * rng.standard_normal(x.shape)).astype(x.dtype)
        if float(np.abs(rule(nearby, round_.f) - answer).max()) <= 1e-4 * spread:
            return True
    return False


def _symmetric_off_the_line(rule: Rule, round_: Round, order: npt.NDArray[np.intp]) -> bool:
    """Whether the order of the clients does not matter once a second coordinate breaks the ties of a line."""
    spread = float(np.ptp(round_.updates)) or 1.0
    for seed in range(NEARBY // 2):
        beside = 0.05 * spread * np.random.default_rng([5, seed]).standard_normal((round_.n, 1))
        lifted = np.hstack([round_.updates, beside.astype(round_.updates.dtype)])
        if float(np.abs(rule(lifted, round_.f) - rule(lifted[order], round_.f)).max()) > 1e-6 * spread:
            return False
    return True


def _rng(round_: Round) -> np.random.Generator:
    """Random numbers that depend on the round alone, so that a replayed round meets the same motion."""
    return np.random.default_rng([round_.n, round_.f, round_.d])


@check(rounds=corpus.generic, needs=claims("permutation"))
def permutation(rule: Rule, round_: Round) -> Bound | None:
    """The order of the clients does not matter."""
    order = _rng(round_).permutation(round_.n)
    bound = _compare(rule, round_, lambda answer: answer, round_.updates[order])
    if bound is None or bound.holds or round_.d > 1 or rule.subject.most_d == 1:
        return bound
    return replace(bound, value=0.0) if _symmetric_off_the_line(rule, round_, order) else bound


def _dyadic(rule: Rule, profile: Profile) -> Iterator[Round]:
    """Rounds of multiples of 1/1024, which adding an integer moves without rounding."""
    for round_ in corpus.generic(rule, profile):
        yield round_.with_updates((np.round(round_.updates * 1024) / 1024).astype(round_.updates.dtype))


@check(rounds=_dyadic, needs=claims("translation"))
def translation(rule: Rule, round_: Round) -> Bound | None:
    """F(x + c) = F(x) + c."""
    shift = _rng(round_).integers(-4096, 4096, round_.d).astype(np.float64)
    return _compare(rule, round_, lambda answer: answer - shift, (round_.updates + shift).astype(round_.updates.dtype))


@check(rounds=corpus.generic, needs=claims("scale"))
def scale(rule: Rule, round_: Round) -> Bound | None:
    """F(2^k x) = 2^k F(x), for k from -90 to 90."""
    for power in (-90, -20, 7, 90):
        factor = 2.0**power
        scaled = round_.updates * round_.updates.dtype.type(factor)
        bound = _compare(rule, round_, lambda answer, factor=factor: answer / factor, scaled, factor)
        if bound is None or not bound.holds:
            return bound
    return bound


@check(rounds=corpus.generic, needs=claims("sign"))
def sign(rule: Rule, round_: Round) -> Bound | None:
    """F(-x) = -F(x)."""
    return _compare(rule, round_, lambda answer: -answer, -round_.updates)


@check(rounds=corpus.generic, needs=claims("rotation"))
def rotation(rule: Rule, round_: Round) -> Bound | None:
    """F(x Q) = F(x) Q for an orthogonal Q."""
    matrix, _ = np.linalg.qr(_rng(round_).standard_normal((round_.d, round_.d)))
    return _compare(rule, round_, lambda answer: answer @ matrix.T, (round_.updates @ matrix).astype(round_.updates.dtype))


@check(rounds=corpus.generic, needs=claims("monotone"))
def monotone(rule: Rule, round_: Round) -> Bound | None:
    """Raising entries lowers no coordinate of the result."""
    if not promises(rule, round_):
        return None
    x = round_.updates
    raised = x + _rng(round_).exponential(0.3, x.shape).astype(x.dtype) * (_rng(round_).random(x.shape) < 0.5)
    drop = float((rule(x, round_.f) - rule(raised, round_.f)).max())
    return Bound(max(drop, 0.0), rounding(round_.n, round_.d, x.dtype, float(np.abs(raised).max())))


def _outside(result: Floats, low: Floats, high: Floats) -> float:
    return float(np.maximum(np.maximum(low - result, result - high), 0.0).max())


@check(needs=claims("box"))
def box(rule: Rule, round_: Round) -> Bound | None:
    """Each coordinate of the result lies between the least and the greatest input."""
    if not promises(rule, round_):
        return None
    x = round_.updates.astype(np.float64)
    outside = _outside(rule(round_.updates, round_.f), x.min(0), x.max(0))
    return Bound(outside, rounding(round_.n, round_.d, round_.updates.dtype, float(np.abs(x).max())))


@check(needs=claims("honest_box"))
def honest_box(rule: Rule, round_: Round) -> Bound | None:
    """Each coordinate of the result lies between the (f+1)-th smallest and the (f+1)-th greatest input."""
    if not promises(rule, round_):
        return None
    ordered = np.sort(round_.updates.astype(np.float64), axis=0)
    low, high = ordered[round_.f], ordered[round_.n - 1 - round_.f]
    size = float(np.abs(ordered[round_.f : round_.n - round_.f]).max())
    return Bound(_outside(rule(round_.updates, round_.f), low, high), rounding(round_.n, round_.d, round_.updates.dtype, size))


@check(rounds=corpus.generic, needs=claims("hull"))
def hull(rule: Rule, round_: Round) -> Bound | None:
    """The result is a convex combination of the updates."""
    if not promises(rule, round_):
        return None
    x = round_.updates.astype(np.float64)
    centre = x.mean(0)
    size = float(np.abs(x - centre).max()) or float(np.abs(x).max()) or 1.0  # where all are equal, their own size
    # Weights are non-negative by nnls; the row of ones makes them sum to one.
    rows = np.vstack([((x - centre) / size).T, np.ones(round_.n)])
    target = np.append((rule(round_.updates, round_.f) - centre) / size, 1.0)
    _, residual = nnls(rows, target)
    return Bound(float(residual), 1e-8 + 4 * rounding(round_.n, round_.d, round_.updates.dtype, float(np.abs(x).max()) / size))


@check(needs=claims("selects"))
def selects(rule: Rule, round_: Round) -> Bound | None:
    """The result is one of the updates, but for a rounding of it."""
    if not promises(rule, round_):
        return None
    x = round_.updates.astype(np.float64)
    away = np.abs(x - rule(round_.updates, round_.f)).max(1)
    # A winner that goes through np.average with one weight of 1 comes back a rounding off.
    limit = 4 * float(np.finfo(round_.updates.dtype).eps) * float(np.abs(x[np.argmin(away)]).max())
    distance = float(away.min())
    return Bound(distance, limit, f"the nearest update is {distance:.3g} away" if distance > limit else "")
