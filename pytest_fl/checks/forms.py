"""The form of the updates must not matter: several layers or one, another container, dtype or memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound, check
from pytest_fl.checks.robustness import is_exact, promises
from pytest_fl.inputs import corpus
from pytest_fl.inputs.clouds import gaussian
from pytest_fl.inputs.colluders import COLLUDERS, identical_far
from pytest_fl.oracles.coefficient import deviation, rounding
from pytest_fl.oracles.theory import most_of_any_rule
from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.guard import Misbehaved, Rule, as_vector
from pytest_fl.subjects.profiles import Profile
from pytest_fl.subjects.round import Round
from pytest_fl.subjects.subject import Subject

NEARBY = 8
"""Perturbed copies that are asked how far a rounding of the input may move the answer."""


def takes_models(subject: Subject) -> str:
    """Whether clients send models of several layers to it."""
    if subject.layered_call is None:
        return "it takes one layer only" if subject.layers else "it takes vectors, not models of several layers"
    return is_exact(subject)


def _models(rule: Rule, profile: Profile) -> Iterator[Round]:
    """Unanimous and spread clients under colluders that attack all layers or one of them."""
    pairs = grid(rule).small
    plots = ("identical, far", "last coordinate only", "one coordinate each", "same sum", "all coordinates down", "scattered")
    for index in range(min(profile.rounds // 6, 200) if pairs else 0):
        n, f = pairs[index % len(pairs)]
        rng = np.random.default_rng([profile.seed, 20, index])
        d = (14, 9, 1, 3, 2, 40)[index // 2 % 6]
        honest = gaussian(n - f, d, rng)
        if index % 2 == 0:
            honest[:] = honest[0]
        plot = plots[index // 2 % len(plots)]
        byzantine = COLLUDERS[plot](honest, f, (20.0, 2.0, 1e4)[index % 3], rng)
        origin = f"{'spread' if index % 2 else 'unanimous'} models of several layers, {plot}"
        position = corpus.cycle(corpus.POSITIONS, index, 2)
        yield corpus.assemble(honest.astype(np.float32 if index % 5 == 4 else np.float64), byzantine, position, rng, origin)


@check(rounds=_models, needs=takes_models)
def several_layers(rule: Rule, round_: Round) -> Bound | None:
    """Models of several layers are exact where the honest agree and bounded where not, names, shapes and counters kept.

    The constant is that of one layer: where each layer keeps its deviation within kappa times its variance, so does their sum.
    """
    call = rule.subject.layered_call
    if call is None or round_.f == 0 or not promises(rule, round_):
        return None
    result = as_vector(rule.attempt(lambda: call(round_.updates.copy(), round_.f)), round_.d)
    honest = round_.honest.astype(np.float64)
    if (honest == honest[0]).all():
        size = max(float(np.abs(honest).max()), 1.0)
        return Bound(float(np.abs(result - honest[0]).max()), rounding(round_.n, round_.d, round_.updates.dtype, size))
    claimed = rule.subject.kappa(round_.n, round_.f) if rule.subject.kappa else 0.0
    allowed = claimed or most_of_any_rule(round_.n, round_.f)
    found = deviation(result, round_, allowed, every_set=False)
    return Bound(found.distance, found.limit(allowed))


def _in_whole_numbers(rule: Rule, profile: Profile) -> Iterator[Round]:
    """Small whole numbers, which every dtype holds exactly: unanimous, and spread with the colluders some way off."""
    pairs = grid(rule).small
    for index in range(min(profile.rounds // 25, 24) if pairs else 0):
        n, f = pairs[(5 * index) % len(pairs)]
        rng = np.random.default_rng([profile.seed, 21, index])
        honest = np.rint(12 * gaussian(n - f, (3, 1, 6, 2)[index % 4], rng))
        if index % 2 == 0:
            honest[:] = honest[0]
        byzantine = np.rint(identical_far(honest, f, (60.0, 25.0)[index % 3 % 2], rng))
        origin = f"{'spread' if index % 2 else 'unanimous'} whole numbers, identical outliers"
        yield corpus.assemble(honest, byzantine, corpus.cycle(corpus.POSITIONS, index, 2), rng, origin)


def _has_other_ways(subject: Subject) -> str:
    return "" if subject.other_ways else "its adapter hands the updates over in one form"


@check(rounds=_in_whole_numbers, needs=_has_other_ways)
def any_form(rule: Rule, round_: Round) -> Bound | None:
    """Every container, dtype and memory layout that the rule takes gives the answer that it gives for float64."""
    if not rule.subject.takes(round_.n, round_.f):
        return None
    expected = rule(round_.updates, round_.f)
    again = (rule(round_.updates, round_.f) for _ in range(3))
    changes = max(float(np.abs(answer - expected).max()) for answer in again)  # another check's business
    size = float(np.abs(round_.updates).max())
    worst, name = Bound(0.0, rounding(round_.n, round_.d, round_.updates.dtype, size)), ""
    for way, call in rule.subject.other_ways.items():
        answer = _answer(rule, way, call, round_)
        if answer is None or "int" in str(getattr(answer, "dtype", "")):  # in whole numbers it may only round
            continue
        limit = _room(rule, round_, way, expected) + 8 * changes
        error = float(np.abs(as_vector(answer, round_.d) - expected).max())
        if error / max(limit, 1e-300) > worst.value / max(worst.limit, 1e-300):
            worst, name = Bound(error, limit), way
    return Bound(worst.value, worst.limit, "" if worst.holds else f"given {name} it answers {worst.value:.3g} away")


def _answer(rule: Rule, way: str, call: object, round_: Round) -> object:
    """What it gives in that form; None where it does not take it, asked once."""
    refused: set[str] = rule.cache.setdefault("forms refused", set[str]())
    if way in refused:
        return None
    try:
        result = rule.attempt(lambda: call(round_.updates.copy(), round_.f))  # type: ignore[reportCallIssue]  # a Call
    except Misbehaved as finding:
        if finding.__cause__ is None:  # it hung: that is no refusal
            raise
        refused.add(way)
        return None
    return result


UNITS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "int": 2.0**-23}


def _room(rule: Rule, round_: Round, way: str, expected: npt.NDArray[np.float64]) -> float:
    """What a form may do: its rounding; a selection may jump at a tie."""
    unit = next((unit for name, unit in UNITS.items() if name in way), float(np.finfo(round_.updates.dtype).eps))
    size = float(np.abs(round_.updates).max())
    room = rounding(round_.n, round_.d, round_.updates.dtype, size) + 4 * round_.n * unit * size
    if (round_.honest == round_.honest[0]).all() or unit < 1e-4:
        return room
    rng = np.random.default_rng(0)
    moved = (round_.updates + unit * size * rng.standard_normal(round_.updates.shape) for _ in range(NEARBY))
    return room + max(float(np.abs(rule(x, round_.f) - expected).max()) for x in moved)
