"""Inputs that attain an exact constant, by construction, up to a millionth: rows 0..f-1 are Byzantine.

Each is the case of equality of the proof in docs/theory.md. A millionth (NUDGE) settles, against the honest mean, what
would be a tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_fl.oracles.constants import isotonic
from pytest_fl.oracles.krum_dual import chosen_inside, chosen_outside

Floats = npt.NDArray[np.float64]
Shape = Callable[[int, int], Floats]
"""(n, f) -> (n, d), for f >= 1 and n > 2f."""
NUDGE: Final = 1e-6


def _on_a_line(*groups: tuple[int, float]) -> Floats:
    return np.repeat([value for _, value in groups], [count for count, _ in groups])[:, None]


def unanimous_but_f(n: int, f: int) -> Floats:
    """n - 2f honest rows and the attackers at 0, f honest rows at 1: any robust rule gives 0. f/(n - 2f) for all rules."""
    return _on_a_line((n - f, 0.0), (f, 1.0))


def two_sided(n: int, f: int) -> Floats:
    """f honest rows at 1, the others at 0, the attackers as far on the other side: 4f/(n - 2f) for those who average.

    NNM before any rule, Phocas, minimum variance, and Multi-Krum for n >= 3f.
    """
    return _on_a_line((f, -1 + NUDGE), (n - 2 * f, 0.0), (f, 1.0))


def of_ranks(n: int, f: int, *, low: int, high: int) -> Floats:
    """The sorted honest values that the mean of ranks low+1..high rewards most, the attackers above them or below."""
    weights = [1 / (high - low) if low <= rank < high else 0.0 for rank in range(n)]
    sides = [isotonic(weights[: n - f]), isotonic(weights[::-1][: n - f])]
    better = max((0, 1), key=lambda side: sum(value**2 for value in sides[side]))
    honest = np.array(sides[better]) / max(sides[better])
    return (1 - 2 * better) * np.concatenate([np.full(f, 2.0), honest])[:, None]


def median(n: int, f: int) -> Floats:
    """`of_ranks` of the midpoint median."""
    return of_ranks(n, f, low=(n - 1) // 2, high=n // 2 + 1)


def lower_median(n: int, f: int) -> Floats:
    """`of_ranks` of the lower median."""
    return of_ranks(n, f, low=(n - 1) // 2, high=(n - 1) // 2 + 1)


def half_apart(n: int, f: int) -> Floats:
    """Half of the rows at one point, the attackers among them, the others a little spread out: the geometric median stays.

    For odd n it is the median's. The spread keeps the minimiser unique for even n.
    """
    half = n // 2
    if n % 2:
        return np.hstack([median(n, f), np.zeros((n, 1))])
    x = np.zeros((n, 2))
    x[n - half :, 0] = 1
    x[n - half :, 1] = np.linspace(-1e-3, 1e-3, half)
    return x


def meamed(n: int, f: int) -> Floats:
    """The median at the edge of the lowest honest values, the attackers as far below it as the f highest are above."""
    low = n // 2 + 1 - f
    return _on_a_line((f, -1 - 2 * f / low + NUDGE), (low, -f / low), (n - 2 * f - low, 0.0), (f, 1.0))


def far_pair(n: int, f: int) -> Floats:
    """The pair that realises the diameter split, the attackers at the other end of the same diameter: minimum diameter."""
    a = n - 2 * f
    if a == 1:
        return _on_a_line((f, -5.0 * f - 1 + NUDGE), (1, -2.0 * f), (f - 1, 1.0), (1, f + 1.0))
    near = f / (a - 1)
    return _on_a_line((f, near + 2 * f + 1 - NUDGE), (1, float(f)), (a - 1, near), (f - 1, -1.0), (1, -f - 1.0))


def krum(n: int, f: int) -> Floats:
    """The winner beyond its honest neighbours, which are a simplex where that makes their own scores greater.

    For n <= 3f a chain of three points on a line; beyond, n - 2f dimensions. At (3, 1) alone nobody attains the constant
    but who breaks a tie, which then exists on every input, for the attacker.
    """
    h, a = n - f, n - 2 * f
    if n <= 3 * f:
        far = n / math.sqrt(f * a)
        return _on_a_line((1, far - NUDGE), (f - 1, far), (a, math.sqrt(f / a)), (f, -math.sqrt(a / f)))
    outside = chosen_outside(h, f)
    return _krum_outside(h, f) if chosen_inside(h, f, outside) <= outside else _krum_inside(h, f)


def _krum_outside(h: int, f: int) -> Floats:
    """w from the winner to its honest neighbours, D from them to the others, the other attackers `beyond` the winner."""
    a, n = h - f, h + f
    if a * f <= n:
        w = d = h / a
        beyond = 0.0
    elif 2 * (f - 1) * (a * f - n) <= f * (n - 1) * (a - f):
        rho = (a * f - n) / (f * (n - 1))
        w = math.sqrt(h * h / a / (a + 2 * rho + f * rho * rho))
        d, beyond = w * (1 + rho), rho * w
    else:
        d, w = h / math.sqrt(f * a), 2 * h * (f - 1) / (math.sqrt(a * f) * (h - 2))
        beyond = (a - f) * w / (2 * (f - 1))
    at = f * d / h
    neighbours = _simplex(a) * math.sqrt(max((h + h * at**2 - f * d**2) / a, 0.0))
    x = np.zeros((n, 1 + neighbours.shape[1]))
    x[:f, 0] = at + w + beyond
    x[0, 0] = at + w - NUDGE
    x[f : f + a, 0], x[f : f + a, 1:] = at, neighbours
    x[f + a :, 0] = at - d
    return x


def _krum_inside(h: int, f: int) -> Floats:
    """The same with an honest winner, and the attackers all beyond it."""
    alpha, n = h - f - 1, h + f
    rho = max(0.0, (alpha - 2) / n)
    form = np.array([[alpha**2 - alpha * f * rho + f, f], [f, f + f * alpha * rho / (1 + rho)]])
    direction = np.array([alpha + f, f])
    w, d = np.linalg.solve(form, direction) * h / math.sqrt(direction @ np.linalg.solve(form, direction))
    spread = math.sqrt(max((h + (f * d - w) ** 2 / h - w * w - f * d * d) / alpha, 0.0))
    neighbours, at = _simplex(alpha) * spread, (f * d - w) / h
    x = np.zeros((n, 1 + neighbours.shape[1]))
    x[:f, 0] = at + w + rho * w
    x[f, 0] = at + w - NUDGE
    x[f + 1 : f + 1 + alpha, 0], x[f + 1 : f + 1 + alpha, 1:] = at, neighbours
    x[f + 1 + alpha :, 0] = at - d
    return x


def _simplex(count: int) -> Floats:
    """(count, count - 1): the corners of a regular simplex, at distance 1 from 0."""
    if count == 1:
        return np.zeros((1, 0))
    centred = np.eye(count) - 1 / count
    corners = centred @ np.linalg.svd(centred)[0][:, : count - 1]
    return corners / np.linalg.norm(corners[0])


SHAPES: Final[dict[str, Shape]] = {
    "unanimous_but_f": unanimous_but_f,
    "two_sided": two_sided,
    "median": median,
    "lower_median": lower_median,
    "half_apart": half_apart,
    "meamed": meamed,
    "far_pair": far_pair,
    "krum": krum,
}
"""Every shape by its name."""

ATTAINED_BY: Final[dict[str, Shape]] = {
    "trimmed_mean": unanimous_but_f,
    "principal_trimmed_mean": unanimous_but_f,
    "coordinate_median": median,
    "coordinate_median_lower": lower_median,
    "geometric_median": half_apart,
    "meamed": meamed,
    "phocas": two_sided,
    "krum": krum,
    "multi_krum": two_sided,
    "minimum_diameter": far_pair,
    "minimum_variance": two_sided,
    "smea": two_sided,
    "nnm|trimmed_mean": two_sided,
    "nnm|coordinate_median": two_sided,
}
"""By the name of the rule in `theory.RULES`, the shape that attains its constant where that is exact."""


def shapes(n: int, f: int) -> Iterator[Floats]:
    """All of them at (n, f), narrow ones first, each once."""
    known: list[Floats] = []
    for x in sorted((shape(n, f) for shape in SHAPES.values()), key=lambda x: x.shape[1]):
        if not any(x.shape == other.shape and np.allclose(x, other) for other in known):
            known.append(x)
            yield x
