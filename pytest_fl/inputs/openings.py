"""Where the adversary starts: shapes that attain known constants, stored worst inputs, lattices, attacked clouds.

An opening is (x, backwards): (n, d) with the f Byzantine rows first, and whether the rule is shown them in reverse order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from pytest_fl.inputs.colluders import COLLUDERS
from pytest_fl.oracles.extremal import shapes
from pytest_fl.oracles.theory import all_worst_inputs

Floats = npt.NDArray[np.float64]
Opening = tuple[Floats, bool]


def openings(n: int, f: int, d: int, rng: np.random.Generator) -> Iterator[Opening]:
    """The likely ones first; it does not end."""
    if d > 2:
        yield from _alike(n, f, d, rng)
    yield from _extremal(n, f, d)
    for x in _stored(n, f, d):
        yield x, False
    yield from _lattices(n, f, d)
    while True:
        for x in _attacked_clouds(n, f, d, rng):
            yield x, False
        if d > 2:
            yield from _alike(n, f, d, rng)


def _widened(x: Floats, d: int) -> Floats:
    wide = np.zeros((len(x), d))
    wide[:, : x.shape[1]] = x
    return wide


def _extremal(n: int, f: int, d: int) -> Iterator[Opening]:
    """Every shape that fits into d dimensions, and its mirror image, around 0 and far from it, forwards and backwards."""
    for shape in shapes(n, f):
        if shape.shape[1] <= d:
            x = _widened(shape, d)
            for sign, backwards in product((1.0, -1.0), (False, True)):
                yield sign * x, backwards


def _stored(n: int, f: int, d: int) -> Iterator[Floats]:
    """The stored worst inputs of all rules at this (n, f), in at most d dimensions, moved to the origin and unit size."""
    for known in all_worst_inputs():
        if known.updates.shape[0] == n and known.f == f and known.updates.shape[1] <= d:
            x = _widened(known.updates, d)
            centred = x - x[f:].mean(0)
            yield centred / (np.abs(centred[f:]).max() or 1.0)


def _lattices(n: int, f: int, d: int) -> Iterator[Opening]:
    """All honest rows at 0 or 1 or on a line of three points, all Byzantine rows at one or two points of a lattice."""
    h = n - f
    for low, third in product(range(1, h), (0, 1, f)):
        if low + third >= h:
            continue
        honest = np.ones(h)
        honest[:low] = 0
        honest[low : low + third] = 2
        for place, second in product((2.0, 1e3, 1.0, 3.0, 0.0, -1.0, 1.999, -1e3), (None, 1.0, -1.0)):
            x = np.zeros((n, d))
            x[f:, 0] = honest
            x[:f, 0] = place
            if second is not None:
                x[: f // 2, 0] = second
            yield x, False
            if second is None:
                yield x, True


def _attacked_clouds(n: int, f: int, d: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Random honest rows under each plot of the corpus, its reach searched on a geometric ladder."""
    for plot in COLLUDERS.values():
        honest = rng.standard_normal((n - f, d)) if rng.random() < 0.5 else rng.integers(-1, 2, (n - f, d)).astype(np.float64)
        for distance in (0.5, 1.0, 2.0, 4.0, 100.0):
            yield np.concatenate([plot(honest, f, distance, rng), honest])


def _alike(n: int, f: int, d: int, rng: np.random.Generator) -> Iterator[Opening]:
    """Attackers with the summaries of an honest row: entries in another order, signs changed in pairs, sums kept.

    The honest rows lie close together, far from the origin, so that a row of the same norm, sum or histogram can lie
    hundreds of radii off.
    """
    honest: Floats = 100 * rng.standard_normal(d) + rng.standard_normal((n - f, d))
    first: Floats = honest[0]
    alternating = np.resize([1.0, -1.0], d)
    if d % 2:
        alternating[-1] = 0.0
    others: tuple[Floats, ...] = (
        first[::-1],  # the same values
        first[rng.permutation(d)],
        np.roll(first, 1),  # each value beside its place
        first * alternating,  # the same sizes
        -first,  # the same norm
        first + 100 * alternating,  # the same sum
        first + 100 * (alternating - np.roll(alternating, 2) + np.linspace(-1, 1, d)),  # the same mean, another spread
    )
    for row in others:
        yield np.concatenate([np.tile(row, (f, 1)), honest]), False
