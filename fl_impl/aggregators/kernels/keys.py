"""Integers that are in the order of floating-point numbers, and vectors of them: what selection counts and bisects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from llvmlite import ir

from fl_impl.aggregators.kernels.emit import BYTES, Vector, Writer
from fl_impl.aggregators.vectors import COMPUTED

SPARE: Final = {"float16": 13, "bfloat16": 16, "float32": 0, "float64": 0}
"""Low bits that are the same in all widened numbers of a type: without them neighbours differ by 1."""


@dataclass(frozen=True, eq=False)
class Keys:
    """Operations on vectors of keys. a < b as numbers exactly if key(a) < key(b); but -0 comes before 0.

    Numbers that are not negative keep their bits; of the others all but the sign are turned over.
    """

    write: Writer
    stored: str

    @property
    def dtype(self) -> str:
        """The type of the numbers that are computed with."""
        return COMPUTED[self.stored]

    @property
    def bits(self) -> int:
        """Of a key."""
        return 8 * BYTES[self.dtype]

    @property
    def least(self) -> int:
        """Below every key of a number."""
        return -(1 << (self.bits - 1))

    @property
    def greatest(self) -> int:
        """Above every key of a number: what fills up, and is never counted."""
        return (1 << (self.bits - 1)) - 1

    @property
    def vector(self) -> Any:
        """The type of a vector of keys."""
        return ir.VectorType(ir.IntType(self.bits), self.write.lanes)

    def constant(self, value: int) -> Any:
        """The same key in all lanes."""
        return ir.Constant(self.vector, [value] * self.write.lanes)

    @property
    def everything(self) -> Any:
        """The mask that is true in all lanes."""
        return ir.Constant(ir.VectorType(ir.IntType(1), self.write.lanes), [1] * self.write.lanes)

    def unspared(self) -> Keys:
        """The same keys for any number that is computed with."""
        return Keys(self.write, self.dtype)

    def everywhere(self, index: Any) -> Any:
        """An index, a scalar, in all lanes."""
        b, element = self.write.builder, ir.IntType(self.bits)
        scalar = index if self.bits == 64 else b.trunc(index, element)
        empty = ir.Constant(self.vector, ir.Undefined)
        first = b.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
        return b.shuffle_vector(first, empty, ir.Constant(ir.VectorType(ir.IntType(32), self.write.lanes), None))

    def of(self, values: Vector) -> Any:
        """The keys of numbers."""
        b = self.write.builder
        bits = b.bitcast(values.value, self.vector)
        key = b.xor(bits, b.and_(b.ashr(bits, self.constant(self.bits - 1)), self.constant(self.greatest)))
        spare = SPARE[self.stored]
        return b.ashr(key, self.constant(spare)) if spare else key

    def number(self, key: Any) -> Vector:
        """The numbers of keys."""
        b, spare = self.write.builder, SPARE[self.stored]
        sign = b.ashr(key, self.constant(self.bits - 1))
        shifted = b.shl(key, self.constant(spare)) if spare else key
        bits = b.xor(shifted, b.and_(sign, self.constant(self.greatest)))
        if spare:  # of a negative number they were ones
            bits = b.and_(bits, self.constant(-(1 << spare)))
        return Vector(self.write, b.bitcast(bits, self.write.vector_type(self.dtype)), self.dtype)

    def place(self, base: Any, row: Any) -> Any:
        """The address of a row of keys."""
        index = self.write.product(row, self.write.lanes)
        return self.write.builder.gep(base, [index], source_etype=ir.IntType(self.bits))

    def load(self, base: Any, row: Any) -> Any:
        """base[row], where the array holds vectors of keys."""
        return self.write.builder.load(self.place(base, row), typ=self.vector, align=BYTES[self.dtype])

    def store(self, key: Any, base: Any, row: Any) -> None:
        """base[row] = key."""
        self.write.builder.store(key, self.place(base, row), align=BYTES[self.dtype])

    def compare(self, how: str, a: Any, b: Any) -> Any:
        """A mask: a < b, and so on, as signed integers."""
        return self.write.builder.icmp_signed(how, a, b)

    def choose(self, mask: Any, yes: Any, no: Any) -> Any:
        """Lane by lane, yes where the mask is true and no elsewhere."""
        return self.write.builder.select(mask, yes, no)

    def smaller(self, a: Any, b: Any) -> Any:
        """The lesser, lane by lane."""
        return self.choose(self.compare("<", a, b), a, b)

    def larger(self, a: Any, b: Any) -> Any:
        """The greater, lane by lane."""
        return self.choose(self.compare(">", a, b), a, b)

    def counted(self, count: Any, mask: Any) -> Any:
        """The count, one more in the lanes where the mask is true."""
        return self.write.builder.sub(count, self.write.builder.sext(mask, self.vector))

    def any(self, mask: Any) -> Any:
        """Whether the mask is true in some lane."""
        b, lanes = self.write.builder, ir.IntType(self.write.lanes)
        return b.icmp_unsigned("!=", b.bitcast(mask, lanes), ir.Constant(lanes, 0))

    def total(self, key: Any) -> Any:
        """The scalar sum over the lanes, as an index."""
        element = ir.IntType(self.bits)
        name = f"llvm.vector.reduce.add.v{self.write.lanes}i{self.bits}"
        found = self.write.builder.call(self.write.declare(name, element, [self.vector]), [key])
        return found if self.bits == 64 else self.write.builder.sext(found, ir.IntType(64))

    def wide(self, key: Any) -> Vector:
        """Counts in float64."""
        return Vector(self.write, self.write.builder.sitofp(key, self.write.vector_type("float64")), "float64")

    def float(self, key: Any) -> Vector:
        """Small counts as numbers of the type that is computed in."""
        return Vector(self.write, self.write.builder.sitofp(key, self.write.vector_type(self.dtype)), self.dtype)
