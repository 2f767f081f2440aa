"""A call made to fit: a rule that is made for one model, or takes float32 only, called with other updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pytest_fl.subjects.subject import Updates

Call = Callable[[Updates, int], Any]


def as_it_is(call: Call) -> Call:
    """The same call."""
    return call


def then(first: Callable[[Call], Call], second: Callable[[Call], Call]) -> Callable[[Call], Call]:
    """One after the other."""
    return lambda call: second(first(call))


def padded(call: Call, size: int) -> Call:
    """A rule that is made for `size` coordinates, on fewer: zeros stand in the others."""

    def wide(updates: Updates, f: int) -> Any:
        d = updates.shape[1]
        if d >= size:
            return call(updates, f)
        result = call(np.pad(updates, ((0, 0), (0, size - d))), f)
        return result[:d] if np.shape(result) == (size,) else result

    return wide


def narrowed(call: Call) -> Call:
    """A rule that takes float32 only: what it is given is rounded first."""

    def narrow(updates: Updates, f: int) -> Any:
        with np.errstate(over="ignore"):
            return call(updates.astype(np.float32), f)

    return narrow
