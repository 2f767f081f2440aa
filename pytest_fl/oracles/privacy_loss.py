"""What Poisson-sampled Gaussian rounds cost, by the harness itself: closed forms, and composition on a lattice of losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu): Balle & Wang 2018 (arXiv 1805.06530), Theorem 8."""
    from scipy.special import log_ndtr, ndtr  # noqa: PLC0415  # loaded when privacy is judged

    away = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return float(ndtr(mu / 2 - epsilon / mu)) - math.exp(min(away, 700.0))


def one_round_delta(noise: float, sampling: float, epsilon: float) -> float:
    """E max(0, mixture - e^epsilon N(0, z^2)) for one round, of removing a client: the worse direction."""
    from scipy.special import ndtr  # noqa: PLC0415  # as above

    if epsilon < 700:
        x = noise**2 * math.log((math.expm1(epsilon) + sampling) / sampling) + 0.5
    else:
        x = noise**2 * (epsilon - math.log(sampling)) + 0.5
    moved, still = float(ndtr((1 - x) / noise)), float(ndtr(-x / noise))
    rest = (math.expm1(min(epsilon, 700.0)) + sampling) * still
    return sampling * moved - rest


def least_epsilon(delta_at: Callable[[float], float], delta: float) -> float:
    """The least epsilon >= 0 with delta_at(epsilon) <= delta."""
    from scipy.optimize import brentq  # noqa: PLC0415  # as above

    if delta_at(0.0) <= delta:
        return 0.0
    high = 1.0
    while delta_at(high) > delta:
        high *= 2
    return float(brentq(lambda epsilon: delta_at(epsilon) - delta, 0.0, high, rtol=1e-13, xtol=1e-15))  # type: ignore[arg-type]


def round_spread(noise: float, sampling: float) -> float:
    """About the standard deviation of the loss of one round."""
    return min(sampling * math.sqrt(math.expm1(min(noise**-2, 700))), 1 / noise)


def epsilon_of(noise: float, delta: float, sampling: float, rounds: int) -> float | None:
    """The epsilon at delta, within 0.1 %; None where the lattice would be too long, or its FFT too coarse for delta."""
    if rounds == 0:
        return 0.0
    if noise == 0:
        return math.inf
    if sampling == 1:
        return least_epsilon(lambda epsilon: gaussian_delta(math.sqrt(rounds) / noise, epsilon), delta)
    if rounds == 1:
        return least_epsilon(lambda epsilon: one_round_delta(noise, sampling, epsilon), delta)
    if -math.expm1(rounds * math.log1p(-sampling)) <= delta:
        return 0.0
    return lattice_epsilon(noise, delta, sampling, rounds)


def lattice_epsilon(noise: float, delta: float, sampling: float, rounds: int, *, points: float = 3e6) -> float | None:
    """Composition on a lattice in extended precision, extrapolated to no step; None where it takes too many points."""
    spread = round_spread(noise, sampling)
    step = max(min(spread / 20, 0.02), (10 / noise + 0.5 / noise**2) / 200_000)
    if sampling == 1 or 20 * math.sqrt(rounds) * spread / step > points:
        return None
    coarse, fine = (
        max(_composed(noise, delta, sampling, rounds, h, adding=adding) for adding in (False, True)) for h in (step, step / 2)
    )
    return max(0.0, (4 * fine - coarse) / 3)


def _composed(noise: float, delta: float, sampling: float, rounds: int, step: float, *, adding: bool) -> float:
    """Each cell's mass of both distributions is moved to its ends; the loss that results is composed by a long FFT."""
    from scipy.fft import next_fast_len  # noqa: PLC0415  # as above

    loss, mass = _one_round(noise, delta * 1e-5 / rounds, sampling, step, adding=adding)
    width = 24 * math.sqrt(rounds) * round_spread(noise, sampling) + 3 * (loss[-1] - loss[0])
    length = cast("int", next_fast_len(int(width / step) + len(mass), real=True))
    start = rounds * round(loss[0] / step)
    first = max(start, round((rounds * float(mass @ loss) - width / 3) / step))
    total = np.fft.irfft(np.fft.rfft(mass.astype(np.longdouble), length) ** rounds, length)
    total = np.roll(total, -((first - start) % length)).astype(np.float64)
    sums = step * (first + np.arange(length))

    def delta_at(epsilon: float) -> float:
        above = sums > epsilon
        return float(-np.expm1(epsilon - sums[above]) @ total[above])

    return least_epsilon(delta_at, delta)


def _one_round(noise: float, tail: float, sampling: float, step: float, *, adding: bool) -> tuple[Vector, Vector]:
    """The lattice of losses of one round, and the mass at each point."""
    from scipy.special import ndtr, ndtri  # noqa: PLC0415  # as above

    far, rest = -noise * float(ndtri(tail)), math.log1p(-sampling)
    low, high = (float(np.logaddexp(rest, math.log(sampling) + (2 * x - 1) / (2 * noise**2))) for x in (-far, 1 + far))
    low, high = (-high, -low) if adding else (low, high)
    loss = step * np.arange(math.floor(low / step), math.ceil(high / step) + 1, dtype=np.float64)
    with np.errstate(all="ignore"):
        inner = np.expm1(-loss if adding else loss) + sampling
        x = np.nan_to_num(noise**2 * np.log(inner / sampling) + 0.5, nan=-np.inf, neginf=-np.inf)
    x[0] = np.inf if adding else -np.inf
    null, moved = (
        np.abs(np.where(np.maximum(x[1:], x[:-1]) < mean, np.diff(ndtr((x - mean) / noise)), np.diff(ndtr((mean - x) / noise))))
        for mean in (0.0, 1.0)  # each tail keeps its digits
    )
    mixed = (1 - sampling) * null + sampling * moved
    upper, lower = (null, mixed) if adding else (mixed, null)
    right = np.clip((upper - lower * np.exp(loss[:-1])) / -math.expm1(-step), 0, upper)
    mass = np.append(upper - right, 0.0) + np.insert(right, 0, 0.0)
    return loss, mass
