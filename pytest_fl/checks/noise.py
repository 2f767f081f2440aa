"""The law of a mechanism's noise, where little of it lies: its tails, its blocks, and the bits of the floats it is added to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.guard import as_vector
from pytest_fl.subjects.parts import Mechanism

Reals = npt.NDArray[np.float64]

WIDE: Final = 200_003
"""Coordinates of one release, more than any block of noise that a library draws at once."""
FEW: Final = 2_000
"""Pairs of coordinates, fewer of which tell nothing."""
DRAWS: Final = 4_000_000
"""Of noise, for its tails."""
TAILS: Final = (3.0, 3.5, 4.0, 4.5)
"""Deviations beyond which draws are counted: 27 of 4e6 lie beyond the last."""
UNLIKELY: Final = 1e-10
"""The probability with which sound noise is taken for broken."""
SIGMAS: Final = 6.5
"""The same in deviations of a normal statistic."""
NEAR: Final = (1 / 2, 1 / 16)
"""How near 0 a sum has cancelled, in entries: where the divisor is no power of 2, its rounding hides what is farther."""
BITS: Final = (*range(18, 28), *range(46, 58))
"""-log2 of the units, in sizes of an update's entry, in whose multiples floats of 24 or 53 bits may lie."""


def _quiet(part: Mechanism, d: int) -> Reals:
    return np.full((3, d), 1e-9 * part.clip_bound / d)


def _noise(part: Mechanism, d: int, seed: int) -> Reals:
    """Noise in units of the stated deviation."""
    return as_vector(part.release(_quiet(part, d), seed), d) / part.noise_std(3)


@lru_cache(maxsize=2)
def _much_noise(part: Mechanism, draws: int, seed: int) -> Reals:
    """So many draws, from releases of WIDE coordinates."""
    return np.concatenate([_noise(part, WIDE, seed + number) for number in range(-(-draws // WIDE))])


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**30))


def count_beyond(noise: Reals) -> Iterator[Bound]:
    """That as many draws lie beyond each of TAILS as of a normal law, by the tails of the Poisson law."""
    from scipy.special import gammaincc, ndtr  # noqa: PLC0415  # loaded when noise is judged

    for far in TAILS:
        above, below = int((noise > far).sum()), int((noise < -far).sum())
        for sides, found in ((1, above), (1, below), (2, above + below)):
            expected = sides * noise.size * float(ndtr(-far))
            least = float(gammaincc(found + 1, expected))  # P(so few or fewer)
            most = 1 - float(gammaincc(found, expected)) if found else 1.0  # P(so many or more)
            reason = f"{above} and {below} of {noise.size} draws are {far} deviations above and below; expected {expected:.1f}"
            yield Bound(UNLIKELY, 2 * min(least, most), f"{reason} of {'one' if sides == 1 else 'both'}")


@audited(Mechanism)
def tails_are_normal(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """As many draws lie beyond 3, 3.5, 4 and 4.5 deviations, on either side, as of the normal law: no tail is cut or fat."""
    yield from count_beyond(_much_noise(part, DRAWS, _seed(rng)))


@audited(Mechanism)
def blocks_share_no_noise(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """In 200 003 coordinates no noise comes again, at any distance, in itself or in size, forwards or backwards."""
    from scipy.fft import next_fast_len  # noqa: PLC0415  # loaded when noise is judged

    noise, length = _noise(part, WIDE, _seed(rng)), cast("int", next_fast_len(2 * WIDE, real=True))
    sizes = np.abs(noise) - math.sqrt(2 / math.pi)
    for name, x in (("noise", noise), ("size of noise", sizes)):
        spectrum = np.fft.rfft((x - x.mean()) / max(float(x.std()), 1e-300), length)
        lags = np.abs(np.fft.irfft(np.abs(spectrum) ** 2, length)[1 : WIDE - FEW]) / np.sqrt(WIDE - np.arange(1, WIDE - FEW))
        yield _largest(lags, f"the {name} of coordinates {{}} apart is the same, or depends")
        mirrored = np.abs(np.fft.irfft(spectrum**2, length)[FEW : 2 * WIDE - FEW])
        pairs = WIDE - np.abs(WIDE - 1 - np.arange(FEW, 2 * WIDE - FEW))
        yield _largest(mirrored / np.sqrt(2 * pairs), f"the {name} comes backwards, too")


def _largest(deviations: Reals, reason: str) -> Bound:
    """The largest of many normal statistics; products of few draws have longer tails."""
    worst = int(np.argmax(deviations))
    return Bound(float(deviations[worst]), SIGMAS + 1, reason.format(worst + 1))


@audited(Mechanism)
def noise_of_seeds_is_independent(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """Near seeds and far ones give noise that has nothing in common, also shifted, also in size."""
    start, d = _seed(rng), 5_003
    noise = np.array([_noise(part, d, start + step) for step in (0, 1, 2, 3, 16, 256, 65_536)])
    for rows in (noise, np.abs(noise) - math.sqrt(2 / math.pi)):
        spectra = np.fft.rfft(rows / rows.std(axis=1, keepdims=True), axis=1)
        for i in range(len(rows) - 1):
            crossed = np.fft.irfft(spectra[i] * np.conj(spectra[i + 1 :]), d, axis=1) / math.sqrt(d)
            yield Bound(float(np.abs(crossed).max()), SIGMAS + 1, "the noise of two seeds is the same, or depends")


@audited(Mechanism)
def low_bits_say_nothing(part: Mechanism, rng: np.random.Generator) -> Iterator[Bound]:
    """The low bits of a release are those of noise alone: floats of a sum and of bare noise lie on the same grid.

    Noise drawn as floats fills the floats around 0, while its sum with an update's entry x, rounded, is a multiple of the
    unit in the last place of x: one coordinate may tell whether a client took part (Mironov 2012). So near 0, where
    the sum has cancelled, such multiples are counted with a client and without.
    """
    d, trials = 65_536, 16
    entry = 2.0 ** math.floor(math.log2(part.clip_bound / math.sqrt(d)))
    start, sums = _seed(rng), list[npt.NDArray[np.longdouble]]()
    for at, size in enumerate((1e-12 * entry, entry)):
        rows = np.full((1, d), size)
        released = [as_vector(part.release(rows.copy(), start + trials * at + trial), d) for trial in range(trials)]
        exact = np.concatenate(released).astype(np.longdouble) * np.longdouble(part.divisor(1))
        sums.append(exact[np.abs(exact) < entry / 2])
    gaps = np.diff(np.unique(sums[0]))
    units = [float(np.median(gaps))] if len(gaps) else []  # of a coarse grid: an update may lie beside it
    units += [entry * 2.0**-bits for bits in BITS]
    for unit, near in product(units, NEAR):
        counts = [_multiples(x[np.abs(x) < near * entry] / np.longdouble(unit)) for x in sums]
        reason = f"near 0, {counts[1]} sums with a client are multiples of {unit:.3g} or not, and {counts[0]} without"
        yield Bound(UNLIKELY, _same_share(*counts), reason)


def _multiples(units: npt.NDArray[np.longdouble]) -> tuple[int, int]:
    """How many are next to a whole number, and how many are not."""
    whole = int((np.abs(units - np.rint(units)) < 1 / 8).sum())
    return whole, len(units) - whole


def _same_share(first: tuple[int, int], second: tuple[int, int]) -> float:
    """The p-value of Fisher's exact test that both were drawn with one share."""
    from scipy.stats import fisher_exact  # noqa: PLC0415  # loaded when noise is judged

    return float(cast("Any", fisher_exact([first, second])).pvalue)
