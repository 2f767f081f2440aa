"""The fixed corpus: hard rounds in a deterministic order, likeliest killers first.

Every family walks the (n, f) of the rule's grid and cycles through clouds, colluders, magnitudes, positions and dimensions
with coprime steps, so that each value of each meets many of the others without the full product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from pytest_fl.inputs.clouds import CLOUDS, TIED, Cloud, gaussian
from pytest_fl.inputs.colluders import COLLUDERS, identical_far
from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.round import Round, Updates

if TYPE_CHECKING:
    from pytest_fl.subjects.guard import Rule
    from pytest_fl.subjects.profiles import Profile

T = TypeVar("T")
POSITIONS: Final = ("first", "last", "middle", "spread", "random")
FACTORS: Final = (10.0, 3.0, 1e3, 1.0, 1e6, 30.0, 0.5, 1e10, 1e2)
"""Distances of colluders from the honest mean, in honest radii."""
DIMENSIONS: Final = (3, 1, 2, 17, 5)


def cycle(values: Sequence[T], index: int, step: int) -> T:
    """The value at index of an endless walk through values with a step that is coprime to their number."""
    return values[(index * step) % len(values)]


def place(honest: Updates, byzantine: Updates, position: str, rng: np.random.Generator) -> tuple[Updates, tuple[int, ...]]:
    """Both sets of rows in one matrix, and the numbers of the Byzantine rows."""
    n, f = len(honest) + len(byzantine), len(byzantine)
    rows = {
        "first": np.arange(f),
        "last": np.arange(n - f, n),
        "middle": np.arange((n - f) // 2, (n - f) // 2 + f),
        "spread": (np.arange(f) * n) // max(f, 1),
        "random": np.sort(rng.permutation(n)[:f]),
    }[position]
    updates = np.empty((n, honest.shape[1]), honest.dtype)
    updates[rows] = byzantine
    others = np.ones(n, np.bool_)
    others[rows] = False
    updates[others] = honest
    return updates, tuple(int(row) for row in rows)


def assemble(
    honest: Updates, byzantine: Updates, position: str, rng: np.random.Generator, origin: str, tags: Sequence[str] = ()
) -> Round:
    """A round of these honest and Byzantine rows, in the dtype of the honest ones."""
    with np.errstate(over="ignore"):
        updates, rows = place(honest, byzantine.astype(honest.dtype), position, rng)
    limit = float(np.finfo(honest.dtype).max)
    updates = np.clip(updates, -limit, limit)  # a finite message: infinities are the business of another family
    return Round(updates, len(byzantine), rows, f"{origin}, at the {position} rows", frozenset(tags))


def unanimous_value(kind: int, d: int, rng: np.random.Generator) -> Cloud:
    """What all honest clients say: normal entries, zeros, ones, one hot, a far point, mixed sizes."""
    values: tuple[Cloud, ...] = (
        rng.standard_normal(d),
        np.zeros(d),
        np.ones(d),
        np.eye(1, d, d - 1)[0],
        1e4 + rng.standard_normal(d),
        -np.abs(rng.standard_normal(d)) * np.power(10.0, rng.integers(-3, 4, d)),
    )
    return values[kind % len(values)]


def unanimous(rule: Rule, profile: Profile) -> Iterator[Round]:
    """n - f equal rows and f colluders at ordinary magnitudes, n <= 12."""
    reaches = (10.0, 1.0, 1e3, 1e-3, 1e6, 100.0, 0.1)
    yield from islice(_unanimous(grid(rule).small, profile.seed, reaches, DIMENSIONS), profile.rounds)


def many_clients(rule: Rule, profile: Profile) -> Iterator[Round]:
    """The same for n from 15 to 40, on both sides of 25, and where f / n * n truncates."""
    pairs = grid(rule).large + grid(rule).truncated
    rounds = _unanimous(pairs, profile.seed + 1, (10.0, 1e3, 0.1, 1e6), (3, 2, 17))
    yield from islice(rounds, min(profile.rounds // 3, 14 * len(pairs)))


def many_coordinates(rule: Rule, profile: Profile) -> Iterator[Round]:
    """The same for d on both sides of block sizes; the colluders may differ in the last coordinates only."""
    dimensions = (65, 1000, 127, 4097, 64, 70_000, 63, 129, 257, 513, 1025, 8193)
    plots = ("last coordinate only", "identical, far", "all coordinates down", "same sum")
    pairs = grid(rule).small[-4:] or grid(rule).large[:1]
    for index, d in enumerate(dimensions * len(plots) * 2 if profile.name == "thorough" else dimensions * 2):
        n, f = cycle(pairs, index, 1)
        rng = np.random.default_rng([profile.seed, 3, index])
        plot = plots[(index + index // len(dimensions)) % len(plots)]
        honest = np.tile(rng.standard_normal(d), (n - f, 1))
        byzantine = COLLUDERS[plot](honest, f, 50.0, rng)
        yield assemble(honest, byzantine, cycle(POSITIONS, index, 2), rng, f"unanimous, d={d}, {plot}")


def _unanimous(
    pairs: Sequence[tuple[int, int]], seed: int, reaches: Sequence[float], dimensions: Sequence[int]
) -> Iterator[Round]:
    if not pairs:
        return
    plots = list(COLLUDERS)
    for index in count():
        n, f = pairs[index % len(pairs)]
        lap = index // len(pairs)
        plot = plots[(lap + 5 * (index % len(pairs))) % len(plots)]
        rng = np.random.default_rng([seed, 1, index])
        d = cycle(dimensions, index + lap, 1)
        reach = cycle(reaches, index + 2 * lap, 1)
        value = unanimous_value(index + lap // 3, d, rng)
        honest = np.tile(value, (n - f, 1))
        byzantine = COLLUDERS[plot](honest, f, reach, rng)
        dtype = np.float32 if index % 7 == 6 else np.float64
        origin = f"unanimous, {plot}, reach {reach:g}"
        yield assemble(honest.astype(dtype), byzantine, cycle(POSITIONS, index + 3 * lap, 1), rng, origin, ("tied",))


def clouds_and_colluders(rule: Rule, profile: Profile) -> Iterator[Round]:
    """Honest clouds of every kind under colluders of every kind at 0.5 to 1e10 honest radii."""
    pairs = grid(rule).small + grid(rule).large[:3]
    if not pairs:
        return
    clouds, plots = list(CLOUDS), list(COLLUDERS)
    for index in range(profile.rounds):
        n, f = pairs[index % len(pairs)]
        lap = index // len(pairs)
        rng = np.random.default_rng([profile.seed, 2, index])
        kind = clouds[(index + lap) % len(clouds)]
        plot = plots[(3 * index + lap) % len(plots)]
        factor = cycle(FACTORS, index + lap, 2)
        honest = CLOUDS[kind](n - f, cycle(DIMENSIONS, index + 2 * lap, 2), rng)
        radius = float(np.linalg.norm(honest - honest.mean(0), axis=1).max())
        byzantine = COLLUDERS[plot](honest, f, factor * (radius or 1.0), rng)
        dtype = np.float32 if index % 7 == 3 else np.float64
        origin = f"{kind} cloud, {plot}, {factor:g} radii away"
        tags = ("tied",) if kind in TIED else ()
        yield assemble(honest.astype(dtype), byzantine, cycle(POSITIONS, index + lap, 3), rng, origin, tags)


def generic(rule: Rule, profile: Profile) -> Iterator[Round]:
    """Rounds in general position (no ties): normal clouds, scattered and identical colluders with a little noise."""
    pairs = [(n, f) for n, f in (*grid(rule).small, *grid(rule).large[:2]) if n - f >= 4]
    for index in range(min(profile.rounds // 6, 400) if pairs else 0):
        n, f = pairs[index % len(pairs)]
        rng = np.random.default_rng([profile.seed, 4, index])
        honest = gaussian(n - f, cycle(DIMENSIONS, index // len(pairs), 1), rng)
        factor = (3.0, 1.0, 10.0)[index // len(pairs) % 3]
        byzantine = identical_far(honest, f, factor, rng) + 0.3 * rng.standard_normal((f, honest.shape[1]))
        origin = f"general position, outliers at {factor:g}"
        yield assemble(honest, byzantine, cycle(POSITIONS, index, 2), rng, origin, ("generic",))


def huge_outliers(rule: Rule, profile: Profile) -> Iterator[Round]:
    """Finite outliers up to the dtype's limit, beside unanimous honest rows and beside spread ones."""
    plots = (
        "identical, far", "all coordinates down", "scattered", "ladder", "pairs of opposite sign", "last coordinate only",
        "giant masks another, orthogonal",
    )  # fmt: skip
    reaches = {np.float64: (1e20, 1e150, 1e200, 1e300, 1.7e308), np.float32: (1e10, 1e20, 1e30, 3e38)}
    pairs = grid(rule).small
    index = 0
    for lap in range(8 if profile.name != "thorough" else 40):
        for dtype, sizes in reaches.items():
            for reach in sizes if pairs else ():
                n, f = cycle(pairs, index, 3 if len(pairs) % 3 else 1)
                rng = np.random.default_rng([profile.seed, 5, index])
                honest = gaussian(n - f, cycle(DIMENSIONS, index, 2), rng)
                if (index + lap) % 2:
                    honest[:] = honest[0]
                plot = cycle(plots, index, 3)
                with np.errstate(over="ignore"):
                    byzantine = COLLUDERS[plot](honest, f, reach, rng)
                if index % 7 == 6:  # at the other end: one over such a norm is no longer finite
                    plot, byzantine[:] = "subnormal rows", np.finfo(dtype).smallest_subnormal
                origin = f"{'unanimous' if (index + lap) % 2 else 'normal cloud'}, {plot}, reach {reach:g}"
                yield assemble(honest.astype(dtype), byzantine, cycle(POSITIONS, index, 2), rng, origin, ("huge",))
                index += 1


