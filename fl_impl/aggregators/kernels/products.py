"""Kernels of linear combinations of rows, accumulated in float64, as the text of an LLVM module."""

from __future__ import annotations

from typing import Final

from fl_impl.aggregators.kernels.emit import Writer
from fl_impl.aggregators.vectors import COMPUTED

SUM: Final = "pippiiipp"
UNROLLED: Final = 2


def weighted_sum(stored: str, lanes: int, together: int) -> str:
    """kernel(rows, n, weights, out, start, stop, width, check, scratch): out[k] = sum_i w_i rows[i][k].

    n is a multiple of `together`, width one of UNROLLED * lanes, and stop - start >= width. Blocks of that many columns are
    summed in scratch, `together` rows at a time, so that memory is read in a few long streams.
    check[: UNROLLED * lanes] becomes NaN where a result was not finite.
    """
    lanes *= UNROLLED  # a vector may be several registers
    write = Writer(SUM, lanes)
    rows, n, weights, out, start, stop, width, check, scratch = write.arguments
    zero, last = write.integer(0), write.difference(stop, width)
    with write.loop(zero, width, lanes) as inside:
        write.store(write.constant(0, "float64"), scratch, inside.index)
    with write.loop(start, stop, width, [write.constant(0, "float64")]) as loop:
        block = write.smaller(loop.index, last)
        with write.loop(zero, n, together) as clients:
            few = [write.sum(clients.index, k) for k in range(together)]
            bases = [write.pointer(rows, client) for client in few]
            factors = [write.broadcast(weights, client, "float64") for client in few]
            with write.loop(zero, width, lanes) as inside:
                total = write.load(scratch, inside.index, "float64")
                column = write.sum(block, inside.index)
                for base, factor in zip(bases, factors, strict=True):
                    total = write.stream(base, column, stored).converted("float64").times_plus(factor, total)
                write.store(total, scratch, inside.index)
        with write.loop(zero, width, lanes, loop.carried) as inside:
            total = write.load(scratch, inside.index, "float64")
            write.store(write.constant(0, "float64"), scratch, inside.index)
            write.store(total.converted(COMPUTED[stored]), out, write.sum(block, inside.index))
            inside.results = [inside.carried[0] + (total - total)]
        loop.results = inside.results
    write.store(loop.results[0], check, zero)
    return write.finished()


PRODUCT: Final = "pippiiip"


def matrix_product(stored: str, lanes: int, group: int, across: int) -> str:
    """kernel(rows, n, mixing, outs, mixes, start, stop, check): outs[a][k] = sum_i M[a, i] rows[i][k].

    M comes transposed, (n, mixes) float64; mixes is a multiple of `group`; stop - start >= across * lanes.
    check[:lanes] becomes NaN where a result was not finite.
    """
    write = Writer(PRODUCT, lanes)
    rows, n, mixing, outs, mixes, start, stop, check = write.arguments
    width = across * lanes
    zero, last = write.integer(0), write.sum(stop, -width)
    with write.loop(start, stop, width, [write.constant(0, "float64")]) as loop:
        column = write.smaller(loop.index, last)
        places = [write.sum(column, lanes * k) for k in range(across)]
        with write.loop(zero, mixes, group, loop.carried) as groups:
            zeros = [write.constant(0, "float64")] * (group * across)
            with write.loop(zero, n, 1, zeros) as clients:
                row = write.pointer(rows, clients.index)
                values = [write.stream(row, place, stored).converted("float64") for place in places]
                first = write.sum(write.product(clients.index, mixes), groups.index)
                factors = [write.broadcast(mixing, write.sum(first, k), "float64") for k in range(group)]
                products = [(factor, value) for factor in factors for value in values]
                clients.results = [a.times_plus(b, c) for (a, b), c in zip(products, clients.carried, strict=True)]
            bad = groups.carried[0]
            for k, result in enumerate(clients.results):
                bad = bad + (result - result)
                out = write.pointer(outs, write.sum(groups.index, k // across))
                write.store(result.converted(COMPUTED[stored]), out, places[k % across])
            groups.results = [bad]
        loop.results = groups.results
    write.store(loop.results[0], check, zero)
    return write.finished()
