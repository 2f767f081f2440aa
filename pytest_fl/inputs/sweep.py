"""Rounds that are random as well as chosen: many sizes, every placement, colluders that keep what is looked at honest."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from pytest_fl.inputs import corpus
from pytest_fl.inputs.clouds import CLOUDS, gaussian
from pytest_fl.inputs.colluders import COLLUDERS, KEEPERS, identical_far
from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.guard import Misbehaved
from pytest_fl.subjects.round import Round

if TYPE_CHECKING:
    from pytest_fl.subjects.guard import Rule
    from pytest_fl.subjects.profiles import Profile

NEAR_POWERS: Final = (15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
DIMENSIONS: Final = (2, 7, 18, 33, 48, 62, 64, 101, 129, 256, 1023, 4095, 16_385, 65_537, 200_003)
PRODUCTS: Final = 5_000_000
"""n^2 d of one round, at most: a rule may hold all differences of all pairs at once."""
TOTAL: Final = {"quick": 2_000_000, "default": 10_000_000}
"""Numbers in all rounds of a profile, at most."""
SLOW: Final = 0.5
"""Seconds of one call that are foreseen, beyond which a round is left out."""
LARGEST: Final = 130


def pair(rule: Rule, rng: np.random.Generator, most: int = LARGEST) -> tuple[int, int] | None:
    """A random (n, f) that the rule takes for all that was seen: no more attackers for its clients than it took elsewhere."""
    seen = (*grid(rule).small, *grid(rule).large)
    if not seen:
        return None
    largest = max(n for n, _ in seen)
    top = min(most, LARGEST if largest >= 40 else largest)
    n = int(rng.choice(NEAR_POWERS)) if rng.random() < 0.4 else int(rng.integers(3, LARGEST + 1))
    n = min(n, top)
    share = max((f / m for m, f in seen if m <= n), default=0.0)
    f = min(math.floor(share * n + 1e-9), (n - 1) // 2)
    if f < 1:
        return None
    f = f if rng.random() < 0.4 else int(rng.integers(1, f + 1))
    if rule.subject.fixed_f is not None:
        f = rule.subject.fixed_f
    hard = max(math.comb(m, g) for m, g in seen)
    foreseen = _seconds(rule, *max(seen)) * (n / largest) ** 4
    affordable = math.comb(n, f) <= hard or (largest >= 40 and hard > 1e9 and foreseen < SLOW)
    return (n, f) if affordable and rule.subject.takes(n, f) else None


def _seconds(rule: Rule, n: int, f: int) -> float:
    """What a call takes at the largest (n, f) that was tried; found once for each rule."""
    if "seconds" not in rule.cache:
        updates = np.random.default_rng(25).standard_normal((n, 4))
        started = time.process_time()
        with suppress(Misbehaved):
            rule(updates, f)
        rule.cache["seconds"] = time.process_time() - started
    return rule.cache["seconds"]


def anywhere(rule: Rule, profile: Profile) -> Iterator[Round]:
    """Random n, f, d, cloud, plot, distance and rows; half of them unanimous."""
    plots, clouds = {**KEEPERS, **COLLUDERS}, list(CLOUDS)
    names, left = [*KEEPERS, *KEEPERS, *COLLUDERS], TOTAL.get(profile.name, 200_000_000)
    for index in range(profile.rounds // 4):
        rng = np.random.default_rng([profile.seed, 22, index])
        found = pair(rule, rng)
        if found is None:
            continue
        n, f = found
        d = int(rng.choice(DIMENSIONS)) if rng.random() < 0.5 else int(rng.integers(2, 130))
        d = min(d, max(PRODUCTS // n**2, 2))
        left -= n * d
        if left < 0:
            return
        unanimous = bool(rng.random() < 0.5)
        kind = clouds[int(rng.integers(len(clouds)))]
        honest = gaussian(n - f, d, rng) if unanimous else CLOUDS[kind](n - f, d, rng)
        if unanimous:
            honest[:] = honest[0]
        plot = names[int(rng.integers(len(names)))]
        radius = float(np.linalg.norm(honest - honest.mean(0), axis=1).max()) or 1.0
        reach = radius * float(10.0 ** rng.uniform(0, 4))
        byzantine = plots[plot](honest, f, reach, rng)
        origin = f"random: {'unanimous' if unanimous else kind + ' cloud'}, {plot}, reach {reach:.3g}"
        dtype = np.float32 if rng.random() < 0.15 else np.float64
        yield corpus.assemble(honest.astype(dtype), byzantine, "random", rng, origin, ("tied",))


def placements(rule: Rule, profile: Profile) -> Iterator[Round]:
    """n - f equal rows and f equal outliers, at every choice of rows, n <= 9; fewer n in the quick profile."""
    most = 7 if profile.name == "quick" else 9
    for n, f in grid(rule).small:
        if n > most:
            continue
        rng = np.random.default_rng([profile.seed, 23, n, f])
        honest = np.tile(rng.standard_normal(2), (n - f, 1))
        byzantine = identical_far(honest, f, 5.0, rng)
        for rows in combinations(range(n), f):
            updates = np.empty((n, 2))
            updates[list(rows)] = byzantine
            updates[np.setdiff1d(np.arange(n), rows)] = honest
            yield Round(updates, f, rows, f"unanimous, equal outliers at rows {', '.join(map(str, rows))}", frozenset({"tied"}))


def generic(rule: Rule, profile: Profile) -> Iterator[Round]:
    """General position with 12 to 41 clients in up to 129 coordinates."""
    for index in range(min(profile.rounds // 20, 100)):
        rng = np.random.default_rng([profile.seed, 24, index])
        found = pair(rule, rng, 41)
        if found is None or found[0] < 12:
            continue
        n, f = found
        honest = gaussian(n - f, int(rng.integers(2, 130)), rng)
        byzantine = identical_far(honest, f, float(rng.uniform(1, 10)), rng) + 0.3 * rng.standard_normal((f, honest.shape[1]))
        yield corpus.assemble(honest, byzantine, "random", rng, "general position, random sizes", ("generic",))
