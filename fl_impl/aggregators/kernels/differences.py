"""Kernels of squared distances by direct differences, as the text of an LLVM module.

No Gram matrix: x_i - x_j loses nothing whatever offset the rows share, and costs one subtraction beside each fused
multiply-add, on ports of the processor that would be idle.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Final

from fl_impl.aggregators.kernels.emit import Writer
from fl_impl.aggregators.vectors import COMPUTED

BLOCK: Final = 2048
"""Columns over which squares are summed in the dtype of the differences, before float64 takes over."""
PAIRWISE: Final = "piiip"


def pairwise(stored: str, lanes: int, tile: int, within: str) -> str:
    """kernel(rows, tiles, start, stop, out): out[i, j] += sum_k (rows[i][k] - rows[j][k])^2 for i < j.

    rows holds tiles * tile pointers and out as many rows and columns; stop - start is a positive multiple of lanes.
    Rows hold numbers of the type `stored`; differences are taken in the dtype `within`: tile x tile of them at a time
    stay in registers.
    """
    write = Writer(PAIRWISE, lanes)
    _, tiles, start, stop, _ = write.arguments
    with write.loop(start, stop, BLOCK) as block:
        end = write.smaller(write.sum(block.index, BLOCK), stop)
        with write.loop(write.integer(0), tiles, 1) as upper:
            _tile(write, upper.index, upper.index, tile, stored, within, (block.index, end))
            following = write.sum(upper.index, 1)
            with write.where_less(following, tiles), write.loop(following, tiles, 1) as lower:
                _tile(write, upper.index, lower.index, tile, stored, within, (block.index, end))
    return write.finished()


def _tile(write: Writer, upper: Any, lower: Any, tile: int, stored: str, within: str, columns: tuple[Any, Any]) -> None:
    """out[tile of rows `upper`, tile of rows `lower`] += their squared distances over the columns."""
    rows, tiles, _, _, out = write.arguments
    same = upper is lower
    pairs = [(i, j) for i, j in product(range(tile), repeat=2) if i < j or not same]
    above = [write.sum(write.product(upper, tile), k) for k in range(tile)]
    below = above if same else [write.sum(write.product(lower, tile), k) for k in range(tile)]
    bases = [write.pointer(rows, row) for row in (above if same else above + below)]
    with write.loop(*columns, write.lanes, [write.constant(0, within)] * len(pairs)) as inside:
        values = [write.stream(base, inside.index, stored, ahead=BLOCK if same else 0).converted(within) for base in bases]
        first, second = values[:tile], values[-tile:]
        for k, (i, j) in enumerate(pairs):  # each difference is squared before the next is taken: registers are few
            gap = first[i] - second[j]
            inside.results[k] = gap.times_plus(gap, inside.carried[k])
    for (i, j), total in zip(pairs, inside.results, strict=True):
        place = write.sum(write.product(write.product(tiles, tile), above[i]), below[j])
        write.accumulate(total.total(), within, out, place)


SQUARES: Final = "pipiip"
UNROLLED: Final = 4


def squares(stored: str, lanes: int, *, centred: bool) -> str:
    """kernel(rows, n, centre, start, stop, out): out[i] += sum_k (rows[i][k] - centre[k])^2, in float64.

    The centre is 0, and never read, if not `centred`. stop - start is a positive multiple of UNROLLED * lanes.
    """
    write = Writer(SQUARES, lanes)
    rows, n, centre, start, stop, out = write.arguments
    zeros = [write.constant(0, "float64")] * UNROLLED
    with write.loop(start, stop, 4 * BLOCK) as block:
        end = write.smaller(write.sum(block.index, 4 * BLOCK), stop)
        with write.loop(write.integer(0), n, 1) as clients:
            row = write.pointer(rows, clients.index)
            with write.loop(block.index, end, UNROLLED * lanes, zeros) as inside:
                places = [write.sum(inside.index, lanes * k) for k in range(UNROLLED)]
                for k, place in enumerate(places):
                    gap = write.stream(row, place, stored).converted("float64")
                    if centred:
                        gap = gap - write.load(centre, place, COMPUTED[stored]).converted("float64")
                    inside.results[k] = gap.times_plus(gap, inside.carried[k])
            a, b, c, d = inside.results
            write.accumulate(((a + b) + (c + d)).total(), "float64", out, clients.index)
    return write.finished()
