"""The privacy loss of Poisson-sampled Gaussian releases, composed: an upper bound of epsilon at every delta.

The loss of one release is rounded to a grid so that the pair of distributions only becomes easier to tell apart, and
releases are composed by FFT. The FFT is taken of the exponentially tilted distribution, whose bulk lies where
the loss exceeds epsilon with probability near delta: untilted, its rounding error of about T 1e-16 drowns a delta of 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

import numpy as np
import numpy.typing as npt
from scipy.fft import next_fast_len
from scipy.optimize import minimize_scalar
from scipy.signal import lfilter
from scipy.special import ndtr, ndtri_exp

from fl_impl.privacy.analytic import gaussian_epsilon

Vector = npt.NDArray[np.float64]

CUT: Final = math.log(1e-4)
"""Log of the share of delta that all tails beyond the grid may hold: they count as an infinite loss."""
COARSEST: Final = 250
"""Grid steps in the range of one release with which the search for a grid begins."""
CLOSE: Final = 1.5e-3
"""Relative: a grid is fine enough when half of it changes epsilon by less. A third of that is left of the error."""
LONGEST: Final = 2**23
"""Grid points after which no finer grid is tried."""
WINDOW: Final = 46.0
"""Tilted mass outside of the FFT's window: e^-46 = 1e-20."""


