"""What a private mean owes at any number of clients, in any dimension and in every round: clipping, a divisor, noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.guard import as_vector
from pytest_fl.subjects.parts import Mechanism, Updates

Reals = npt.NDArray[np.float64]

SIZES: Final = ((1, 1), (1, 5_000), (2, 40), (5, 70_000), (17, 40), (17, 5_000), (64, 40), (64, 5_000))
"""(m, d): clients that came, and coordinates."""
SIGMAS: Final = 6.5
"""Deviations of a normal statistic that honest noise stays within, in all trials that anyone will make: 8e-11 a trial."""
ROUNDING: Final = 1e-5
"""Relative, of mechanisms that compute in float32."""
ROUNDS: Final = 5
LEVEL: Final = 1e-6
"""Relative: what counts as no worse, so that the search walks where everything is clipped to the bound."""
STEPS: Final = 150
"""Of the search for the client that moves the sum the most."""


def _release(part: Mechanism, updates: Updates, seed: int) -> Reals:
    return as_vector(part.release(updates.copy(), seed), updates.shape[1])


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _short(part: Mechanism, rng: np.random.Generator, m: int, d: int) -> Updates:
    """m rows of half the bound each."""
    rows = rng.standard_normal((m, d))
    return 0.5 * part.clip_bound * rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _limit(part: Mechanism, m: int, d: int) -> float:
    """The clip bound with what float32 leaves of two sums with such noise."""
    noise = 1e-6 * math.sqrt(d) * part.noise_std(m) * part.divisor(m)
    return part.clip_bound * (1 + ROUNDING) + noise


def _moved(part: Mechanism, rows: Updates, at: int, update: Reals, seed: int) -> float:
    """How far the sum moves, with the same noise, if client `at` sends this instead of next to nothing."""
    sent, quiet = rows.copy(), rows.copy()
    sent[at], quiet[at] = update, np.full(len(update), 1e-9 * part.clip_bound / len(update))
    m = len(rows)
    return float(np.linalg.norm(_release(part, sent, seed) - _release(part, quiet, seed))) * part.divisor(m)


def _shapes(d: int, rng: np.random.Generator) -> Iterator[tuple[str, Reals]]:
    """Directions in which a clip that does not look at everything is not seen to be one."""
    yield "all coordinates", np.ones(d)
    for name, at in (("the first coordinate", 0), ("the last coordinate", d - 1), ("one coordinate", int(rng.integers(d)))):
        yield name, np.eye(1, d, at)[0]
    second = np.zeros(d)
    second[d // 2 :] = 1
    yield "the second half", second
    yield "random signs", rng.choice([-1.0, 1.0], d)


@audited(Mechanism)
def every_client_is_clipped(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """With 1 to 64 clients in 1 to 70 000 dimensions, each client, first to last, moves the sum by the bound at most."""
    for m, d in SIZES:
        rows = _short(part, rng, m, d)
        for at in sorted({0, m - 1, int(rng.integers(m))}):
            name, shape = list(_shapes(d, rng))[int(rng.integers(6))]
            length = part.clip_bound * float(10.0 ** rng.uniform(0.1, 4))
            moved = _moved(part, rows, at, length * shape / np.linalg.norm(shape), _seed(rng))
            yield Bound(
                moved, _limit(part, m, d), f"client {at} of {m} in d = {d}, long in {name}, moves the sum by {moved:.4g}"
            )


@audited(Mechanism)
def all_clients_are_clipped(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """Where every client sends a long update, the sum is that of the clipped ones, whatever their number and dimension."""
    for m, d in SIZES:
        seed, direction = _seed(rng), rng.standard_normal(d)
        direction *= part.clip_bound / np.linalg.norm(direction)
        quiet = np.full((m, d), 1e-9 * part.clip_bound / d)
        loud = np.tile(direction, (m, 1)) * 10.0 ** rng.uniform(0.1, 3, (m, 1))
        moved = (_release(part, loud, seed) - _release(part, quiet, seed)) * part.divisor(m)
        off = float(np.linalg.norm(moved - m * direction))
        limit = m * (_limit(part, m, d) - part.clip_bound) + 1e-9 * m * part.clip_bound
        yield Bound(off, limit, f"{m} long updates in d = {d} leave a sum that is {off:.3g} off")


@audited(Mechanism)
def sum_is_divided_as_stated(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """With 1 to 64 clients, divisor * release grows by the sum of their short updates, no more and no less."""
    for m, d in SIZES:
        seed, rows = _seed(rng), _short(part, rng, m, d)
        quiet = np.full((m, d), 1e-9 * part.clip_bound / d)
        grown = (_release(part, rows, seed) - _release(part, quiet, seed)) * part.divisor(m)
        off = float(np.linalg.norm(grown - rows.sum(axis=0)))
        limit = m * (_limit(part, m, d) - part.clip_bound) + 1e-9 * m * part.clip_bound
        yield Bound(off, limit, f"the short updates of {m} clients in d = {d} leave a sum that is {off:.3g} off")


def _least(part: Mechanism) -> int:
    return 0 if part.removes else 1


@audited(Mechanism)
def noise_does_not_depend_on_who_comes(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """Nobody, one client or 64: the noise has the stated deviation, and where presence is hidden the sum's never changes."""
    d = 5_000
    for m in (0, 1, 2, 5, 17, 64)[_least(part) :]:
        rows = np.full((m, d), 1e-9 * part.clip_bound / d)
        noise = np.concatenate([_release(part, rows, _seed(rng)) for _ in range(4)]) / part.noise_std(m)
        yield _scale(noise, f"with {m} clients the noise has {{:.4f}} of the stated deviation")
        if part.removes:
            change = part.noise_std(m) * part.divisor(m) / (part.noise_std(0) * part.divisor(0)) - 1
            yield Bound(abs(change), 1e-6, f"the noise on a sum of {m} differs from that on no client's")