def every_scale(rule: Rule, profile: Profile) -> Iterator[Round]:
    """Whole rounds, honest and Byzantine, at sizes from 1e-30 to 1e30: no threshold of a rule has the right size."""
    scales = (1e-9, 1e30, 1e-30, 1e6, 1e-6, 1e18, 1e-18, 1e-12)
    pairs = grid(rule).small
    for index in range(min(profile.rounds // 8, 400) if pairs else 0):
        n, f = pairs[index % len(pairs)]
        scale = cycle(scales, index + index // len(scales), 1)
        rng = np.random.default_rng([profile.seed, 6, index])
        honest = np.tile(unanimous_value(index + 1, cycle(DIMENSIONS, index, 1), rng), (n - f, 1))
        plot = ("identical, far", "all coordinates down", "one coordinate each", "same direction, shrunk or grown")[index % 4]
        byzantine = COLLUDERS[plot](honest, f, (5.0, 0.5, 50.0)[index % 3], rng)
        dtype = np.float32 if index % 3 == 1 else np.float64
        if dtype is np.float32 and not rule.subject.strict_dtype:
            scale = scale**0.5  # squares of ours may not leave float32; a stranger's may
        origin = f"unanimous, {plot}, everything times {scale:g}"
        yield assemble((scale * honest).astype(dtype), scale * byzantine, cycle(POSITIONS, index, 1), rng, origin, ("scaled",))


def far_from_origin(rule: Rule, profile: Profile) -> Iterator[Round]:
    """A small spread around a far point, where a difference of squared norms has no digits left; n on both sides of 25."""
    pairs = [*grid(rule).small[-3:], *grid(rule).large]
    for index in range(min(profile.rounds // 12, 200) if pairs else 0):
        n, f = pairs[index % len(pairs)]
        single = index % 5 != 4
        rng = np.random.default_rng([profile.seed, 7, index])
        d = (64, 17, 1000)[index // len(pairs) % 3]
        ratio = (2e5, 1e5)[index % 2] if single else 1e6
        centre = rng.standard_normal(d) * 10.0 ** (index % 4)
        spread = float(np.abs(centre).mean()) / ratio
        honest = centre + spread * rng.standard_normal((n - f, d))
        factor = (20.0, 30.0, 60.0)[index % 3]
        byzantine = identical_far(honest, f, factor * spread * np.sqrt(d), rng)
        dtype = np.float32 if single else np.float64
        origin = f"spread {1 / ratio:g} of the distance from the origin, identical outliers at {factor:g} radii"
        yield assemble(honest.astype(dtype), byzantine, cycle(POSITIONS, index, 2), rng, origin, ("far",))


def non_finite(rule: Rule, profile: Profile) -> Iterator[Round]:
    """One to f rows of NaN, infinities or both, whole or in one entry, with and without finite outliers beside them."""
    kinds = {
        "NaN": [np.nan], "+inf": [np.inf], "-inf": [-np.inf], "both infinities": [np.inf, -np.inf],
        "NaN and +inf": [np.nan, np.inf],
    }  # fmt: skip
    pairs = grid(rule).small
    for index in range(min(profile.rounds // 10, 300) if pairs else 0):
        n, f = pairs[index % len(pairs)]
        kind = cycle(list(kinds), index + index // len(pairs), 1)
        rng = np.random.default_rng([profile.seed, 8, index])
        honest = gaussian(n - f, cycle(DIMENSIONS, index, 1), rng)
        if index % 2:
            honest[:] = honest[0]
        byzantine = identical_far(honest, f, 100.0, rng)
        bad = f if index % 3 else 1
        for row in range(bad):
            value = kinds[kind][row % len(kinds[kind])]
            byzantine[row, (slice(None) if index % 4 else -1)] = value
        updates, rows = place(honest, byzantine, cycle(POSITIONS, index, 2), rng)
        origin = f"{kind} in {bad} of {f} Byzantine rows{'' if index % 4 else ' (one entry)'}, the rest far"
        yield Round(updates, f, rows, origin, frozenset({"non_finite"}))


def nobody_attacks(rule: Rule, profile: Profile) -> Iterator[Round]:
    """f = 0 and n equal rows."""
    for index, n in enumerate((3, 4, 5, 8, 26)):
        if rule.takes(n, 0):
            rng = np.random.default_rng([profile.seed, 11, index])
            value = unanimous_value(2 * index, cycle(DIMENSIONS, index, 1), rng)
            yield Round(np.tile(value, (n, 1)), 0, (), "n equal rows, f = 0", frozenset({"tied"}))


def no_attackers(rule: Rule, profile: Profile) -> Iterator[Round]:
    """f = 0 and nobody Byzantine."""
    subject = rule.subject
    for index, n in enumerate((1, 2, 3, 4, 5, 8, 13, 26, 40)):
        if subject.takes(n, 0):
            rng = np.random.default_rng([profile.seed, 9, index])
            yield Round(gaussian(n, cycle(DIMENSIONS, index, 1), rng), 0, (), "normal cloud, f = 0")
