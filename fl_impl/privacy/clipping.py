"""Clipping an update to an L2 ball: in float64, safe at zero, at 1e200, and against NaN."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

SQUARES_SAFELY: Final = (1e-140, 1e140)
"""Magnitudes whose squares neither underflow nor overflow, in sums of up to 1e20 of them."""


def clip(update: Any, bound: float) -> Vector:
    """x * min(1, bound / ||x||) in float64: the (d,) update itself where it is short enough, else its direction.

    The norm is that of the whole update, never layer by layer. Raises ValueError where an entry is NaN or infinite,
    or the bound is not a positive number: such an update has no place in a private sum.
    """
    return shorten(update, bound)[0]


def shorten(update: Any, bound: float) -> tuple[Vector, bool]:
    """`clip`, and whether the update was longer than the bound."""
    check_bound(bound)
    x = finite_vector(update)
    unit, length, peak = _scaled(x)
    if length * peak <= bound:
        return x, False
    return unit * (bound / length), True


def l2_norm(update: Any) -> float:
    """||x|| of a (d,) update in float64, without overflow or underflow on the way. Raises ValueError as `clip`."""
    _, length, peak = _scaled(finite_vector(update))
    return length * peak


def finite_vector(update: Any) -> Vector:
    """The update as a (d,) float64 array; ValueError where it is none, or not finite throughout."""
    x = np.asarray(update, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"an update must be one vector of length d >= 1; got shape {x.shape}. Flatten it first")
    if not np.isfinite(x).all():
        count = int((~np.isfinite(x)).sum())
        raise ValueError(f"an update must be finite; got {count} NaN or infinite of {x.size} entries. Drop this client")
    return x


def check_bound(bound: float) -> None:
    """Raise ValueError unless bound is a positive, finite number."""
    if not 0 < bound < math.inf:
        raise ValueError(f"the clipping bound must be positive and finite; got {bound}")


def _scaled(x: Vector) -> tuple[Vector, float, float]:
    """x = unit * peak, and ||unit||: peak is 1 except where squares of entries would leave the range of float64."""
    peak = float(np.abs(x).max())
    if peak == 0 or SQUARES_SAFELY[0] < peak < SQUARES_SAFELY[1]:
        return x, math.sqrt(float(x @ x)), 1.0
    unit = x / peak
    return unit, math.sqrt(float(unit @ unit)), peak
