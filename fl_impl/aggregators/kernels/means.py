"""The kernel of a coordinate-wise rule after nearest-neighbour mixing or bucketing: on means of rows that it never stores.

A mean is of some of the rows, and most means share most of theirs. So rows are taken by threes: all 8 sums of some of the
three are made once, and each mean adds up one sum for each three. Sums are only ever added to: what a mean leaves out, an
outlier say, cannot cancel in it.
"""

from __future__ import annotations

from typing import Any, Final

from fl_impl.aggregators.kernels.columns import VectorOperations, nothing
from fl_impl.aggregators.kernels.emit import Vector, Writer
from fl_impl.aggregators.kernels.formulas import Formula
from fl_impl.aggregators.vectors import COMPUTED

TOGETHER: Final = 3
SUBSETS: Final = 2**TOGETHER
ACROSS: Final = 2
"""Vectors of columns that are worked on at a time."""
OF_MEANS: Final = "ppiippppp"


def columns_of_means(formula: Formula, n: int, means: int, stored: str, lanes: int) -> str:
    """kernel(rows, out, start, stop, check, reference, choices, scales, scratch): out[k] = r[k] + formula(y[0], ...).

    As `columns.columns`, on y[a] = scales[a] * sum of (rows[i][k] - r[k]) over the rows i in mean a, where r is a row near
    which differences lose nothing. Rows come by threes, the last filled up with r; choices[a, three] is the place in
    scratch of the sum that mean a takes of it, and there is an even number of scales. stop - start >= ACROSS * lanes.
    """
    write, dtype = Writer(OF_MEANS, lanes), COMPUTED[stored]
    _, out, start, stop, check, reference, _, _, scratch = write.arguments
    threes, width = -(-n // TOGETHER), ACROSS * lanes
    mixed = write.address(scratch, write.integer(threes * SUBSETS * width), dtype)
    last = write.sum(stop, -width)
    with write.loop(start, stop, width, [write.constant(0, dtype)]) as loop:
        column = write.smaller(loop.index, last)
        _sum_subsets(write, column, threes, stored)
        _add_up(write, mixed, threes, means + means % 2, dtype)
        with write.loop(write.integer(0), write.integer(width), lanes, loop.carried) as part:
            values = [write.load(mixed, write.sum(part.index, mean * width), dtype) for mean in range(means)]
            part.results = [part.carried[0] + nothing(values)]
            place = write.sum(column, part.index)
            write.store(formula(VectorOperations(dtype), values) + write.load(reference, place, stored), out, place)
        loop.results = part.results
    write.store(loop.results[0], check, write.integer(0))
    return write.finished()


def _sum_subsets(write: Writer, column: Any, threes: int, stored: str) -> None:
    """scratch[three, subset] = the sum of (row - r) over the subset, in the binary order of its members."""
    rows, _, _, _, _, reference, _, _, scratch = write.arguments
    places = [write.sum(column, write.lanes * k) for k in range(ACROSS)]
    centres = [write.load(reference, place, stored) for place in places]
    with write.loop(write.integer(0), write.integer(threes), 1) as three:
        bases = [write.pointer(rows, write.sum(write.product(three.index, TOGETHER), j)) for j in range(TOGETHER)]
        sums: list[list[Vector]] = [[write.constant(0, COMPUTED[stored])] * ACROSS]
        for base in bases:
            row = [write.stream(base, place, stored) - centre for place, centre in zip(places, centres, strict=True)]
            sums += [[value + old for value, old in zip(row, others, strict=True)] for others in sums]
        first = write.product(three.index, SUBSETS * ACROSS * write.lanes)
        for k, vector in enumerate(vector for one in sums for vector in one):
            write.store(vector, scratch, write.sum(first, k * write.lanes))


def _add_up(write: Writer, mixed: Any, threes: int, means: int, dtype: str) -> None:
    """mixed[a] = scales[a] * the sum over threes of scratch[choices[a, three]], two means at a time."""
    _, _, _, _, _, _, choices, scales, scratch = write.arguments
    width = ACROSS * write.lanes
    with write.loop(write.integer(0), write.integer(means), 2) as pair:
        both = [pair.index, write.sum(pair.index, 1)]
        zeros = [write.constant(0, dtype)] * (2 * ACROSS)
        with write.loop(write.integer(0), write.integer(threes), 1, zeros) as three:
            chosen = [write.index_at(choices, write.sum(write.product(a, threes), three.index)) for a in both]
            terms = [write.load(scratch, write.sum(c, k * write.lanes), dtype) for c in chosen for k in range(ACROSS)]
            three.results = [old + term for old, term in zip(three.carried, terms, strict=True)]
        factors = [write.broadcast(scales, a, dtype) for a in both for _ in range(ACROSS)]
        for k, (total, factor) in enumerate(zip(three.results, factors, strict=True)):
            write.store(total * factor, mixed, write.sum(write.product(pair.index, width), k * write.lanes))
