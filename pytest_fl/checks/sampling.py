"""Whether a round's clients are drawn as its price assumes, and whether that price is what the noise and the draw cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise, product
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound
from pytest_fl.checks.parts import audited
from pytest_fl.oracles.privacy_loss import epsilon_of, gaussian_delta, least_epsilon
from pytest_fl.subjects.guard import as_vector
from pytest_fl.subjects.parts import Mechanism

Reals = npt.NDArray[np.float64]

CLIENTS: Final = 40
DRAWS: Final = 400
UNLIKELY: Final = 1e-10
SIGMAS: Final = 6.5
ROUNDS: Final = 4
"""Of which the price is computed from the noise itself."""
WIDTH: Final = 40_000
SLACK: Final = 0.04
"""Relative: what is left to chance of a price that is computed from WIDTH draws of noise a round."""


def _samples(part: Mechanism) -> str:
    return "" if part.sample else "it draws no clients"


def _poisson(part: Mechanism) -> str:
    return _samples(part) or ("" if part.sampling is not None else "its clients take part by a schedule")


def _drawn(part: Mechanism, rng: np.random.Generator, rounds: int) -> npt.NDArray[np.bool_]:
    """(rounds, CLIENTS): who takes part. Raises ValueError for numbers that are none of a client, or come twice."""
    assert part.sample is not None
    present = np.zeros((rounds, CLIENTS), bool)
    for number in range(rounds):
        chosen = [int(i) for i in part.sample(CLIENTS, number + 1, int(rng.integers(2**31)))]
        if len(set(chosen)) != len(chosen) or not all(0 <= i < CLIENTS for i in chosen):
            raise ValueError(f"expected different numbers from 0 to {CLIENTS - 1}; got {chosen}")
        present[number, chosen] = True
    return present


@audited(Mechanism, needs=_poisson)
def each_client_comes_by_itself(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """Each client takes part with the stated probability, whoever else does and whenever it did before: chi-squared tests."""
    q = part.sampling
    assert q is not None
    present = _drawn(part, rng, DRAWS)
    if q == 1:
        yield Bound(float((~present).sum()), 0.0, "a client was left out, and all take part in every round")
        return
    terms = (present.sum(axis=0) - DRAWS * q) ** 2 / (DRAWS * q * (1 - q))
    yield _chi_squared(terms, "the clients come too often, or too rarely")
    centred = (present - q) / math.sqrt(q * (1 - q))
    sizes = centred.sum(axis=1) / math.sqrt(CLIENTS)
    spread = (float((sizes**2).mean()) - 1) * math.sqrt(DRAWS / 2)
    yield Bound(abs(spread), SIGMAS, f"the numbers of clients spread {float((sizes**2).mean()):.3f} times as they should")
    pairs = centred.T @ centred / math.sqrt(DRAWS)
    worst = float(np.abs(pairs - np.diag(np.diag(pairs))).max())
    yield Bound(worst, _heavy(q), "two clients come together, or apart")
    for lag in (1, 2, 3):
        again = float((centred[:-lag] * centred[lag:]).sum()) / math.sqrt((DRAWS - lag) * CLIENTS)
        yield Bound(abs(again), SIGMAS, f"who takes part depends on {lag} rounds before")


def _chi_squared(terms: Reals, reason: str) -> Bound:
    from scipy.stats import chi2  # noqa: PLC0415  # loaded when a mechanism is judged

    return Bound(UNLIKELY, 2 * float(min(chi2.sf(terms.sum(), terms.size), chi2.cdf(terms.sum(), terms.size))), reason)


def _heavy(q: float) -> float:
    """SIGMAS with what a product of two rare events has more of tail than a normal law."""
    return SIGMAS + 4 / (min(q, 1 - q) * math.sqrt(DRAWS))


def _is_priced(part: Mechanism) -> str:
    if not part.spent:
        return "it states no price"
    return "" if part.run else "it has no rounds"


@audited(Mechanism, needs=_is_priced)
def price_is_that_of_noise_and_draw(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """What rounds are said to cost covers the noise that is measured in them and the clients that are drawn for them.

    Where rounds share noise: the covariance S of the rounds' noise, and the participation p of a client in them, give one
    Gaussian release at distance max_u sqrt(u' S^-1 u), over all u with |u_t| <= p_t.
    """
    assert part.spent is not None
    noise = _noise_of_rounds(part, rng)
    for delta in (1e-5, 1e-8):
        said, exact = part.spent(ROUNDS, delta), _price(part, noise, rng, delta)
        reason = f"{ROUNDS} rounds are said to cost {said:.4g} at delta={delta:g}, and cost {exact:.4g}"
        yield Bound(exact * (1 - SLACK), said, reason)
    prices = [part.spent(number, 1e-5) for number in range(ROUNDS + 1)]
    yield Bound(prices[0], 0.0, "no round at all has a price")
    yield Bound(max(a - b for a, b in pairwise(prices)), 1e-9, "the price falls from round to round")


def _noise_of_rounds(part: Mechanism, rng: np.random.Generator) -> Reals:
    """(ROUNDS, WIDTH): noise on the sum of each round, in clip bounds of that round."""
    assert part.run is not None
    quiet = [np.full((3, WIDTH), 1e-9 * part.clip_bound / WIDTH) for _ in range(ROUNDS)]
    released = part.run(quiet, int(rng.integers(2**31)))
    return np.array([as_vector(value, WIDTH) * part.divisor(3) / bound for value, _, bound in released])


def _price(part: Mechanism, noise: Reals, rng: np.random.Generator, delta: float) -> float:
    moved = 1.0 if part.removes else 2.0
    if part.sampling is not None and part.sampling < 1 and part.removes:
        scale = math.sqrt(float((noise**2).mean(axis=1).min())) / moved
        return epsilon_of(scale, delta, part.sampling, ROUNDS) or 0.0
    inverse = np.linalg.inv(noise @ noise.T / WIDTH)
    scheduled = part.sample is not None and part.sampling is None
    patterns = _drawn(part, rng, ROUNDS).T if scheduled else np.ones((1, ROUNDS), bool)
    signs = np.array(list(product((-1.0, 0.0, 1.0), repeat=ROUNDS)))
    distance = max(float(np.einsum("st,tu,su->s", signs * p, inverse, signs * p).max()) for p in patterns)
    return least_epsilon(lambda epsilon: gaussian_delta(moved * math.sqrt(distance), epsilon), delta)
