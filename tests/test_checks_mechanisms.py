"""Audits of mechanisms: what is broken only for some clients, coordinates, rounds, seeds or bits is caught, and nothing sound."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import pytest_fl
from fl_impl.privacy import MECHANISMS, Budget, gaussian_epsilon, spent_epsilon
from pytest_fl.adapters.parts import mechanism
from pytest_fl.checks.noise import _much_noise, count_beyond
from pytest_fl.subjects.parts import Mechanism

BOUND, Z, CLIENTS, Q = 2.0, 1.5, 40, 0.4
STEP = BOUND * 2.0**-30


def clipped(rows: np.ndarray) -> np.ndarray:
    """Rows within the bound; a ValueError where one is not finite."""
    if not np.isfinite(rows).all():
        raise ValueError("not finite")
    peak = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-300)
    norm = np.linalg.norm(rows / peak, axis=1, keepdims=True) * peak
    return rows * np.minimum(1.0, BOUND / np.maximum(norm, 1e-300))


def normal(rng: np.random.Generator, d: int, m: int, number: int) -> np.ndarray:
    del m, number
    return rng.standard_normal(d)


def poisson(clients: int, number: int, seed: int) -> list[int]:
    return np.flatnonzero(np.random.default_rng([seed, number]).random(clients) < Q).tolist()


def price(rounds: int, delta: float, z: float = Z) -> float:
    return spent_epsilon(noise_multiplier=z, delta=delta, sampling=Q, rounds=rounds)


@dataclass(frozen=True)
class Kit:
    """A private mean of parts that can be exchanged, sound as it stands."""

    clip: Callable[[np.ndarray], np.ndarray] = clipped
    noise: Callable[[np.random.Generator, int, int, int], np.ndarray] = normal
    """In deviations."""
    divide: Callable[[np.ndarray, int], np.ndarray] = lambda total, m: total / (Q * CLIENTS)
    step: float = STEP
    z: float = Z
    seeded: Callable[[int], np.random.Generator] = np.random.default_rng
    stated: Callable[[int], float] = lambda number: 1.0

    def run(self, rounds: list[np.ndarray], seed: int) -> list[tuple[Any, float, float]]:
        rng = self.seeded(seed)
        return [(self.one(x, rng, t), self.stated(t) * self.z * BOUND / (Q * CLIENTS), BOUND) for t, x in enumerate(rounds, 1)]

    def one(self, updates: np.ndarray, rng: np.random.Generator, number: int = 1) -> np.ndarray:
        m, d = updates.shape
        noise = self.z * BOUND * self.noise(rng, d, m, number)
        rows = self.clip(updates) if m else updates
        if self.step:
            noise, rows = np.rint(noise / self.step) * self.step, np.trunc(rows / self.step) * self.step
        return self.divide(rows.sum(axis=0) + noise, m)

    def part(self, name: str = "broken", **changes: Any) -> Mechanism:
        base = Mechanism(
            name, lambda updates, seed: self.one(updates, self.seeded(seed)), BOUND,
            noise_std=lambda _: self.z * BOUND / (Q * CLIENTS), divisor=lambda _: Q * CLIENTS,
            run=self.run, sample=poisson, sampling=Q, spent=functools.partial(price, z=self.z),
        )  # fmt: skip
        return replace(base, **changes)


def over_the_first(count: int) -> Callable[[np.ndarray], np.ndarray]:
    """The norm of the first coordinates for that of all."""

    def clip(rows: np.ndarray) -> np.ndarray:
        norm = np.linalg.norm(rows[:, :count], axis=1, keepdims=True)
        return rows * np.minimum(1.0, BOUND / np.maximum(norm, 1e-300))

    return clip


def but(which: Callable[[int], slice | list[int]]) -> Callable[[np.ndarray], np.ndarray]:
    """Clips all rows but some."""

    def clip(rows: np.ndarray) -> np.ndarray:
        short = clipped(rows)
        short[which(len(rows))] = rows[which(len(rows))]
        return short

    return clip


def if_positive(rows: np.ndarray) -> np.ndarray:
    return np.where((rows < 0).all(axis=1, keepdims=True), rows, clipped(rows))


def unless_sparse(rows: np.ndarray) -> np.ndarray:
    sparse = (np.abs(rows) > 1e-9).sum(axis=1, keepdims=True) <= rows.shape[1] // 3
    return np.where(sparse, np.clip(rows, -BOUND, BOUND), clipped(rows))


def unless_huge(rows: np.ndarray) -> np.ndarray:
    return np.where(np.abs(rows).max(axis=1, keepdims=True) > 1e4, rows, clipped(rows))


def in_company(rows: np.ndarray) -> np.ndarray:
    """Scales by the mean norm of those who came."""
    return rows * min(1.0, BOUND / float(np.linalg.norm(rows, axis=1).mean()))


def cut(far: float) -> Callable[..., np.ndarray]:
    def noise(rng: np.random.Generator, d: int, m: int, number: int) -> np.ndarray:
        return np.clip(rng.standard_normal(d), -far, far)

    return noise


def student(rng, d, m, number):
    return rng.standard_t(40, d) / math.sqrt(40 / 38)


def mixture(rng, d, m, number):
    scale = np.where(rng.random(d) < 0.01, 2.0, 1.0)
    return scale * rng.standard_normal(d) / math.sqrt(0.99 + 0.01 * 4)


def twelve_uniforms(rng, d, m, number):
    return rng.random((12, d)).sum(axis=0) - 6


def one_sided(rng, d, m, number):
    noise = rng.standard_normal(d)
    return np.where(noise > 4, 4.0, noise)


def repeated(block: int) -> Callable[..., np.ndarray]:
    def noise(rng: np.random.Generator, d: int, m: int, number: int) -> np.ndarray:
        return np.resize(rng.standard_normal(min(block, d)), d)

    return noise


def negated(rng, d, m, number):
    half = rng.standard_normal((d + 1) // 2)
    return np.concatenate([half, -half])[:d]


def mirrored(rng, d, m, number):
    half = rng.standard_normal((d + 1) // 2)
    return np.concatenate([half, half[::-1]])[-d:]


def same_sizes(rng, d, m, number):
    half = rng.standard_normal((d + 1) // 2)
    return np.concatenate([half, half * rng.choice([-1.0, 1.0], len(half))])[:d]


def where(silent: Callable[[int, int], bool], loud: float = 0.0) -> Callable[..., np.ndarray]:
    """Less noise where silent(m, round)."""

    def noise(rng: np.random.Generator, d: int, m: int, number: int) -> np.ndarray:
        return (loud if silent(m, number) else 1.0) * rng.standard_normal(d)

    return noise


class Once:
    """The noise of the first round in every one."""

    def __init__(self, share: float) -> None:
        self.share, self.first = share, {}

    def __call__(self, rng, d, m, number):
        fresh = rng.standard_normal(d)
        if number == 1:
            self.first[d] = fresh
            return fresh
        return math.sqrt(self.share) * self.first[d] + math.sqrt(1 - self.share) * fresh


class Shifted:
    """Seeds s and s + 1 read one stream, one place apart."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def standard_normal(self, d: int) -> np.ndarray:
        block, offset = divmod(self.seed, 1000)
        return np.random.default_rng(block).standard_normal(d + 1000)[offset : offset + d]


