"""Every kernel as machine code made for it: chosen, compiled once, and run over ranges of columns on all cores."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.kernels import (
    blocks,
    columns,
    differences,
    formulas,
    means,
    parallel,
    products,
    selected,
    selection,
)
from fl_impl.aggregators.kernels.arrays import Array, Rows, rows_of
from fl_impl.aggregators.kernels.compiled import Compiled, compile_kernel, host
from fl_impl.aggregators.vectors import COMPUTED, FloatArray

MOST_CLIENTS: Final = 128
"""Rows up to which straight-line code compiles in about a third of a second."""
MANY_CLIENTS: Final = 256
MANY_COLUMNS: Final = 1 << 20
"""Up to so many rows, for at least so many columns, compiling for a second or two still takes less time than numpy."""
MANY_ROWS: Final = 1200
"""From which on matrix products are faster than the kernel of differences, which subtracts while it multiplies."""
SUMMED_TOGETHER: Final = 12
SUMMED_WIDTH: Final = 4096
PRODUCT_ACROSS: Final = 4
MIXED_WIDTH: Final = 4096
"""Columns of a block that many clients are mixed in."""
CHECKED: Final = 64
"""Room for any vector in the array of checks."""


def lanes(dtype: str) -> int:
    """Values in a vector register."""
    return host().vector_bytes // np.dtype(dtype).itemsize


def coordinatewise(formula: formulas.Formula, rows: Rows, mixing: FloatArray | None) -> tuple[Array, bool]:
    """The formula at every column, and whether all was finite: as `blocks.coordinatewise`, compiled."""
    found = None if mixing is None else _as_means(mixing)
    result = np.empty(rows.d, rows.dtype)
    if not _compiles(rows, mixing):
        return result, _selected(formula, rows, result) if mixing is None else _mixed(formula, rows, mixing, result)
    if mixing is not None and found is None:
        return blocks.coordinatewise(formula, rows, mixing)
    if mixing is not None and found is not None:
        return result, _columns_of_means(formula, rows, found, formulas.reference(mixing), result)
    kernel, table = _columns(formula, rows.n, rows.stored), rows.addresses()
    pointers, out = table.ctypes.data, result.ctypes.data
    return result, _checked(rows, lambda a, b, check: kernel.call(pointers, out, a, b, check))


def _selected(formula: formulas.Formula, rows: Rows, result: Array) -> bool:
    """The formula at every column, for any number of clients; whether all was finite."""
    kernel = _selection(rows.stored, nearest=isinstance(formula, formulas.NearestMean))
    wide, room = lanes(rows.dtype), selection.scratch_rows(rows.n)
    strips, keep = selected.strips_across(rows.stored, wide), getattr(formula, "keep", 1)
    low, high, table = formula.low, formula.high, rows.addresses()
    ranks = selection.ranks_table((low, high - 1, keep - 1), rows.n)
    sizes = [strips * room, room, room, selection.SAMPLE + 2 + 2 * strips]

    def select(start: int, stop: int, check: int) -> None:
        scratch = [np.empty(size * wide, rows.dtype) for size in sizes]
        given = (low, high, keep, *(part.ctypes.data for part in scratch), room)
        kernel.call(table.ctypes.data, rows.n, result.ctypes.data, start, stop, check, ranks.ctypes.data, *given)

    return _checked(rows, select)


def _mixed(formula: formulas.Formula, rows: Rows, mixing: FloatArray, result: Array) -> bool:
    """The formula at every column of mixing @ rows for many clients: a block of that product at a time."""
    narrow, near, sound = mixing.astype(rows.dtype), rows[formulas.reference(mixing)], True
    for start in range(0, rows.d, MIXED_WIDTH):
        columns_ = slice(max(0, min(start, rows.d - MIXED_WIDTH)), min(start + MIXED_WIDTH, rows.d))
        with np.errstate(over="ignore", invalid="ignore"):
            values = narrow @ (rows.block(columns_) - near[columns_])
        part = np.empty(values.shape[1], rows.dtype)
        sound = _selected(formula, rows_of(values), part) and sound
        result[columns_] = part + near[columns_]
    return sound


def product(mixing: FloatArray, rows: Rows) -> tuple[Array, bool]:
    """mixing @ rows, and whether it is finite: as `blocks.product`, compiled."""
    result = np.empty((len(mixing), rows.d), rows.dtype)
    if len(mixing) == 1:
        return result, _weighted_sum(mixing[0], rows, result[0])
    group = 5 if host().many_registers else 2
    kernel = _matrix_product(rows.stored, group)
    last = np.minimum(np.arange(-(-len(mixing) // group) * group), len(mixing) - 1)  # again, to fill the last group
    weights, table = np.ascontiguousarray(mixing[last].T), rows.addresses()
    outs = Rows(result, last).addresses()
    given = (table.ctypes.data, rows.n, weights.ctypes.data, outs.ctypes.data, len(last))
    return result, _checked(rows, lambda a, b, check: kernel.call(*given, a, b, check))


def pairwise(rows: Rows, within: str) -> FloatArray:
    """(n, n) squared distances above the diagonal: as `blocks.pairwise`, compiled."""
    tile = 4 if host().many_registers else 3
    kernel = _pairwise(rows.stored, within, tile)
    tiles = -(-rows.n // tile)
    table = rows.and_again(-1, tiles * tile - rows.n).addresses()
    whole = rows.d // lanes(within) * lanes(within)
    ranges = parallel.pieces(whole)
    parts = np.zeros((len(ranges), tiles * tile, tiles * tile))
    pointers, out = table.ctypes.data, [part.ctypes.data for part in parts]
    parallel.run(lambda k, a, b: kernel.call(pointers, tiles, a, b, out[k]), ranges, rows.n**2 * whole)
    return parts.sum(axis=0)[: rows.n, : rows.n] + blocks.pairwise(rows.after(whole), "float64")


def squares(rows: Rows, centre: Array | None) -> FloatArray:
    """(n,) squared distances to a centre: as `blocks.squares`, compiled."""
    kernel = _squares(rows.stored, centred=centre is not None)
    step = differences.UNROLLED * lanes("float64")
    whole = rows.d // step * step
    ranges = parallel.pieces(whole)
    parts = np.zeros((len(ranges), rows.n))
    table, out = rows.addresses(), [part.ctypes.data for part in parts]
    given = (table.ctypes.data, rows.n, 0 if centre is None else centre.ctypes.data)
    parallel.run(lambda k, a, b: kernel.call(*given, a, b, out[k]), ranges, rows.n * whole)
    return parts.sum(axis=0) + blocks.squares(rows.after(whole), None if centre is None else centre[whole:])


def _columns_of_means(formula: formulas.Formula, rows: Rows, found: Means, reference: int, result: Array) -> bool:
    members, scales = found
    odd, filled = len(members) % 2, -rows.n % means.TOGETHER
    kernel = _kernel_of_means(formula, rows.n, len(members), rows.stored)
    table = rows.and_again(reference, filled).addresses()
    threes = np.pad(members, ((0, odd), (0, filled))).reshape(len(members) + odd, -1, means.TOGETHER)
    subsets = threes @ (1 << np.arange(means.TOGETHER))
    width = means.ACROSS * lanes(rows.dtype)
    choices = (np.arange(threes.shape[1]) * means.SUBSETS + subsets) * width
    factors = np.append(scales, [0.0] * odd).astype(rows.dtype)
    pointers, out = table.ctypes.data, result.ctypes.data
    given = (int(table[reference]), choices.ctypes.data, factors.ctypes.data)
    size = (threes.shape[1] * means.SUBSETS + len(threes)) * width

    def mix(start: int, stop: int, check: int) -> None:
        scratch = np.empty(size, rows.dtype)
        kernel.call(pointers, out, start, stop, check, *given, scratch.ctypes.data)

    return _checked(rows, mix)


def _weighted_sum(weights: FloatArray, rows: Rows, result: Array) -> bool:
    kernel, step = _sum(rows.stored), products.UNROLLED * lanes("float64")
    count = -(-rows.n // SUMMED_TOGETHER) * SUMMED_TOGETHER
    factors, table = np.append(weights, np.zeros(count - rows.n)), rows.and_again(-1, count - rows.n).addresses()
    given = (table.ctypes.data, count, factors.ctypes.data, result.ctypes.data)

    def add(start: int, stop: int, check: int) -> None:
        width = min(SUMMED_WIDTH, (stop - start) // step * step)
        scratch = np.empty(width)
        kernel.call(*given, start, stop, width, check, scratch.ctypes.data)

    return _checked(rows, add)


def _checked(rows: Rows, work: Callable[[int, int, int], None]) -> bool:
    """Do work(start, stop, address of its checks) over all columns; whether all checks came out 0."""
    elements = rows.n * rows.d
    ranges = parallel.shares(rows.d, elements)
    checks = np.zeros((len(ranges), CHECKED))
    places = [check.ctypes.data for check in checks]
    parallel.run(lambda k, start, stop: work(start, stop, places[k]), ranges, elements)
    return not np.isnan(checks.view(rows.dtype)).any()


Means = tuple[npt.NDArray[np.int64], FloatArray]
"""(n', n) zeros and ones, and a factor for each row."""


def _as_means(mixing: FloatArray) -> Means | None:
    """The matrix as members and factors, if every row has one value beside 0: nearest-neighbour mixing, bucketing."""
    factors = mixing.max(axis=1)
    members = mixing != 0
    return (members.astype(np.int64), factors) if (mixing == members * factors[:, None]).all() else None


def _compiles(rows: Rows, mixing: FloatArray | None) -> bool:
    clients = max(rows.n, 0 if mixing is None else len(mixing))
    return clients <= (MANY_CLIENTS if rows.d >= MANY_COLUMNS else MOST_CLIENTS)


@lru_cache(maxsize=256)
def _columns(formula: formulas.Formula, n: int, stored: str) -> Compiled:
    return compile_kernel(columns.columns(formula, n, stored, lanes(COMPUTED[stored])), columns.COLUMNS)


@cache
def _selection(stored: str, *, nearest: bool) -> Compiled:
    return compile_kernel(selected.selected(stored, lanes(COMPUTED[stored]), nearest=nearest), selected.SELECTED)


@lru_cache(maxsize=256)
def _kernel_of_means(formula: formulas.Formula, n: int, count: int, stored: str) -> Compiled:
    return compile_kernel(means.columns_of_means(formula, n, count, stored, lanes(COMPUTED[stored])), means.OF_MEANS)


@cache
def _sum(stored: str) -> Compiled:
    return compile_kernel(products.weighted_sum(stored, lanes("float64"), SUMMED_TOGETHER), products.SUM)


@cache
def _matrix_product(stored: str, group: int) -> Compiled:
    text = products.matrix_product(stored, lanes("float64"), group, PRODUCT_ACROSS)
    return compile_kernel(text, products.PRODUCT)


@cache
def _pairwise(stored: str, within: str, tile: int) -> Compiled:
    return compile_kernel(differences.pairwise(stored, lanes(within), tile, within), differences.PAIRWISE)


@cache
def _squares(stored: str, *, centred: bool) -> Compiled:
    return compile_kernel(differences.squares(stored, lanes("float64"), centred=centred), differences.SQUARES)
