"""What is done with rows that no rule can compute with: the non-finite are dropped, the extreme are drawn in.

The usual path pays nothing for it: a kernel that meets such a row raises `Unfit`, and only then are the rows looked at.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.inputs import is_tensor
from fl_impl.aggregators.kernels import Geometry, Unfit, geometry, rank_mean
from fl_impl.aggregators.vectors import Vectors

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix

SMALLEST: Final = 1e-280
LARGEST: Final = 1e280
"""Between these, sums of squared distances neither lose digits to underflow nor saturate."""
REACH: Final = 2.0**200
"""Rows further from the centre than this many honest spreads are drawn in to it. Seen from the honest rows only the
direction is left of such a row, and squares of the distance still fit in float64."""


@dataclass(frozen=True)
class Screened:
    """The rows that a rule is to compute on, how many of them may be Byzantine, and their scale."""

    matrix: Matrix
    f: int
    rows: npt.NDArray[np.intp]
    """Their numbers among the caller's rows."""
    exponent: int = 0
    """They are the caller's, times 2 ** -exponent."""

    def context(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """What the rule is told beside the updates, for these rows at this scale."""
        told = dict(context)
        for name in ("previous", "root"):
            if told.get(name) is not None:
                told[name] = scaled(told[name], -self.exponent)
        if told.get("history") is not None:
            told["history"] = told["history"][self.rows]
        if "unit" in told:
            told["unit"] = math.ldexp(told["unit"] or 1.0, -self.exponent)
        if "rows" in told:
            told["rows"] = self.rows if told["rows"] is None else told["rows"][self.rows]
        return told

    def restore(self, result: Any) -> Any:
        """The result at the caller's scale."""
        return scaled(result, self.exponent)


def screened(
    rule: Callable[..., Any], x: Matrix, f: int, *, name: str, context: Mapping[str, Any], defended: bool = True
) -> Any:
    """rule(x, f, **context), on x as it is where that can be done, otherwise on what screening leaves of it.

    Raises ValueError if more than f rows are non-finite, or if any is and the rule has no defence.
    """
    for screen in _screens(x, f, name, defended):
        try:
            return screen.restore(rule(screen.matrix, screen.f, **screen.context(context)))
        except Unfit:
            continue
    raise ArithmeticError(f"{name}: the updates span more than floating point holds, even with extreme rows drawn in")


def measured(x: Matrix, f: int) -> Geometry:
    """The geometry of x. Raises Unfit for non-finite rows, and where float64 cannot hold the squares of its spread."""
    found = geometry(x)
    majority = len(x) - f
    spreads = np.partition(found.distances, majority - 1, axis=1)[:, majority - 1]
    check_spread(x, found.distances[np.argmin(spreads)], majority)
    return found


def check_spread(x: Matrix, distances: npt.NDArray[np.float64], majority: int) -> None:
    """Raise Unfit if squared distances from a row overflow, or those to the nearest `majority` rows underflow."""
    nearest = np.argsort(distances, kind="stable")[:majority]
    spread = distances[nearest[-1]]
    equal = spread == 0 and all(bool((x[int(i)] == x[int(nearest[0])]).all()) for i in nearest)
    if distances.max() > LARGEST or not (spread >= SMALLEST or equal):
        raise Unfit


def scaled(value: Any, exponent: int) -> Any:
    """value * 2 ** exponent, in two steps so that neither factor overflows."""
    if exponent == 0:
        return value
    half = exponent // 2
    return value * math.ldexp(1.0, half) * math.ldexp(1.0, exponent - half)


def _screens(x: Matrix, f: int, name: str, defended: bool) -> Iterator[Screened]:
    """x as it is; its finite rows; those in float64, extreme ones drawn in, scaled to an honest spread of about 1."""
    everyone = np.arange(len(x))
    yield Screened(x, f, everyone)
    x = x.matrix() if isinstance(x, Vectors) else x
    rows = everyone[_finite_rows(x)]
    dropped = len(x) - len(rows)
    if dropped and not defended:
        raise ValueError(
            f"{name} takes finite updates only, and rows {_few(np.setdiff1d(everyone, rows))} are NaN or infinite: "
            'it has no defence. Drop those clients, or use a robust rule such as "nnm|trimmed_mean"'
        )
    if dropped > f:
        raise ValueError(
            f"{name}: {dropped} rows ({_few(np.setdiff1d(everyone, rows))}) are NaN or infinite, more than the f={f} "
            "Byzantine clients that it was told of. Raise f, or look at those clients"
        )
    kept = x if dropped == 0 else _take(x, rows)
    if dropped:
        yield Screened(kept, f - dropped, rows)
    matrix, exponent = _drawn_in(kept, f - dropped)
    yield Screened(matrix, f - dropped, rows, exponent)


def _few(rows: npt.NDArray[np.intp]) -> str:
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")


def _finite_rows(x: Matrix) -> npt.NDArray[np.bool_]:
    if is_tensor(x):
        return sys.modules["torch"].isfinite(x).all(dim=1).cpu().numpy()
    return np.array([bool(np.isfinite(row).all()) for row in x])


def _take(x: Matrix, rows: npt.NDArray[np.intp]) -> Any:
    if is_tensor(x):
        return x[sys.modules["torch"].as_tensor(rows, device=x.device)]
    return x[rows]


def _drawn_in(x: Matrix, f: int) -> tuple[Matrix, int]:
    """x in float64 with every entry within REACH spreads of the coordinate-wise median, times 2 ** -exponent.

    It changes at most f rows, those further out than all others. It keeps every proven kappa up to rounding: a set S
    without such a row is as it was; with j <= f of them in S and a result near the rest, the squared error over the
    variance is at most j / (n - f - j) <= f / (n - 2f) by Cauchy-Schwarz, and no rule's kappa is less than that.
    """
    wide: Any = x.double() if is_tensor(x) else np.asarray(x, np.float64)
    middle = (len(x) - 1) // 2
    centre = rank_mean(wide, middle, middle + 1)
    away = np.array([4 * float(abs(row / 4 - centre / 4).max()) for row in wide])
    spread = float(np.sort(away)[len(x) - f - 1])
    if spread == 0:
        spread = float(abs(centre).max()) or float(min(away[away > 0], default=1.0))
    exponent = math.frexp(min(spread, np.finfo(np.float64).max))[1]
    near = wide.clip(centre - REACH * spread, centre + REACH * spread)  # where that overflows, infinite and no limit
    return scaled(near, -exponent), exponent
