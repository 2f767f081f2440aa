"""A rule over models that come as several arrays each, without putting the models together first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fl_impl.flower.records import Floats

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator

LARGE: Final = 1 << 15
"""Numbers of an array that is worth a call of its own."""


def aggregate_parts(rule: Aggregator, f: int, models: Sequence[Sequence[Floats]]) -> Floats:
    """(d,): the rule over n models, each the same arrays one after another.

    A rule that ranks decide treats each coordinate by itself, so it may be called array by array; others see vectors.
    """
    if not models[0]:
        return np.zeros(0, np.float32)
    if rule.ranks is None or len(models[0]) == 1:
        return np.asarray(rule([joined(parts) for parts in models], f=f))
    sizes = [len(part) for part in models[0]]
    result = np.empty(sum(sizes), models[0][0].dtype)
    ends = np.cumsum(sizes).tolist()
    small = [k for k, size in enumerate(sizes) if 0 < size < LARGE]
    for k, size in enumerate(sizes):
        if size >= LARGE:
            result[ends[k] - size : ends[k]] = rule([parts[k] for parts in models], f=f)
    if small:
        together = np.asarray(rule([joined([parts[k] for k in small]) for parts in models], f=f))
        for k, values in zip(small, np.split(together, np.cumsum([sizes[k] for k in small])[:-1]), strict=True):
            result[ends[k] - sizes[k] : ends[k]] = values
    return result


def joined(parts: Sequence[Floats]) -> Any:
    """One vector of several; the only one itself."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
