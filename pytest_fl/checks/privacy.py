"""What a private mean and its accountant owe: bounded influence, the noise that is stated, costs from the safe side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound, verdict
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.guard import as_vector
from pytest_fl.subjects.parts import Accountant, Mechanism, Updates

Reals = npt.NDArray[np.float64]

SIGMAS: Final = 6.5
"""Deviations of a normal statistic that honest noise stays within, in all trials that anyone will make: 8e-11 a trial."""
SCALES: Final = (1e-3, 0.5, 1.0, 2.0, 1e3, 1e6)
"""Lengths of the update of one client, in clip bounds."""
NEXT_TO_NOTHING: Final = 1e-9
"""An update in place of zero, which `hostile_updates_are_refused_or_clipped` tries."""
TRIALS, WIDTH = 40, 5103
"""Releases and coordinates of which noise is judged: 2 % of its scale are 9 deviations of the estimate in either half."""
ROUNDING: Final = 1e-5
"""Relative, of mechanisms that compute in float32."""


def _release(part: Mechanism, updates: Updates, seed: int) -> Reals:
    return as_vector(part.release(updates.copy(), seed), updates.shape[1])


def _updates(part: Mechanism, rng: np.random.Generator, m: int = 5, d: int = 40) -> Updates:
    """Rows of half the bound each."""
    rows = rng.standard_normal((m, d))
    return 0.5 * part.clip_bound * rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _directions(d: int, rng: np.random.Generator) -> Iterator[Reals]:
    """Unit vectors: any, along an axis, and spread evenly, so that pieces of it are short where it is long."""
    row = rng.standard_normal(d)
    yield row / np.linalg.norm(row)
    yield np.eye(d)[int(rng.integers(d))]
    yield np.full(d, d**-0.5)


def _probes(part: Mechanism, rng: np.random.Generator) -> Iterator[tuple[Updates, Reals]]:
    """Rounds, and the update that one client sends in them."""
    for direction in _directions(40, rng):
        for scale in SCALES:
            rows = _updates(part, rng)
            rows[-1] = scale * part.clip_bound * direction
            yield rows, rows[-1]


def _longest(part: Mechanism) -> float:
    return part.clip_bound * (1 + ROUNDING)


def _noise_rounding(part: Mechanism, m: int) -> float:
    """What float32 leaves of the difference of two releases with the same noise."""
    return 40 * 1e-6 * part.noise_std(m)


@audited(Mechanism)
def one_update_moves_the_sum_by_the_bound(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """With the same noise, a client's update against next to nothing moves divisor * release by at most the clip bound."""
    for rows, _ in _probes(part, rng):
        seed, without = int(rng.integers(2**31)), rows.copy()
        without[-1] *= NEXT_TO_NOTHING * part.clip_bound / np.linalg.norm(without[-1])
        m = len(rows)
        moved = np.linalg.norm(_release(part, rows, seed) - _release(part, without, seed)) * part.divisor(m)
        yield Bound(float(moved), _longest(part) + _noise_rounding(part, m) * part.divisor(m))


def _hides_presence(part: Mechanism) -> str:
    return "" if part.removes else "it hides what a client sends, not that it takes part"


