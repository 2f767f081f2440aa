"""Write a kernel: arithmetic on `Vector` appends instructions of LLVM IR, so a formula run once on vectors is its own code.

A `Vector` is one register of the machine, holding the values of one client at `lanes` neighbouring coordinates. What is
written is straight-line code inside a loop over the coordinates: an exchange of a selection network, for example, is

    lower = a < b
    a, b = lower.choose(a, b), lower.choose(b, a)  # the code generator makes one minimum and one maximum of it

for all lanes at once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from llvmlite import ir

from fl_impl.aggregators.vectors import COMPUTED

POINTER: Final = ir.PointerType()
INDEX: Final = ir.IntType(64)
ELEMENTS: Final = {"float16": ir.HalfType(), "bfloat16": ir.IntType(16), "float32": ir.FloatType(), "float64": ir.DoubleType()}
BYTES: Final = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
WIDE: Final = '"prefer-vector-width"="512" "min-legal-vector-width"="512"'
"""Attributes without which LLVM halves wide vectors for some processors."""


@dataclass(frozen=True, eq=False)
class Vector:
    """A register of `writer.lanes` values while the kernel is written."""

    writer: Writer
    value: Any
    dtype: str

    def __add__(self, other: Vector) -> Vector:
        return self._made(self.writer.builder.fadd(self.value, other.value))

    def __sub__(self, other: Vector) -> Vector:
        return self._made(self.writer.builder.fsub(self.value, other.value))

    def __mul__(self, other: Vector) -> Vector:
        return self._made(self.writer.builder.fmul(self.value, other.value))

    def __truediv__(self, divisor: float) -> Vector:
        return self._made(self.writer.builder.fdiv(self.value, self.writer.constant(divisor, self.dtype).value))

    def __lt__(self, other: Vector) -> Mask:
        return Mask(self.writer, self.writer.builder.fcmp_ordered("<", self.value, other.value))

    def times_plus(self, factor: Vector, addend: Vector) -> Vector:
        """self * factor + addend, rounded once where the machine can."""
        fused = self.writer.intrinsic("llvm.fmuladd", self.dtype, 3)
        return self._made(self.writer.builder.call(fused, [self.value, factor.value, addend.value]))

    def over(self, divisor: Vector) -> Vector:
        """self / divisor, entry by entry."""
        return self._made(self.writer.builder.fdiv(self.value, divisor.value))

    def root(self) -> Vector:
        """The square roots."""
        root = self.writer.intrinsic("llvm.sqrt", self.dtype, 1)
        return self._made(self.writer.builder.call(root, [self.value]))

    def converted(self, dtype: str) -> Vector:
        """The values in, or rounded to, dtype."""
        if self.dtype == dtype:
            return self
        convert = self.writer.builder.fpext if dtype == "float64" else self.writer.builder.fptrunc
        return Vector(self.writer, convert(self.value, self.writer.vector_type(dtype)), dtype)

    def total(self) -> Any:
        """The scalar sum over the lanes."""
        element, name = ELEMENTS[self.dtype], f"llvm.vector.reduce.fadd.{self.writer.suffix(self.dtype)}"
        add = self.writer.declare(name, element, [element, self.value.type])
        return self.writer.builder.call(add, [ir.Constant(element, -0.0), self.value], fastmath=("reassoc",))

    def _made(self, value: Any) -> Vector:
        return Vector(self.writer, value, self.dtype)


@dataclass(frozen=True, eq=False)
class Mask:
    """One truth value a lane."""

    writer: Writer
    value: Any

    def choose(self, yes: Vector, no: Vector) -> Vector:
        """Lane by lane, yes where true and no elsewhere."""
        return Vector(self.writer, self.writer.builder.select(self.value, yes.value, no.value), yes.dtype)


@dataclass
class Loop:
    """A counted loop being written: its index, the vectors that it carries, and what they become in the next turn."""

    index: Any
    carried: list[Vector]
    results: list[Vector]


@dataclass
class Repeat:
    """A loop being written that goes on while `again` holds, and what it carries, values of any type."""

    carried: list[Any]
    results: list[Any] = field(default_factory=list)
    again: Any = None


class Writer:
    """One exported function, `kernel`, of pointers and 64-bit integers, under construction."""

    def __init__(self, arguments: str, lanes: int) -> None:
        """`arguments` has a letter each: p for a pointer, i for an integer."""
        self.lanes = lanes
        self.module = ir.Module("kernel")
        types = [POINTER if letter == "p" else INDEX for letter in arguments]
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), types), "kernel")
        self.arguments: tuple[Any, ...] = self.function.args
        self.builder: Any = ir.IRBuilder(self.function.append_basic_block("entry"))

    # Scalars and addresses

    def integer(self, value: int) -> Any:
        """A constant of the index type."""
        return ir.Constant(INDEX, value)

    def sum(self, *terms: Any) -> Any:
        """Sum of indices; a Python int is a constant."""
        first, *rest = [self.integer(term) if isinstance(term, int) else term for term in terms]
        for term in rest:
            first = self.builder.add(first, term)
        return first

    def difference(self, first: Any, second: Any) -> Any:
        """The index first - second."""
        return self.builder.sub(first, second)

    def product(self, first: Any, second: Any) -> Any:
        """Product of two indices; a Python int is a constant."""
        first, second = (self.integer(term) if isinstance(term, int) else term for term in (first, second))
        return self.builder.mul(first, second)

    def smaller(self, first: Any, second: Any) -> Any:
        """The lesser of two indices."""
        return self.builder.select(self.builder.icmp_signed("<", first, second), first, second)

    def larger(self, first: Any, second: Any) -> Any:
        """The greater of two indices."""
        return self.builder.select(self.builder.icmp_signed(">", first, second), first, second)

    def aligned_below(self, base: Any, index: Any, dtype: str) -> Any:
        """The last index up to this one at which a vector of base does not straddle two lines of the cache."""
        line = self.lanes * BYTES[dtype]
        over = self.builder.and_(self.builder.ptrtoint(self.address(base, index, dtype), INDEX), self.integer(line - 1))
        return self.difference(index, self.builder.udiv(over, self.integer(BYTES[dtype])))

    def address(self, base: Any, index: Any, dtype: str) -> Any:
        """The address of base[index]."""
        return self.builder.gep(base, [index], source_etype=ELEMENTS[dtype])

    def pointer(self, table: Any, index: Any) -> Any:
        """table[index], where the table holds pointers."""
        return self.builder.load(self.builder.gep(table, [index], source_etype=POINTER), typ=POINTER)

    def index_at(self, base: Any, index: Any) -> Any:
        """base[index], where the array holds indices."""
        return self.builder.load(self.builder.gep(base, [index], source_etype=INDEX), typ=INDEX)

    # Vectors and memory

    def load(self, base: Any, index: Any, dtype: str) -> Vector:
        """base[index : index + lanes], at any alignment of an element; 16-bit numbers are widened to float32."""
        place = self.address(base, index, dtype)
        value = self.builder.load(place, typ=self.vector_type(dtype), align=BYTES[dtype])
        if dtype == "float16":
            value = self.builder.fpext(value, self.vector_type("float32"))
        elif dtype == "bfloat16":  # the upper half of a float32
            integers = ir.VectorType(ir.IntType(32), self.lanes)
            upper = self.builder.shl(self.builder.zext(value, integers), ir.Constant(integers, [16] * self.lanes))
            value = self.builder.bitcast(upper, self.vector_type("float32"))
        return Vector(self, value, COMPUTED[dtype])

    def stream(self, base: Any, column: Any, dtype: str, ahead: int = 128) -> Vector:
        """base[column : column + lanes], and a request for the values `ahead` columns later.

        n rows are n streams, more than a processor foresees.
        """
        if ahead:
            self.prefetch(base, self.sum(column, ahead), dtype)
        return self.load(base, column, dtype)

    def store(self, vector: Vector, base: Any, index: Any) -> None:
        """base[index : index + lanes] = vector."""
        self.builder.store(vector.value, self.address(base, index, vector.dtype), align=BYTES[vector.dtype])

    def broadcast(self, base: Any, index: Any, dtype: str) -> Vector:
        """The number base[index] in all lanes."""
        scalar = self.builder.load(self.address(base, index, dtype), typ=ELEMENTS[dtype])
        empty = ir.Constant(self.vector_type(dtype), ir.Undefined)
        first = self.builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None)
        return Vector(self, self.builder.shuffle_vector(first, empty, zeros), dtype)

    def accumulate(self, scalar: Any, dtype: str, base: Any, index: Any) -> None:
        """base[index] += scalar, in float64."""
        place = self.address(base, index, "float64")
        wide = self.builder.fpext(scalar, ELEMENTS["float64"]) if dtype == "float32" else scalar
        self.builder.store(self.builder.fadd(self.builder.load(place, typ=ELEMENTS["float64"]), wide), place)

    def prefetch(self, base: Any, index: Any, dtype: str) -> None:
        """Ask for base[index] to be in the cache soon; reading past an array's end does no harm here."""
        integer = ir.IntType(32)
        fetch = self.declare("llvm.prefetch.p0", ir.VoidType(), [POINTER, integer, integer, integer])
        read, keep, data = (ir.Constant(integer, flag) for flag in (0, 2, 1))
        self.builder.call(fetch, [self.address(base, index, dtype), read, keep, data])

    def mask(self, value: Any) -> Mask:
        """A truth value a lane."""
        return Mask(self, value)

    def constant(self, value: float, dtype: str) -> Vector:
        """The same number in all lanes."""
        return Vector(self, ir.Constant(self.vector_type(dtype), [float(value)] * self.lanes), dtype)

    # Control

    @contextmanager
    def loop(self, start: Any, stop: Any, step: Any, carried: Sequence[Vector] = ()) -> Generator[Loop]:
        """for index in range(start, stop, step), at least once. Set `results` to what `carried` is in the next turn."""
        before = self.builder.block
        body = self.function.append_basic_block("loop")
        self.builder.branch(body)
        self.builder.position_at_end(body)
        index = self._phi(INDEX, start, before)
        vectors = [Vector(self, self._phi(vector.value.type, vector.value, before), vector.dtype) for vector in carried]
        loop = Loop(index, vectors, list(vectors))
        yield loop
        following = self.sum(index, step)
        index.add_incoming(following, self.builder.block)
        for vector, result in zip(vectors, loop.results, strict=True):
            vector.value.add_incoming(result.value, self.builder.block)
        after = self.function.append_basic_block("after")
        self.builder.cbranch(self.builder.icmp_signed("<", following, stop), body, after)
        self.builder.position_at_end(after)

    @contextmanager
    def repeat(self, *carried: Any) -> Generator[Repeat]:
        """Run the body at least once, then again while `again` holds. Set `results` to what `carried` is in the next turn."""
        before, body = self.builder.block, self.function.append_basic_block("repeat")
        self.builder.branch(body)
        self.builder.position_at_end(body)
        turn = Repeat([self._phi(value.type, value, before) for value in carried])
        turn.results = list(turn.carried)
        yield turn
        for phi, result in zip(turn.carried, turn.results, strict=True):
            phi.add_incoming(result, self.builder.block)
        after = self.function.append_basic_block("after")
        self.builder.cbranch(turn.again, body, after)
        self.builder.position_at_end(after)

    @contextmanager
    def where_less(self, first: Any, second: Any) -> Generator[None]:
        """Write the body only to run where first < second."""
        with self.builder.if_then(self.builder.icmp_signed("<", first, second)):
            yield

    def finished(self) -> str:
        """The text of the module, its vectors kept as wide as written."""
        self.builder.ret_void()
        return str(self.module).replace(")\n{", f") {WIDE}\n{{", 1)

    # Types

    def vector_type(self, dtype: str) -> Any:
        """The type of `lanes` values of dtype."""
        return ir.VectorType(ELEMENTS[dtype], self.lanes)

    def suffix(self, dtype: str) -> str:
        """How LLVM names the vector type in its intrinsics."""
        return f"v{self.lanes}f{8 * BYTES[dtype]}"

    def intrinsic(self, name: str, dtype: str, arguments: int) -> Any:
        """An elementwise function of vectors."""
        vector = self.vector_type(dtype)
        return self.declare(f"{name}.{self.suffix(dtype)}", vector, [vector] * arguments)

    def declare(self, name: str, result: Any, arguments: Sequence[Any]) -> Any:
        """A function that LLVM knows."""
        known = self.module.globals.get(name)
        return known or ir.Function(self.module, ir.FunctionType(result, arguments), name)

    def _phi(self, kind: Any, value: Any, block: Any) -> Any:
        phi = self.builder.phi(kind)
        phi.add_incoming(value, block)
        return phi