def _scale(noise: Reals, reason: str) -> Bound:
    """That the mean square of the noise is 1, as far as so many draws tell."""
    found = float((noise**2).mean())
    return Bound(abs(found - 1) / math.sqrt(2 / noise.size), SIGMAS, reason.format(math.sqrt(found)))


def _has_rounds(part: Mechanism) -> str:
    return "" if part.run else "it has no rounds"


def _rounds(part: Mechanism, rounds: list[Updates], seed: int) -> list[tuple[Reals, float, float]]:
    """Of each round the release, the deviation that is stated of it, and its clip bound."""
    assert part.run is not None
    d = rounds[0].shape[1]
    return [(as_vector(value, d), std, bound) for value, std, bound in part.run([x.copy() for x in rounds], seed)]


@audited(Mechanism, needs=_has_rounds)
def every_round_has_its_noise(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """In each of several rounds, with the state of those before, the noise has the deviation that is stated of that round."""
    d = 5_000
    quiet = [np.full((3, d), 1e-9 * part.clip_bound / d) for _ in range(ROUNDS)]
    runs = [_rounds(part, quiet, _seed(rng)) for _ in range(4)]
    for number in range(ROUNDS):
        noise = np.concatenate([run[number][0] / run[number][1] for run in runs])
        yield _scale(noise, f"in round {number + 1} the noise has {{:.4f}} of the stated deviation")


@audited(Mechanism, needs=_has_rounds)
def every_round_clips(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """In each of several rounds a client moves that round's noisy sum by that round's clip bound at most."""
    for d in (40, 5_000):
        quiet = [_short(part, rng, 3, d) for _ in range(ROUNDS)]
        for at in range(ROUNDS):
            seed, loud = _seed(rng), [x.copy() for x in quiet]
            quiet[at][-1] = 1e-9 * part.clip_bound / d
            loud[at][-1] *= 1e3
            (one, _, bound), (other, _, _) = (_rounds(part, rounds, seed)[at] for rounds in (quiet, loud))
            moved = float(np.linalg.norm(one - other)) * part.divisor(3)
            limit = bound * (1 + ROUNDING) + _limit(part, 3, d) - part.clip_bound
            yield Bound(moved, limit, f"in round {at + 1} a client moves the sum by {moved:.4g}, and the bound is {bound:.4g}")


def _independent_rounds(part: Mechanism) -> str:
    return _has_rounds(part) or ("its rounds share noise on purpose" if part.correlated else "")


@audited(Mechanism, needs=_independent_rounds)
def rounds_share_no_noise(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """The noise of one round says nothing of another's, nor of any round's of another seed."""
    d = 5_000
    quiet = [np.full((3, d), 1e-9 * part.clip_bound / d) for _ in range(ROUNDS)]
    noise = np.array([value / std for _ in range(2) for value, std, _ in _rounds(part, quiet, _seed(rng))])
    between = np.abs(noise @ noise.T - np.diag((noise**2).sum(axis=1))) / d
    yield Bound(float(between.max()) * math.sqrt(d), SIGMAS, "two rounds share noise")


@audited(Mechanism)
def nothing_found_moves_the_sum_further(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """An adversary who chooses one client's place, update and company moves the sum by the bound at most."""
    m, d = int(rng.integers(1, 9)), int(rng.integers(2, 65))
    best, rows, seed = 0.0, _short(part, rng, m, d), _seed(rng)
    at, update = int(rng.integers(m)), rng.standard_normal(d) * part.clip_bound
    for _ in range(STEPS):
        anew = rng.random() < 0.2
        tried = rng.standard_normal(d) * part.clip_bound if anew else update
        for _ in range(int(rng.integers(1, 4))):
            tried = _changed(tried, rng)
        place = int(rng.integers(m)) if rng.random() < 0.3 else at
        company = rows * 10.0 ** rng.uniform(-3, 3, (m, 1)) if rng.random() < 0.3 else rows
        excess = _moved(part, company, place, tried, seed) / _limit(part, m, d)
        if excess >= best * (1 - LEVEL):
            best, at, update, rows = max(best, excess), place, tried, company
    yield Bound(best, 1.0, f"client {at} of {m} in d = {d} moves the sum {best:.4g} times as far as it may")


def _changed(update: Reals, rng: np.random.Generator) -> Reals:
    """An update like this one: longer or shorter, sparser, of other signs, elsewhere, noisier, or spread evenly."""
    d = len(update)
    changes = (
        lambda: update * float(10.0 ** rng.uniform(-2, 4)),
        lambda: np.where(rng.random(d) < rng.random(), update, 1e-12),
        lambda: update * rng.choice([-1.0, 1.0], d),
        lambda: np.abs(update) * rng.choice([-1.0, 1.0]),
        lambda: np.roll(update, int(rng.integers(d))),
        lambda: update + rng.standard_normal(d) * float(np.abs(update).max()),
        lambda: np.full(d, float(np.linalg.norm(update)) / math.sqrt(d)),
    )
    return np.clip(changes[int(rng.integers(len(changes)))](), -1e12, 1e12)
