"""The corpus of histories: honest clients that agree, wander or split, and attackers who wait, drift, alternate or pretend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.inputs.corpus import POSITIONS, cycle, place
from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.histories import History

if TYPE_CHECKING:
    from pytest_fl.subjects.guard import Rule
    from pytest_fl.subjects.profiles import Profile

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.floating]
Course = Callable[[Floats, int, float, np.random.Generator], Floats]
"""(honest (T, h, d), f, reach, rng) -> (T, f, d): what f attackers send over the rounds."""
COURSES: Final[dict[str, Course]] = {}
LENGTHS: Final = (5, 12, 2, 20, 8, 1, 30, 3)
DIMENSIONS: Final = (3, 1, 2, 7)
LARGEST: Final = 10.0
"""The norm of the row on which honest clients agree, at most."""
FAR: Final = 1e12
"""A reach beside which every honest size is nothing."""


def course(name: str) -> Callable[[Course], Course]:
    """Register a course under the name that a failure prints."""

    def register(made: Course) -> Course:
        COURSES[name] = made
        return made

    return register


def _honest_like(honest: Floats, f: int) -> Floats:
    """What f clients send that behave: the mean of the honest ones; where those agree, exactly their row."""
    means = honest.mean(axis=1)
    agree = (honest == honest[:, :1]).all(axis=(1, 2))
    means[agree] = honest[agree, 0]
    return np.repeat(means[:, None], f, axis=1)


def _direction(d: int, rng: np.random.Generator) -> Floats:
    vector = rng.standard_normal(d)
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _far_in(honest: Floats, f: int, rounds: npt.NDArray[np.bool_] | slice | list[int], away: Floats) -> Floats:
    rows = _honest_like(honest, f)
    rows[rounds] += away
    return rows


@course("they strike in every round")
def always(honest: Floats, f: int, reach: float, rng: np.random.Generator) -> Floats:
    """The same far row, from the first round on."""
    return _far_in(honest, f, slice(None), reach * _direction(honest.shape[2], rng))


@course("they behave until the last round")
def wait(honest: Floats, f: int, reach: float, rng: np.random.Generator) -> Floats:
    """A reputation is built up first."""
    return _far_in(honest, f, [-1], reach * _direction(honest.shape[2], rng))


@course("they strike in every second round")
def every_second(honest: Floats, f: int, reach: float, rng: np.random.Generator) -> Floats:
    """Between two strikes they earn back what they lost."""
    return _far_in(honest, f, slice(len(honest) % 2, None, 2), reach * _direction(honest.shape[2], rng))


@course("they drift away, three times as far in each round")
def drift(honest: Floats, f: int, reach: float, rng: np.random.Generator) -> Floats:
    """Whoever takes for honest what is near the last result goes along."""
    steps = reach * 3.0 ** -np.arange(len(honest))[::-1]
    return _honest_like(honest, f) + steps[:, None, None] * _direction(honest.shape[2], rng)


@course("they drift away by small steps")
def creep(honest: Floats, f: int, reach: float, rng: np.random.Generator) -> Floats:
    """Each step a twentieth of the honest size, whatever the reach: never an outlier beside the last round."""
    size = min(0.05 * max(float(np.linalg.norm(honest, axis=2).max()), 1e-3), reach)
    steps = size * np.arange(1, len(honest) + 1)
    return _honest_like(honest, f) + steps[:, None, None] * _direction(honest.shape[2], rng)


@course("they alternate between two sides")
def alternate(honest: Floats, f: int, reach: float, rng: np.random.Generator) -> Floats:
    """Their mean over the rounds is honest."""
    signs = np.where(np.arange(len(honest)) % 2, -1.0, 1.0)
    return _honest_like(honest, f) + reach * signs[:, None, None] * _direction(honest.shape[2], rng)


@course("they strike in turn, one a round")
def in_turn(honest: Floats, f: int, reach: float, rng: np.random.Generator) -> Floats:
    """Nobody strikes often enough to be noticed."""
    rows = _honest_like(honest, f)
    away = reach * _direction(honest.shape[2], rng)
    for number in range(len(honest)):
        rows[number, number % f] += away
    return rows


@course("they send the opposite, then strike in the last round")
def reverse(honest: Floats, f: int, reach: float, rng: np.random.Generator) -> Floats:
    """At first they are banned, if anybody ever is; then it shows for how long."""
    rows = -_honest_like(honest, f)
    rows[-1] = honest[-1].mean(axis=0) + reach * _direction(honest.shape[2], rng)
    return rows


@course("they copy an honest client, then strike in the last rounds")
def copy(honest: Floats, f: int, reach: float, rng: np.random.Generator) -> Floats:
    """Whoever is alike is taken for one of them."""
    rows = np.repeat(honest[:, :1], f, axis=1)
    rows[-max(1, len(honest) // 4) :] += reach * _direction(honest.shape[2], rng)
    return rows


@course("they strike once, half way")
def once(honest: Floats, f: int, reach: float, rng: np.random.Generator) -> Floats:
    """What a memory makes of one bad round."""
    return _far_in(honest, f, [len(honest) // 2], reach * _direction(honest.shape[2], rng))


def _agreeing(rounds: int, h: int, d: int, rng: np.random.Generator, *, moving: bool = False) -> Floats:
    """One row, of norm 0.1 to LARGEST, that all h clients send in every round, or another row in each."""
    rows = rng.standard_normal((rounds if moving else 1, d))
    rows *= LARGEST * 10.0 ** -rng.uniform(0, 2) / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return np.broadcast_to(rows[:, None], (rounds, h, d)).copy()


def assembled(honest: Rows, byzantine: Rows, index: int, rng: np.random.Generator, origin: str) -> History:
    """The history of these honest and Byzantine clients, the Byzantine ones at a position that the index names."""
    position = cycle(POSITIONS, index, 2)
    seed = int(rng.integers(2**32))
    placed = [place(h, b, position, np.random.default_rng(seed)) for h, b in zip(honest, byzantine, strict=True)]
    return History(np.stack([updates for updates, _ in placed]), placed[0][1], f"{origin}, at the {position} rows")


def _pairs(rule: Rule) -> list[tuple[int, int]]:
    """(n, f) to try: f at its greatest first, where every honest client counts."""
    pairs = [*grid(rule).small, *grid(rule).large[:2]]
    return sorted(pairs, key=lambda pair: (pair[0] - 2 * pair[1], pair[0]))


def _many(
    rule: Rule, profile: Profile, stream: int, share: int
) -> Iterator[tuple[int, int, int, int, int, np.random.Generator]]:
    """(index, n, f, rounds, d, generator) for as many histories as the profile affords; with time short, fewer."""
    pairs = _pairs(rule)
    for index in islice(count(), profile.rounds // share if pairs else 0):
        n, f = pairs[(index + index // len(pairs)) % len(pairs)]
        rng = np.random.default_rng([profile.seed, 40, stream, index])
        yield index, n, f, cycle(LENGTHS, index, 3), cycle(DIMENSIONS, index, 1), rng


def agreeing(rule: Rule, profile: Profile) -> Iterator[History]:
    """Honest clients that agree, on one row or on another in each round, under every course."""
    courses = list(COURSES)
    for index, n, f, rounds, d, rng in _many(rule, profile, 1, 8):
        name = courses[(index + index // len(courses)) % len(courses)]
        moving = index % 5 == 4
        honest = _agreeing(rounds, n - f, d, rng, moving=moving)
        reach = cycle((30.0, FAR, 1e3, 1.0), index, 1)
        told = "honest clients agree, on another row in each round" if moving else "honest clients agree"
        yield assembled(honest, COURSES[name](honest, f, reach, rng), index, rng, f"{told}; {name}, reach {reach:g}")


def far(rule: Rule, profile: Profile) -> Iterator[History]:
    """Honest clients that agree or scatter, under attackers who go a million million times as far."""
    courses = list(COURSES)
    for index, n, f, rounds, d, rng in _many(rule, profile, 2, 10):
        name = courses[(index + index // len(courses)) % len(courses)]
        honest = _agreeing(rounds, n - f, d, rng)
        if index % 2:
            honest += rng.standard_normal(honest.shape)
        told = "honest clients scatter" if index % 2 else "honest clients agree"
        yield assembled(honest, COURSES[name](honest, f, FAR, rng), index, rng, f"{told}; {name}, reach {FAR:g}")


def scattering(rule: Rule, profile: Profile) -> Iterator[History]:
    """Honest clients around a point, under every course at some radii."""
    courses = list(COURSES)
    for index, n, f, rounds, d, rng in _many(rule, profile, 3, 10):
        name = courses[(index + index // len(courses)) % len(courses)]
        honest = _agreeing(rounds, n - f, d, rng) + rng.standard_normal((rounds, n - f, d))
        reach = cycle((3.0, 1e6, 10.0, 100.0), index, 1)
        yield assembled(honest, COURSES[name](honest, f, reach, rng), index, rng, f"clouds; {name}, reach {reach:g}")


STOPPED: Final = 25
"""Rounds after an attack in which all clients agree."""


def stopping(rule: Rule, profile: Profile) -> Iterator[History]:
    """An attack of 1 to 12 rounds, then all clients agree for 25: what is left of it."""
    courses = list(COURSES)
    for index, n, f, rounds, d, rng in _many(rule, profile, 4, 8):
        name = courses[(index + index // len(courses)) % len(courses)]
        honest = _agreeing(STOPPED + min(rounds, 12), n - f, d, rng)
        attacked = len(honest) - STOPPED
        reach = cycle((10.0, FAR, 1e3), index, 1)
        byzantine = _honest_like(honest, f)
        byzantine[:attacked] = COURSES[name](honest[:attacked], f, reach, rng)
        yield assembled(honest, byzantine, index, rng, f"{name}, reach {reach:g}, and stop after {attacked} rounds")


FRAMES: Final = (
    "they join the larger of two camps",
    "they copy one honest client after the other",
    "they stand where one honest client seems far off",
    "they send what the honest ones sent, reversed",
    "one of them copies one honest client after the other, the rest behave",
)


def _framed(kind: str, honest: Floats, f: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(honest, Byzantine) updates that put honest clients into a bad light."""
    rounds, h, d = honest.shape
    if kind == FRAMES[0]:  # a camp of the minority looks like the attackers that it is not
        minority = max(1, h // 3)
        honest = np.repeat(honest[:, :1], h, axis=1)
        honest[:, :minority] += 3 * _direction(d, rng)
        return honest + 0.01 * rng.standard_normal(honest.shape), np.repeat(honest[:, -1:], f, axis=1)
    victims = np.arange(rounds) % h
    if kind == FRAMES[1]:
        return honest, np.repeat(honest[np.arange(rounds), victims][:, None], f, axis=1)
    if kind == FRAMES[2]:
        others = (honest.sum(axis=1) - honest[np.arange(rounds), victims]) / max(h - 1, 1)
        away = honest[np.arange(rounds), victims] - others
        return honest, np.repeat((others - 0.5 * away)[:, None], f, axis=1)
    if kind == FRAMES[4]:
        rows = honest.mean(axis=1, keepdims=True) + 0.1 * rng.standard_normal((rounds, f, d))
        rows[:, 0] = honest[np.arange(rounds), victims]
        return honest, rows
    return honest, np.repeat(-honest.mean(axis=1, keepdims=True), f, axis=1)


def framing(rule: Rule, profile: Profile) -> Iterator[History]:
    """Attackers put honest clients into a bad light, all agree for a while, then they strike against the agreeing rest."""
    memory = rule.subject.memory
    settle = 2 + (memory.warm_up or 0 if memory else 0)
    for index, n, f, rounds, d, rng in _many(rule, profile, 5, 10):
        kind = FRAMES[index % len(FRAMES)]
        shown = _agreeing(max(rounds, 8), n - f, d, rng)
        honest, byzantine = _framed(kind, shown + rng.standard_normal(shown.shape), f, rng)
        agreed = np.repeat(shown[:1], settle + 1, axis=0)
        reach = cycle((30.0, FAR), index, 1)
        each = 1 + 0.01 * np.arange(f)[:, None]  # equal rows are a sign by themselves
        strike = _far_in(agreed, f, [-1], reach * each * _direction(d, rng))
        origin = f"{kind} for {len(honest)} rounds, behave for {settle}, then strike, reach {reach:g}"
        yield assembled(np.concatenate([honest, agreed]), np.concatenate([byzantine, strike]), index, rng, origin)


def ordinary(rule: Rule, profile: Profile) -> Iterator[History]:
    """A few histories of ordinary rounds, one of them of 300."""
    for index, n, f, _, d, rng in islice(_many(rule, profile, 6, 1), 9):
        rounds = 300 if index == 8 else (30, 12, 1)[index % 3]
        honest = _agreeing(rounds, n - f, d, rng) + 0.3 * rng.standard_normal((rounds, n - f, d))
        byzantine = alternate(honest, f, 20.0, rng)
        dtype = np.float32 if index % 3 == 1 else np.float64
        yield assembled(honest.astype(dtype), byzantine.astype(dtype), index, rng, "normal clouds, attackers on two sides")


def spoiling(rule: Rule, profile: Profile) -> Iterator[History]:
    """Some rounds with messages that are not finite or as large as a float can be; before and after them ordinary ones."""
    values = (np.nan, np.inf, -np.inf, 1e300, -1.7e308, 1e160, 5e-324)
    for index, n, f, rounds, d, rng in _many(rule, profile, 7, 20):
        honest = _agreeing(rounds + 3, n - f, d, rng) + 0.3 * rng.standard_normal((rounds + 3, n - f, d))
        byzantine = _honest_like(honest, f)
        value = values[index % len(values)]
        byzantine[slice(0, -1, 2) if index % 2 else [0 if index % 4 else 1]] = value
        yield assembled(honest, byzantine, index, rng, f"messages of {value:g}")