@audited(Mechanism, needs=_hides_presence)
def one_client_moves_the_sum_by_the_bound(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """With the same noise, the presence of a client moves divisor * release by at most the clip bound."""
    for rows, _ in _probes(part, rng):
        seed, m = int(rng.integers(2**31)), len(rows)
        moved = np.linalg.norm(_release(part, rows, seed) - _release(part, rows[:-1], seed)) * part.divisor(m)
        yield Bound(float(moved), _longest(part) + _noise_rounding(part, m) * part.divisor(m))


@audited(Mechanism)
def short_updates_count_in_full(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """An update within the bound enters the sum as it is, a longer one with its direction: sum / divisor is the mean."""
    for rows, update in _probes(part, rng):
        seed, m, without = int(rng.integers(2**31)), len(rows), rows.copy()
        without[-1] *= NEXT_TO_NOTHING * part.clip_bound / np.linalg.norm(without[-1])
        moved = (_release(part, rows, seed) - _release(part, without, seed)) * part.divisor(m)
        expected = update * min(1.0, part.clip_bound / max(float(np.linalg.norm(update)), 1e-300))
        limit = 10 * ROUNDING * part.clip_bound + _noise_rounding(part, m) * part.divisor(m)
        yield Bound(float(np.linalg.norm(moved - expected)), limit, "the clipped update is not what entered the sum")


@audited(Mechanism)
def hostile_updates_are_refused_or_clipped(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """NaN and infinity raise a ValueError or change nothing; an update of 1e200 or of zeros is as good as any other."""
    rows, m = _updates(part, rng), 5
    for value in (math.nan, math.inf, -math.inf):
        hostile = rows.copy()
        hostile[-1, 3] = value
        try:
            _release(part, hostile, 0)
        except ValueError:
            yield verdict("")
        except Exception as error:  # noqa: BLE001  # whatever else it is, it is not a refusal
            yield verdict(f"an update with {value} {_said(error)}; expected a ValueError, or a finite release")
    for scale in (1e200, 0.0):
        big = rows.copy()
        big[-1] = scale
        moved = (_release(part, big, 0) - _release(part, rows, 0)) * part.divisor(m)
        rest = (min(1.0, scale) * part.clip_bound * 40**-0.5 * np.ones(40)) - rows[-1]
        limit = 10 * ROUNDING * part.clip_bound + _noise_rounding(part, m) * part.divisor(m)
        yield Bound(float(np.linalg.norm(moved - rest)), limit, f"an update of entries {scale:g} is clipped wrongly")


def _has_counts(part: Mechanism) -> str:
    return "" if part.release_with_counts else "it is told no sample counts"


@audited(Mechanism, needs=_has_counts)
def claimed_counts_do_not_weigh(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """With claimed sample counts of 1 and 50 a client still moves divisor * release by at most the clip bound."""
    call = part.release_with_counts
    assert call is not None
    for counts in ([1, 1, 1, 1, 50], [50, 50, 50, 50, 1]):
        rows = _updates(part, rng)
        rows[-1] *= 100
        without, seed, m = rows.copy(), int(rng.integers(2**31)), len(rows)
        without[-1] *= NEXT_TO_NOTHING * part.clip_bound / np.linalg.norm(without[-1])
        first, second = (as_vector(call(x.copy(), seed, counts), x.shape[1]) for x in (rows, without))
        moved = np.linalg.norm(first - second) * part.divisor(m)
        yield Bound(float(moved), _longest(part) + _noise_rounding(part, m) * part.divisor(m))


@lru_cache(maxsize=4)
def _noise(part: Mechanism, seed: int) -> Reals:
    """(TRIALS, WIDTH) noise in units of the stated deviation, half of it on top of updates beyond the bound."""
    rows = np.full((3, WIDTH), NEXT_TO_NOTHING * part.clip_bound / WIDTH)
    quiet = [_release(part, rows, seed + trial) for trial in range(TRIALS // 2)]
    rows[:, :] = np.random.default_rng(seed).standard_normal((3, WIDTH)) * part.clip_bound
    loud = np.array([_release(part, rows, seed + trial) for trial in range(TRIALS // 2, TRIALS)])
    loud = (loud - loud.mean(axis=0)) * math.sqrt(len(loud) / (len(loud) - 1))  # the mean is not ours to know
    return np.concatenate([quiet, loud]) / part.noise_std(3)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31 - TRIALS))


@audited(Mechanism)
def noise_has_the_stated_scale(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """The noise has the standard deviation that is stated, whatever the updates are."""
    noise = _noise(part, _seed(rng))
    for name, rows, freedom in (("of short updates", noise[: TRIALS // 2], 0), ("of long updates", noise[TRIALS // 2 :], 1)):
        degrees = (len(rows) - freedom) * WIDTH
        square = float((rows**2).sum()) * (len(rows) - freedom) / len(rows)
        found = math.sqrt(square / degrees)
        reason = f"the noise on the release {name} has {found:.4f} of the stated deviation"
        yield Bound(abs(square / degrees - 1) / math.sqrt(2 / degrees), SIGMAS, reason)


@audited(Mechanism)
def noise_is_normal(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """The noise has the distribution function of the normal law (Kolmogorov-Smirnov) and no mean."""
    from scipy.special import ndtr  # noqa: PLC0415  # loaded when noise is judged

    noise = np.sort(_noise(part, _seed(rng))[: TRIALS // 2].reshape(-1))
    steps = np.arange(noise.size + 1) / noise.size
    below = ndtr(noise / max(float(noise.std()), 1e-300))
    distance = max(float((steps[1:] - below).max()), float((below - steps[:-1]).max()))
    yield Bound(distance * math.sqrt(noise.size), 3.6, "the noise is not normal")  # 1e-11: sqrt(log(2/alpha)/2)
    yield Bound(abs(float(noise.mean())) * math.sqrt(noise.size), SIGMAS, "the noise has a mean")


@audited(Mechanism)
def noise_is_independent(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """Noise of one coordinate says nothing of another's, nor of the same one's in another release: none is used twice."""
    noise = _noise(part, _seed(rng))[: TRIALS // 2]
    between = noise @ noise.T / WIDTH
    shared = float(np.abs(between - np.diag(np.diag(between))).max())
    yield Bound(shared * math.sqrt(WIDTH), SIGMAS, "two releases share noise")
    spectrum = np.abs(np.fft.rfft(noise, axis=1)) ** 2
    lags = np.fft.irfft(spectrum.mean(axis=0), WIDTH)[1 : WIDTH // 2 + 1] / WIDTH
    yield Bound(float(np.abs(lags).max()) * math.sqrt(noise.size), SIGMAS, "coordinates of a release share noise")


def _said(error: Exception) -> str:
    return f"raised {type(error).__name__}: {error}" if not str(error).startswith("returned") else str(error)


PUBLISHED: Final = (
    (1.0, 1, 1.0, 3.7306),
    (1.0, 10, 1.0, 11.7973),
    (0.8, 10, 1.0, 9.5486),
    (0.5, 50, 3.0, 5.0587),
    (0.1, 100, 1.0, 3.9417),
    (0.01, 1000, 1.0, 1.4146),
)
"""Sampling, rounds, epsilon at delta = 1e-5, and the least noise multiplier for it, by composition on a fine grid."""


@audited(Accountant)
def never_below_the_exact_gaussian(part: Accountant, rng: np.random.Generator) -> Iterator[Bound]:
    """Without sampling, T rounds of noise z cost what one of z / sqrt(T) does, exactly known (Balle & Wang 2018)."""
    for _ in range(6):
        noise, rounds = float(rng.uniform(1.0, 20.0)), int(rng.integers(1, 60))
        spent = part.epsilon(noise, 1e-5, 1.0, rounds)
        reason = f"{rounds} rounds of noise {noise:.3g} do not keep the epsilon = {spent:.4g} that they are said to cost"
        yield Bound(_gaussian_delta(math.sqrt(rounds) / noise, spent), 1e-5 * (1 + 1e-6), reason)


def _gaussian_delta(mu: float, epsilon: float) -> float:
    """Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu): Balle & Wang 2018 (arXiv 1805.06530), Theorem 8."""
    from scipy.special import log_ndtr, ndtr  # noqa: PLC0415  # loaded when an accountant is judged

    return float(ndtr(mu / 2 - epsilon / mu) - np.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


@audited(Accountant)
def never_below_published_costs(part: Accountant, rng: np.random.Generator) -> Iterator[Bound]:
    """Poisson-sampled rounds cost no less than composed numerically on a fine grid."""
    del rng
    for sampling, rounds, epsilon, noise in PUBLISHED:
        spent = part.epsilon(noise, 1e-5, sampling, rounds)
        yield Bound(epsilon * (1 - 1e-3), spent, f"q={sampling}, {rounds} rounds, noise {noise}: said to cost {spent:.4g}")


@audited(Accountant)
def more_costs_more(part: Accountant, rng: np.random.Generator) -> Iterator[Bound]:
    """More rounds, more sampling or less noise never cost less."""
    noise, sampling, rounds = float(rng.uniform(1.5, 6)), float(rng.uniform(0.1, 0.5)), int(rng.integers(2, 20))
    base = part.epsilon(noise, 1e-5, sampling, rounds)
    yield Bound(base, part.epsilon(noise, 1e-5, sampling, 2 * rounds), "twice the rounds cost less")
    yield Bound(base, part.epsilon(noise, 1e-5, 2 * sampling, rounds), "twice the sampling costs less")
    yield Bound(part.epsilon(2 * noise, 1e-5, sampling, rounds), base, "twice the noise costs more")
    yield Bound(base, part.epsilon(noise, 1e-7, sampling, rounds), "a smaller delta costs less")


def _calibrates(part: Accountant) -> str:
    return "" if part.calibrate else "it does not calibrate"


@audited(Accountant, needs=_calibrates)
def calibrates_to_the_safe_side(part: Accountant, rng: np.random.Generator) -> Iterator[Bound]:
    """The noise that it finds for an epsilon keeps to it, and is not 0.1 % below the least that is known to."""
    assert part.calibrate is not None
    epsilon = float(rng.uniform(0.5, 4))
    noise = part.calibrate(epsilon, 1e-5, 0.5, 10)
    yield Bound(part.epsilon(noise, 1e-5, 0.5, 10), epsilon * (1 + 1e-9), "its own noise overspends by its own account")
    for sampling, rounds, published, least in PUBLISHED[:3]:
        yield Bound(least * (1 - 1e-3), part.calibrate(published, 1e-5, sampling, rounds))