def small_float(rng, d, m, number):
    return rng.standard_normal(d, dtype=np.float32)


class Remembers:
    """Adds the sum of a round to the release of the next, where no noise covers it."""

    def __init__(self) -> None:
        self.kit = Kit(z=12.0)

    def run(self, rounds: list[np.ndarray], seed: int) -> list[tuple[Any, float, float]]:
        released, before = [], 0.0
        for (value, std, bound), x in zip(self.kit.run(rounds, seed), rounds, strict=True):
            released.append((value + before, std, bound))
            before = before + 5 * clipped(x).sum(axis=0) if len(x) else before
        return released


def fixed_size(clients, number, seed):
    return np.random.default_rng([seed, number]).permutation(clients)[: round(Q * clients)].tolist()


def too_often(clients, number, seed):
    return np.flatnonzero(np.random.default_rng([seed, number]).random(clients) < Q + 0.06).tolist()


def never_the_last(clients, number, seed):
    return [i for i in poisson(clients, number, seed) if i < clients - 1]


def in_pairs(clients, number, seed):
    return [j for i in poisson(clients // 2, number, seed) for j in (2 * i, 2 * i + 1)]


def in_turn(clients, number, seed):
    """The next ones, as many as are due."""
    count = len(poisson(clients, number, seed))
    return sorted({(7 * number + k) % clients for k in range(count)})


def everybody(clients, number, seed):
    return list(range(clients))


def turns(separation: int) -> Callable[[int, int, int], list[int]]:
    return lambda clients, number, seed: list(range((number - 1) % separation, clients, separation))


def full_price(rounds, delta):
    return gaussian_epsilon(math.sqrt(rounds) / Z, delta)


def one_round_price(rounds, delta):
    return gaussian_epsilon(1 / Z, delta) if rounds else 0.0


CLIPS, DIVIDES = "every_client_is_clipped", "sum_is_divided_as_stated"
WHOEVER, ROUND, FRESH = "noise_does_not_depend_on_who_comes", "every_round_has_its_noise", "rounds_share_no_noise"
TAILS, BLOCKS, SEEDS, BITS = (
    "tails_are_normal",
    "blocks_share_no_noise",
    "noise_of_seeds_is_independent",
    "low_bits_say_nothing",
)
DRAWN, PRICED, CANARIES = (
    "each_client_comes_by_itself",
    "price_is_that_of_noise_and_draw",
    "canaries_prove_no_more_than_the_price",
)
SEARCH, ALL, LATER = "nothing_found_moves_the_sum_further", "all_clients_are_clipped", "every_round_clips"

BROKEN = {
    "norm of the first 1000 coordinates": (Kit(clip=over_the_first(1000)).part(), CLIPS),
    "norm of the first 65 536 coordinates": (Kit(clip=over_the_first(65_536)).part(), CLIPS),
    "norm of all coordinates but the last": (Kit(clip=over_the_first(-1)).part(), CLIPS),
    "client 0 is not clipped": (Kit(clip=but(lambda m: slice(0, 1))).part(), CLIPS),
    "the last client is not clipped": (Kit(clip=but(lambda m: slice(m - 1, m))).part(), CLIPS),
    "clients beyond 16 are not clipped": (Kit(clip=but(lambda m: slice(16, None))).part(), ALL),
    "clients beyond 50 are not clipped": (Kit(clip=but(lambda m: slice(50, None))).part(), ALL),
    "one of many is not clipped": (Kit(clip=but(lambda m: slice(9, 10))).part(), ALL),
    "negative updates are not clipped": (Kit(clip=if_positive).part(), SEARCH),
    "sparse updates are clipped by entry": (Kit(clip=unless_sparse).part(), SEARCH),
    "huge entries are let through": (Kit(clip=unless_huge).part(), SEARCH),
    "clipped by the mean norm": (Kit(clip=in_company).part(), SEARCH),
    "divided by those who came, where many do": (
        Kit(divide=lambda total, m: total / (m if m > 20 else Q * CLIENTS)).part(), DIVIDES,
    ),
    "divided by those who came, if more than expected": (
        Kit(divide=lambda total, m: total / max(m, Q * CLIENTS)).part(), DIVIDES,
    ),
    "a mean of one client is not divided": (Kit(divide=lambda total, m: total / (1 if m == 1 else Q * CLIENTS)).part(), DIVIDES),
    "no noise where nobody came": (Kit(noise=where(lambda m, t: m == 0)).part(), WHOEVER),
    "no noise for one client": (Kit(noise=where(lambda m, t: m == 1)).part(), WHOEVER),
    "less noise for many": (Kit(noise=where(lambda m, t: m > 40, 0.5)).part(), WHOEVER),
    "noise for each client": (Kit(noise=lambda rng, d, m, t: math.sqrt(max(m, 1) / 3) * rng.standard_normal(d)).part(), WHOEVER),
    "no noise from round 2 on": (Kit(noise=where(lambda m, t: t > 1)).part(), ROUND),
    "less noise in round 4": (Kit(noise=where(lambda m, t: t == 4, 0.9)).part(), ROUND),
    "the first noise again": (Kit(noise=Once(1.0)).part(), FRESH),
    "a third of the first noise again": (Kit(noise=Once(1 / 3)).part(), FRESH),
    "tails cut at 4.5": (Kit(noise=cut(4.5)).part(), TAILS),
    "tails cut at 3.5": (Kit(noise=cut(3.5)).part(), TAILS),
    "one tail cut at 4": (Kit(noise=one_sided).part(), TAILS),
    "Student's t with 40 degrees": (Kit(noise=student).part(), TAILS),
    "one in a hundred twice as wide": (Kit(noise=mixture).part(), TAILS),
    "twelve uniforms": (Kit(noise=twelve_uniforms).part(), TAILS),
    "noise again after 65 536": (Kit(noise=repeated(65_536)).part(), BLOCKS),
    "noise again after 8 192": (Kit(noise=repeated(8_192)).part(), BLOCKS),
    "noise again after 150 000": (Kit(noise=repeated(150_000)).part(), BLOCKS),
    "noise and its negative": (Kit(noise=negated).part(), BLOCKS),
    "noise backwards": (Kit(noise=mirrored).part(), BLOCKS),
    "sizes of noise again, with other signs": (Kit(noise=same_sizes).part(), BLOCKS),
    "seeds one place apart": (Kit(seeded=Shifted).part(), SEEDS),
    "the last byte of the seed": (Kit(seeded=lambda seed: np.random.default_rng(seed % 256)).part(), SEEDS),
    "the seed without its last bit": (Kit(seeded=lambda seed: np.random.default_rng(seed // 2)).part(), SEEDS),
    "noise of float64": (Kit(step=0.0).part(), BITS),
    "noise of float32": (Kit(step=0.0, noise=small_float).part(), BITS),
    "noise on a grid, updates not": (
        Kit(step=0.0, noise=lambda rng, d, m, t: np.rint(rng.standard_normal(d) * 2**16) / 2**16).part(), BITS,
    ),
    "as many every round": (Kit().part(sample=fixed_size), DRAWN),
    "more than is said": (Kit().part(sample=too_often), DRAWN),
    "never the last client": (Kit().part(sample=never_the_last), DRAWN),
    "in pairs": (Kit().part(sample=in_pairs), DRAWN),
    "in turn": (Kit().part(sample=in_turn), DRAWN),
    "half of the price": (Kit().part(spent=lambda t, delta: price(t, delta) / 2), PRICED),
    "the price of one round": (Kit().part(spent=one_round_price, sampling=None, sample=everybody), PRICED),
    "amplified, and all take part": (Kit().part(sampling=None, sample=everybody), PRICED),
    "less noise, and says so": (
        Kit(noise=lambda rng, d, m, t: 0.8**t * rng.standard_normal(d), stated=lambda t: 0.8**t).part(), PRICED,
    ),
    "every fourth round, and comes every second": (
        Kit().part(sampling=None, sample=turns(2), correlated=True, spent=lambda t, delta: full_price(-(-t // 4), delta)), PRICED,
    ),
    "the price falls": (Kit().part(spent=lambda t, delta: 9.0 - t if t else 0.0), PRICED),
    "what a round remembers": (Kit(z=12.0).part(run=Remembers().run), CANARIES),
    "no noise at all, at full price": (Kit(noise=where(lambda m, t: True), z=12.0).part(), CANARIES),
    "no clip from round 2 on": (
        Kit().part(run=lambda rounds, seed: Kit().run(rounds[:1], seed) + Kit(clip=lambda x: x).run(rounds[1:], seed + 1)), LATER,
    ),
}  # fmt: skip
SOUND = Kit().part("sound")


@pytest.mark.parametrize(("part", "check"), BROKEN.values(), ids=BROKEN)
def test_a_broken_mechanism_is_caught(part, check):
    (row,) = pytest_fl.verify(part, checks=[check]).rows
    assert row.outcome == "failed"
    assert row.reason
    assert not row.reason.startswith("raised")


def failures(part, seed):
    rows = pytest_fl.verify(part, seed=seed).rows
    return [(row.check, row.reason) for row in rows if row.outcome == "failed"]


BUDGET = Budget(1.0, 1e-5, 0.5)
OURS = {
    name: mechanism(kind.calibrated(BUDGET, rounds=6, clip_bound=2.0, clients=20), budget=BUDGET)
    for name, kind in MECHANISMS.items()
}


@pytest.mark.parametrize("name", OURS)
def test_low_bits_of_ours_say_nothing(name):
    (row,) = pytest_fl.verify(OURS[name], checks=[BITS]).rows
    assert row.outcome == "passed", row.reason


@pytest.mark.parametrize("name", OURS)
def test_ours_pass(name):
    assert [(check, reason) for check, reason in failures(OURS[name], 0) if check != BITS] == []


@pytest.mark.parametrize("seed", [0, pytest.param(None, marks=pytest.mark.slow)], ids=["one seed", "fifty seeds"])
def test_a_sound_mechanism_passes(seed):
    for number in range(1, 51) if seed is None else [seed]:
        assert failures(SOUND, number) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_tails_of_ours_over_twenty_million_draws(name):
    noise = _much_noise(OURS[name], 20_000_000, 1)
    assert [bound.reason for bound in count_beyond(noise) if not bound.holds] == []
