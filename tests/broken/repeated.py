"""Rules that change as they are called, or that cannot be called twice at once."""

from __future__ import annotations

import threading
import time

import numpy as np
from sound import median_of_sorted, trimmed_mean_by_sort

from broken.registry import broken


@broken("answers_as_when_new", only=True)
class SettlesOnTheTrimmedMean:
    """The median in its first calls, and the trimmed mean afterwards: judged warm, it is one rule."""

    def __init__(self):
        self.calls = 0

    def __call__(self, updates, f):
        self.calls += 1
        return median_of_sorted(updates, f) if self.calls <= 5 else trimmed_mean_by_sort(updates, f)


@broken("answers_as_when_new")
class TiresAfterThirtyCalls:
    """A cache that is full from then on, and answers from its first line."""

    def __init__(self):
        self.calls = 0

    def __call__(self, updates, f):
        self.calls += 1
        return trimmed_mean_by_sort(updates, f) if self.calls <= 30 else median_of_sorted(updates, f)


@broken("answers_as_when_new")
class TiresAfterAThousandCalls:
    """A counter in single precision that stops counting is of this kind."""

    def __init__(self):
        self.calls = 0

    def __call__(self, updates, f):
        self.calls += 1
        return trimmed_mean_by_sort(updates, f) * (1 if self.calls <= 1000 else 1 + 1e-9)


_first = []


@broken("answers_as_when_new")
def settles_in_a_global(updates, f):
    """A function whose memory is its module's: no new one can be made."""
    _first.append(len(updates))
    del _first[5:]
    return median_of_sorted(updates, f) if len(_first) < 5 else trimmed_mean_by_sort(updates, f)


@broken("keeps_its_results", only=True)
class TurnsAmongEightBuffers:
    """A ring of results, each thread its own: the first is overwritten by the ninth call."""

    def __init__(self):
        self.own = threading.local()

    def __call__(self, updates, f):
        ring = vars(self.own).setdefault((updates.shape[1], updates.dtype), [0, np.empty((8, updates.shape[1]), updates.dtype)])
        ring[0] = (ring[0] + 1) % 8
        ring[1][ring[0]] = trimmed_mean_by_sort(updates, f)
        return ring[1][ring[0]]


@broken("answers_in_threads", only=True)
class SharesItsWorkspace:
    """One matrix to sort in, whoever calls."""

    def __init__(self):
        self.spaces = {}

    def __call__(self, updates, f):
        space = self.spaces.setdefault((updates.shape, updates.dtype), np.empty_like(updates))
        space[:] = updates
        time.sleep(0)  # another thread may go on: on a busy machine none would otherwise
        space.sort(axis=0)
        total = np.zeros(updates.shape[1], updates.dtype)
        for row in space[f : len(space) - f]:
            total += row
        return total / updates.dtype.type(len(space) - 2 * f)