@dataclass(frozen=True)
class Releases:
    """`count` sums of clipped updates with noise N(0, (noise C)^2 I), each client in each with probability `sampling`."""

    noise: float
    sampling: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for a noise, probability or count out of range; NaN is."""
        if not (self.noise >= 0 and 0 < self.sampling <= 1 and self.count >= 0):
            raise ValueError(f"expected noise >= 0, sampling in (0, 1] and count >= 0; got {self}")


@dataclass(frozen=True, eq=False)
class Loss:
    """The privacy loss of one release on the grid: P(loss = (first + k) step) = mass[k], P(loss = inf) = infinite."""

    first: int
    mass: Vector
    infinite: float
    count: int

    @cached_property
    def places(self) -> Vector:
        """The number of each grid point."""
        return self.first + np.arange(len(self.mass), dtype=np.float64)

    @cached_property
    def logs(self) -> Vector:
        """log of the mass."""
        with np.errstate(divide="ignore"):
            return np.log(self.mass)

    def log_mgf(self, tilt: float) -> float:
        """log E exp(tilt k) of one release, k the number of the grid point, the infinite part apart."""
        exponents = self.logs + tilt * self.places
        peak = float(exponents.max())
        return peak + math.log(float(np.exp(exponents - peak).sum()))

    def tilted(self, tilt: float) -> Vector:
        """The distribution with mass proportional to exp(tilt k)."""
        return np.exp(self.logs + tilt * self.places - self.log_mgf(tilt))


def composed_epsilon(releases: Sequence[Releases], delta: float) -> float:
    """An upper bound of the epsilon at delta of all releases together, adding or removing one client.

    Connect-the-dots discretisation (Doroshenko et al. 2022, arXiv 2207.04380), composed by FFT (Koskela, Jalko & Honkela
    2020, arXiv 1906.03049) after tilting; within 0.1 % of the truth, and exact where all take part. The releases may be
    chosen adaptively. No noise costs infinity.
    """
    if any(part.noise == 0 and part.count for part in releases):
        return math.inf
    mu = math.sqrt(sum(part.count / part.noise**2 for part in releases if part.count and part.sampling == 1))
    parts = [part for part in releases if part.count and part.noise < math.inf and part.sampling < 1]
    if not parts:
        return gaussian_epsilon(mu, delta)
    parts += [Releases(1 / mu)] if mu else []  # all that everybody takes part in is one Gaussian release
    taking_part = -math.expm1(sum(part.count * math.log1p(-part.sampling) for part in parts if part.sampling < 1))
    if all(part.sampling < 1 for part in parts) and taking_part <= delta:
        return 0.0  # with probability 1 - delta the client is in no release at all
    tail = delta * math.exp(CUT) / sum(part.count for part in parts)
    reach = [-part.noise * float(ndtri_exp(math.log(tail))) for part in parts]
    step = max(_loss_at(1 + far, part) - _loss_at(-far, part) for far, part in zip(reach, parts, strict=True)) / COARSEST
    bound, thetas = math.inf, dict[bool, float]()
    while True:
        finer, length = _bound(parts, reach, delta, step, thetas)
        if finer >= bound * (1 - CLOSE) or finer == 0 or length > LONGEST:
            return min(bound, finer)
        bound, step = finer, step / 2


def _bound(
    parts: Sequence[Releases], reach: Sequence[float], delta: float, step: float, thetas: dict[bool, float]
) -> tuple[float, int]:
    """The bound on a grid of this step, and the points that it took. `thetas` keeps the tilt of either direction."""
    worst, longest = 0.0, 0
    for adding in (False, True):
        losses = [_discretised(part, far, step, adding=adding) for far, part in zip(reach, parts, strict=True)]
        infinite = -math.expm1(sum(loss.count * math.log1p(-loss.infinite) for loss in losses))
        if infinite >= delta:
            return math.inf, 0
        tilt = _tilt(losses, delta, step, thetas.get(adding))
        thetas[adding] = tilt / step
        epsilon, length = _epsilon(losses, step, delta, infinite, tilt)
        worst, longest = max(worst, epsilon), max(longest, length)
    return worst, longest


def _tilt(losses: Sequence[Loss], delta: float, step: float, theta: float | None) -> float:
    """theta step of about the least Chernoff bound of epsilon. Any tilt is exact; one near the best is precise too."""

    def chernoff(log_tilt: float) -> float:
        tilt = math.exp(log_tilt)
        return (sum(loss.count * loss.log_mgf(tilt) for loss in losses) - math.log(delta)) / tilt

    points = sum(loss.count * len(loss.mass) for loss in losses)
    bounds = (math.log(1e-2 / points), math.log(4.0))
    if theta is not None:  # that of the grid before
        bounds = (math.log(theta * step) - 1, min(math.log(theta * step) + 1, bounds[1]))
    return math.exp(minimize_scalar(chernoff, bounds=bounds, method="bounded", options={"xatol": 0.2}).x)


def _loss_at(x: float, part: Releases) -> float:
    """log of (1 - q) N(0, z^2) + q N(1, z^2) over N(0, z^2), at x."""
    rest = math.log1p(-part.sampling) if part.sampling < 1 else -math.inf
    return float(np.logaddexp(rest, math.log(part.sampling) + (2 * x - 1) / (2 * part.noise**2)))


def _where(losses: Vector, part: Releases) -> Vector:
    """The x with `_loss_at(x)` = loss; -inf where no x has so small a loss."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shifted = np.log(np.expm1(np.minimum(losses, 700)) + part.sampling) - math.log(part.sampling)
    shifted = np.where(losses > 700, losses - math.log(part.sampling), shifted)  # e^loss alone would overflow
    return np.where(np.isnan(shifted), -math.inf, part.noise**2 * shifted + 0.5)


def _between(low: Vector, high: Vector, part: Releases, mean: float) -> Vector:
    """The mass of N(mean, z^2) in each interval, to full relative precision in either tail."""
    low, high = (low - mean) / part.noise, (high - mean) / part.noise
    upper = low > 0
    return ndtr(np.where(upper, -low, high)) - ndtr(np.where(upper, -high, low))


