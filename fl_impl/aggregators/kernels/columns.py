"""The kernel of the coordinate-wise rules: a loop over the columns around a formula, as the text of an LLVM module."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Final

from fl_impl.aggregators.kernels import formulas
from fl_impl.aggregators.kernels.emit import Mask, Vector, Writer
from fl_impl.aggregators.vectors import COMPUTED


@dataclass(frozen=True)
class VectorOperations:
    """`formulas.Operations` on vectors."""

    dtype: str

    def minimum(self, a: Vector, b: Vector) -> Vector:
        """The lesser of a and b, entry by entry."""
        return (a < b).choose(a, b)

    def maximum(self, a: Vector, b: Vector) -> Vector:
        """The greater of a and b, entry by entry."""
        return (a < b).choose(b, a)

    def choose(self, mask: Mask, yes: Vector, no: Vector) -> Vector:
        """The entries of yes where the mask is true, of no elsewhere."""
        return mask.choose(yes, no)

    def widen(self, value: Vector) -> Vector:
        """The values in float64."""
        return value.converted("float64")

    def narrow(self, value: Vector) -> Vector:
        """The values rounded to `dtype`."""
        return value.converted(self.dtype)

    def arrange(self, values: Sequence[Vector], classes: Sequence[Hashable | None]) -> list[Vector]:
        """Sorted as far as the classes need."""
        return formulas.exchanged(self, values, classes)


COLUMNS: Final = "ppiip"


def columns(formula: formulas.Formula, n: int, stored: str, lanes: int) -> str:
    """kernel(rows, out, start, stop, check): out[k] = formula(rows[0][k], ..., rows[n - 1][k]).

    rows is a table of n pointers to numbers of the type `stored`; stop - start >= lanes. check[:lanes] becomes NaN where a
    sum of values was not finite.
    The sums cost nothing: the ports of the processor that add are idle beside minimum and maximum.
    """
    write, dtype = Writer(COLUMNS, lanes), COMPUTED[stored]
    rows, out, start, stop, check = write.arguments
    last = write.sum(stop, -lanes)
    first = write.aligned_below(write.pointer(rows, write.integer(0)), start, stored)  # so may be most rows of a list
    with write.loop(first, stop, lanes, [write.constant(0, dtype)]) as loop:
        # The first block and the last overlap their neighbours rather than reach out.
        column = write.larger(write.smaller(loop.index, last), start)
        values = [write.stream(write.pointer(rows, write.integer(client)), column, stored) for client in range(n)]
        loop.results = [loop.carried[0] + nothing(values)]
        write.store(formula(VectorOperations(dtype), values), out, column)
    write.store(loop.results[0], check, write.integer(0))
    return write.finished()


def nothing(values: Sequence[Vector]) -> Vector:
    """0 where the sum of the values is finite, NaN where it is not."""
    total = reduce(add, values)
    return total - total
