"""The kernels of the coordinate-wise rules by selection, as the text of an LLVM module; one each, for every n and f."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Final

from fl_impl.aggregators.kernels.emit import BYTES, Vector, Writer
from fl_impl.aggregators.kernels.keys import Keys
from fl_impl.aggregators.kernels.selection import SAMPLE, UNROLLED, Selection
from fl_impl.aggregators.vectors import COMPUTED

SELECTED: Final = "pipiippiiippppi"
AHEAD: Final = 8
"""Rows that are asked for before they are read."""
BLOCK_BYTES: Final = 256
"""Of each row, that are fetched at a time."""


def selected(stored: str, lanes: int, *, nearest: bool) -> str:
    """kernel(rows, n, out, start, stop, check, ranks, low, high, keep, keys, work, gaps, sample, room).

    out[k] = the mean of the sorted values number low to high - 1 at column k, or of the `keep` values nearest to that
    mean if `nearest`. rows is a table of n >= UNROLLED pointers to numbers of the type `stored`; stop - start is at least
    the columns of BLOCK_BYTES. ranks is the `selection.ranks_table` of low, high - 1 and keep - 1. Vectors of scratch:
    keys has across * room; work and gaps have room, which is `selection.scratch_rows`; sample has SAMPLE + 2 + 2 * across.
    check[:lanes] becomes NaN where a sum was not finite.
    """
    write = Writer(SELECTED, lanes)
    _, _, out, start, stop, check, *_ = write.arguments
    across = strips_across(stored, lanes)
    kernel = _Selected(Keys(write, stored), nearest=nearest)
    width = across * lanes
    last, zero = write.sum(stop, -width), write.integer(0)
    with write.loop(start, stop, width, [write.constant(0, COMPUTED[stored])]) as loop:
        block = write.smaller(loop.index, last)
        loop.results = [loop.carried[0] + kernel.fetch(block, across)]
        with write.loop(zero, write.integer(across), 1) as strips:
            write.store(kernel.strip(strips.index), out, write.sum(block, write.product(strips.index, lanes)))
    write.store(loop.results[0], check, zero)
    return write.finished()


def strips_across(stored: str, lanes: int) -> int:
    """Vectors in a block."""
    return max(1, BLOCK_BYTES // (lanes * BYTES[COMPUTED[stored]]))


@dataclass(frozen=True, eq=False)
class _Selected:
    """Writes what is done for a block of columns, in strips of one vector."""

    keys: Keys
    nearest: bool

    @property
    def write(self) -> Writer:
        """The kernel that is written."""
        return self.keys.write

    def fetch(self, block: Any, across: int) -> Vector:
        """The keys of all rows at the columns of a block, the least and greatest of each strip; 0 if the sums are finite."""
        write, keys = self.write, self.keys
        rows, n, base, sample, room = (write.arguments[k] for k in (0, 1, 10, 13, 14))
        columns = [write.sum(block, strip * write.lanes) for strip in range(across)]
        ends = [Vector(write, keys.constant(end), "key") for end in (keys.greatest, keys.least) for _ in range(across)]
        with write.loop(write.integer(0), n, 1, [*ends, *[write.constant(0, keys.dtype)] * across]) as clients:
            row = write.pointer(rows, clients.index)
            later = write.pointer(rows, write.smaller(write.sum(clients.index, AHEAD), write.sum(n, -1)))
            for strip, column in enumerate(columns):
                write.prefetch(later, column, keys.stored)
                value = write.load(row, column, keys.stored)
                key = keys.of(value)
                keys.store(key, base, write.sum(write.product(room, strip), clients.index))
                least, greatest, total = clients.carried[strip::across]
                found = keys.smaller(least.value, key), keys.larger(greatest.value, key)
                clients.results[strip::across] = [*(Vector(write, end, "key") for end in found), total + value]
        for place, end in enumerate(clients.results[: 2 * across]):
            keys.store(end.value, sample, write.integer(SAMPLE + 2 + place))
        total = reduce(add, clients.results[2 * across :])
        return total - total

    def strip(self, number: Any) -> Vector:
        """The result of a strip."""
        write, keys = self.write, self.keys
        n, base, sample, room = (write.arguments[k] for k in (1, 10, 13, 14))
        source, across = keys.place(base, write.product(number, room)), strips_across(keys.stored, write.lanes)
        selection = self._selection()
        selection.filled(source, n)
        least = keys.load(sample, write.sum(number, SAMPLE + 2))
        selection.take_sample(source, least, keys.load(sample, write.sum(number, SAMPLE + 2 + across)))
        a = self._found(source, 0)
        centre = self._mean_between(source, a, self._second(source, a))
        return self._mean_near(source, centre) if self.nearest else centre

    def _selection(self) -> Selection:
        arguments = self.write.arguments
        return Selection(self.keys, arguments[1], arguments[13], arguments[11])

    def _found(self, source: Any, which: int) -> Any:
        return self._selection().find(source, self.write.arguments[6], self.write.integer(which))

    def _second(self, source: Any, a: Any) -> Any:
        """The key of number high - 1, given that of number low; beside it a search is saved."""
        write, b = self.write, self.write.builder
        low, high = write.arguments[7], write.arguments[8]
        apart = b.icmp_signed(">", write.difference(high, low), write.integer(2))
        with b.if_else(apart) as (then, otherwise):
            with then:
                searched, first = self._found(source, 1), b.block
            with otherwise:
                beside, second = self._next(source, a), b.block
        found = b.phi(searched.type)
        found.add_incoming(searched, first)
        found.add_incoming(beside, second)
        return found

    def _next(self, source: Any, a: Any) -> Any:
        """The key of number high - 1, which is low or low + 1."""
        write, keys = self.write, self.keys
        ends = [Vector(write, keys.constant(end), "key") for end in (0, keys.greatest)]
        with write.loop(write.integer(0), write.arguments[1], 1, ends) as loop:
            key = keys.load(source, loop.index)
            count, least = (vector.value for vector in loop.carried)
            above = keys.compare(">", key, a)
            counted = keys.counted(count, write.builder.xor(above, keys.everything))
            least = keys.smaller(least, keys.choose(above, key, keys.constant(keys.greatest)))
            loop.results = [Vector(write, counted, "key"), Vector(write, least, "key")]
        count, least = (vector.value for vector in loop.results)
        return keys.choose(keys.compare("<", count, keys.everywhere(write.arguments[8])), least, a)

    def _mean_between(self, source: Any, a: Any, b: Any) -> Vector:
        """The mean of the sorted values number low to high - 1, which are those of the keys a and b and all between."""
        write, keys = self.write, self.keys
        n, low, high = (write.arguments[k] for k in (1, 7, 8))
        zero = Vector(write, keys.constant(0), "key")
        with write.loop(write.integer(0), n, UNROLLED, self._repeated([zero, zero, *_Sum.empty(keys)])) as loop:
            for k in range(UNROLLED):  # what fills up the last rows is above b
                found = self._between(keys.load(source, write.sum(loop.index, k)), a, b, loop.carried[k::UNROLLED])
                loop.results[k::UNROLLED] = found
        up_to_a, below_b = (self._added(loop.results[k * UNROLLED : (k + 1) * UNROLLED]) for k in range(2))
        sums = [_Sum(loop.results[2 * UNROLLED + k :: UNROLLED]) for k in range(UNROLLED)]
        total = reduce(_Sum.with_all, sums)
        of_a = write.builder.sub(up_to_a, keys.everywhere(low))
        of_b = write.builder.sub(keys.everywhere(high), below_b)
        total = total.plus_times(*self._wide(of_a, a)).plus_times(*self._wide(of_b, b))
        count = keys.wide(keys.everywhere(write.difference(high, low)))
        mean = total.value.over(count).converted(keys.dtype)
        return write.mask(keys.compare("==", a, b)).choose(keys.number(a), mean)

    def _between(self, key: Any, a: Any, b: Any, carried: list[Vector]) -> list[Vector]:
        """One more value: how many are <= a, how many < b, and the sum of those between."""
        write, keys = self.write, self.keys
        above, below = keys.compare(">", key, a), keys.compare("<", key, b)
        inside = write.mask(write.builder.and_(above, below))
        value = inside.choose(keys.number(key), write.constant(0, keys.dtype))
        up_to_a, below_b = carried[0].value, carried[1].value
        counts = keys.counted(up_to_a, write.builder.xor(above, keys.everything)), keys.counted(below_b, below)
        return [*(Vector(write, count, "key") for count in counts), *_Sum(carried[2:]).plus(value.converted("float64")).parts]

    def _repeated(self, carried: list[Vector]) -> list[Vector]:
        return [vector for vector in carried for _ in range(UNROLLED)]

    def _added(self, counts: list[Vector]) -> Any:
        return reduce(self.write.builder.add, [count.value for count in counts])

    def _wide(self, count: Any, key: Any) -> tuple[Vector, Vector]:
        return self.keys.wide(count), self.keys.number(key).converted("float64")

    def _mean_near(self, source: Any, centre: Vector) -> Vector:
        """The mean of the `keep` values nearest to the centre; of equally near ones the smaller count first."""
        write, keys = self.write, self.keys
        gaps = write.arguments[12]
        least, greatest = self._gaps(source, centre)
        plain = _Selected(keys.unspared(), nearest=False)
        selection = plain._selection()
        selection.filled(gaps, write.arguments[1])
        selection.take_sample(gaps, least, greatest)
        reach = plain._found(gaps, 2)
        return self._mean_within(source, centre, reach)

    def _gaps(self, source: Any, centre: Vector) -> tuple[Any, Any]:
        """gaps[i] = |value i - centre| as keys; and the least and the greatest of them."""
        write, keys, plain = self.write, self.keys, self.keys.unspared()
        ends = [Vector(write, plain.constant(end), "key") for end in (plain.greatest, plain.least)]
        with write.loop(write.integer(0), write.arguments[1], 1, ends) as loop:
            gap = self._gap(keys.load(source, loop.index), centre)
            plain.store(gap, write.arguments[12], loop.index)
            least, greatest = (vector.value for vector in loop.carried)
            found = plain.smaller(least, gap), plain.larger(greatest, gap)
            loop.results = [Vector(write, end, "key") for end in found]
        return loop.results[0].value, loop.results[1].value

    def _gap(self, key: Any, centre: Vector) -> Any:
        plain = self.keys.unspared()
        bits = self.write.builder.bitcast((self.keys.number(key) - centre).value, plain.vector)
        return self.write.builder.and_(bits, plain.constant(plain.greatest))  # no sign

    def _mean_within(self, source: Any, centre: Vector, reach: Any) -> Vector:
        """The mean of the values nearer than `reach`, and of as many that are just there as are missing."""
        write, keys, gaps = self.write, self.keys, self.write.arguments[12]
        b, zero = write.builder, Vector(write, keys.constant(0), "key")
        ends = [Vector(write, keys.constant(end), "key") for end in (keys.least, keys.greatest)]
        middle = keys.of(centre)
        with write.loop(write.integer(0), write.arguments[1], 1, [zero, zero, *ends, *_Sum.empty(keys)]) as loop:
            key, gap = keys.load(source, loop.index), keys.load(gaps, loop.index)
            nearer, under, highest, lowest = (vector.value for vector in loop.carried[:4])
            inside, there = keys.compare("<", gap, reach), keys.compare("==", gap, reach)
            value = write.mask(inside).choose(keys.number(key), write.constant(0, keys.dtype))
            total = _Sum(loop.carried[4:]).plus(value.converted("float64"))
            lower = b.and_(there, keys.compare("<=", key, middle))
            upper = b.and_(there, keys.compare(">", key, middle))
            found = (
                keys.counted(nearer, inside),
                keys.counted(under, lower),
                keys.choose(lower, keys.larger(highest, key), highest),
                keys.choose(upper, keys.smaller(lowest, key), lowest),
            )
            loop.results = [*(Vector(write, one, "key") for one in found), *total.parts]
        nearer, under, highest, lowest = (vector.value for vector in loop.results[:4])
        missing = b.sub(keys.everywhere(write.arguments[9]), nearer)
        from_under = keys.smaller(missing, under)
        from_over = b.sub(missing, from_under)
        total = _Sum(loop.results[4:])
        for count, key in ((from_under, highest), (from_over, lowest)):
            taken = keys.compare(">", count, keys.constant(0))
            total = total.plus_times(*self._wide(count, keys.choose(taken, key, keys.constant(0))))
        return total.value.over(keys.wide(keys.everywhere(write.arguments[9]))).converted(keys.dtype)


@dataclass(frozen=True, eq=False)
class _Sum:
    """A sum in float64; of float64 values also what rounding lost, so that their order changes no bit of the result."""

    parts: list[Vector]
    """What a loop carries."""

    @classmethod
    def empty(cls, keys: Keys) -> list[Vector]:
        """The parts of an empty sum."""
        return [keys.write.constant(0, "float64")] * (2 if keys.dtype == "float64" else 1)

    @property
    def value(self) -> Vector:
        """The sum."""
        return reduce(add, self.parts)

    def plus(self, term: Vector) -> _Sum:
        """One more term (Knuth's two-sum, where it is needed)."""
        old, *lost = self.parts
        total = old + term
        if not lost:
            return _Sum([total])
        taken = total - term
        return _Sum([total, lost[0] + ((old - taken) + (term - (total - taken)))])

    def with_all(self, other: _Sum) -> _Sum:
        """The sum of two sums."""
        total = self.plus(other.parts[0])
        return _Sum([total.parts[0], *(lost + more for lost, more in zip(total.parts[1:], other.parts[1:], strict=True))])

    def plus_times(self, count: Vector, term: Vector) -> _Sum:
        """A term some times; what the product loses is a term of its own."""
        product = count * term
        added = self.plus(product)
        if len(self.parts) == 1:
            return added
        negative = product * term.writer.constant(-1, "float64")
        return _Sum([added.parts[0], added.parts[1] + count.times_plus(term, negative)])