def _discretised(part: Releases, far: float, step: float, *, adding: bool) -> Loss:
    """The loss of one release, with or against the client, where nothing beyond `far` counts as finite.

    Within a cell the mass of both distributions is moved to the cell's two ends so that both totals stay: of all pairs
    with these totals the one that is easiest to tell apart.
    """
    low, high = _loss_at(-far, part), _loss_at(1 + far, part)
    low, high = (-high, -low) if adding else (low, high)
    losses = step * np.arange(math.floor(low / step), math.ceil(high / step) + 1, dtype=np.float64)
    x = _where(-losses if adding else losses, part)
    x[0] = math.inf if adding else -math.inf  # smaller losses count as the smallest on the grid
    cells = (x[1:], x[:-1]) if adding else (x[:-1], x[1:])
    null, shifted = (_between(*cells, part, mean) for mean in (0.0, 1.0))
    mixed = (1 - part.sampling) * null + part.sampling * shifted
    upper, lower = (null, mixed) if adding else (mixed, null)
    with np.errstate(invalid="ignore", over="ignore"):
        raised = (upper - lower * np.exp(losses[:-1])) / -math.expm1(-step)
    raised = np.clip(np.where(np.isfinite(raised), raised, upper), 0.0, upper)
    mass = np.append(upper - raised, 0.0) + np.insert(raised, 0, 0.0)
    return Loss(round(losses[0] / step), mass, _beyond(float(x[-1]), part, adding=adding), part.count)


def _beyond(x: float, part: Releases, *, adding: bool) -> float:
    """The probability of a loss above that at x."""
    if adding:
        return float(ndtr(x / part.noise))
    q = part.sampling
    return (1 - q) * float(ndtr(-x / part.noise)) + q * float(ndtr((1 - x) / part.noise))


def _epsilon(losses: Sequence[Loss], step: float, delta: float, infinite: float, tilt: float) -> tuple[float, int]:
    """The least epsilon >= 0 with infinite + E max(0, 1 - exp(epsilon - sum of losses)) <= delta; the points of its grid."""
    first, probabilities = _convolved(losses, tilt)
    base = sum(loss.count * loss.log_mgf(tilt) for loss in losses)
    sums = step * (first + np.arange(len(probabilities)))
    mass = probabilities * np.exp(np.minimum(base - tilt * sums / step, 700.0))
    at_least = np.cumsum(mass[::-1])[::-1] + infinite
    shrunk = lfilter([1.0], [1.0, -math.exp(-step)], mass[::-1])[::-1]  # sum over s' >= s of mass(s') exp(s - s')
    within = np.flatnonzero(at_least - shrunk <= delta)
    if not len(within):
        return math.inf, len(mass)
    at = int(within[0])
    rest = max(float(at_least[at]) - delta, 0.0)
    down = math.log(rest / float(shrunk[at])) if at and rest else 0.0  # below the grid point, above the one before
    return max(0.0, float(sums[at]) + max(down, -step)), len(mass)


def _convolved(losses: Sequence[Loss], tilt: float) -> tuple[int, Vector]:
    """The distribution of the sum of all tilted losses: the number of its first grid point, and its mass.

    What lies outside of the window wraps around into it: e^-46 of the tilted mass, by Chernoff's bound.
    """
    tilted = [loss.tilted(tilt) for loss in losses]
    variance = 0.0
    for loss, mass in zip(losses, tilted, strict=True):
        mean = float(mass @ loss.places)
        variance += loss.count * float(mass @ (loss.places - mean) ** 2)
    base = sum(loss.count * loss.log_mgf(tilt) for loss in losses)

    def end(sign: int) -> float:
        """A grid point beyond which, on this side, there is e^-46."""
        rates = [rate for rate in np.array([0.5, 2.0, 8.0, 32.0]) / math.sqrt(max(variance, 1e-2)) if rate < 50]
        grown = [sum(loss.count * loss.log_mgf(tilt + sign * rate) for loss in losses) - base for rate in rates]
        return sign * min((growth + WINDOW) / rate for growth, rate in zip(grown, rates, strict=True))

    least = sum(loss.count * loss.first for loss in losses)
    most = least + sum(loss.count * (len(loss.mass) - 1) for loss in losses)
    first, last = max(least, math.floor(end(-1))), min(most, math.ceil(end(1)))
    length = cast("int", next_fast_len(max(last - first + 1, *(len(mass) for mass in tilted)), real=True))
    product = np.ones(length // 2 + 1, np.complex128)
    for loss, mass in zip(losses, tilted, strict=True):
        product *= np.fft.rfft(mass, length) ** loss.count
    wrapped = np.maximum(np.fft.irfft(product, length), 0.0)
    return first, np.roll(wrapped, -((first - least) % length))[: last - first + 1]
