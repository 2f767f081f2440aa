"""Kernels of the coordinate-wise rules for any number of clients, which is an argument: no rank costs more at a larger n.

A vector holds one client's values at `lanes` columns, so that every lane looks for ranks of its own column. Sorting the
values is not needed: a rank is found between two bounds, by counting how many values lie up to a pivot. A sorted sample
gives the first pivots, then lines through the counts do, which near a rank are almost straight; after TURNS passes the
distance between the bounds is cut to a third a pass, as integers in the order of the numbers, which ends whatever the
values are. Once few values are left between the bounds, rows without any are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.kernels.emit import Vector, Writer
from fl_impl.aggregators.kernels.keys import Keys
from fl_impl.aggregators.kernels.networks import selection_network

SAMPLE: Final = 64
"""Rows that are sorted for the first bounds."""
DEVIATIONS: Final = 1.5
"""Of the sample, that the first bounds lie from where the rank is expected."""
SPREAD: Final = 1.0
"""Deviations of the count that a line through the bounds is off, that the next pivots lie beside it."""
UNROLLED: Final = 4
TURNS: Final = 8
"""Passes by lines through the counts."""
MOST_TURNS: Final = 60
"""Passes after which even 64 bits are cut to nothing by thirds."""
DENSER: Final = 3
"""Rows without a value between the bounds are left out when at least this many times as few can be left."""


def first_bounds(rank: int, n: int) -> tuple[int, int]:
    """Places in the sorted sample, of which 0 and SAMPLE + 1 stand for what is below and above all, around a rank of n."""
    share = (rank + 0.5) / n
    away = DEVIATIONS * float(np.sqrt(SAMPLE * share * (1 - share) * max(0.0, 1 - SAMPLE / n)))
    low, high = np.floor(SAMPLE * share - away + 0.5), np.ceil(SAMPLE * share + away + 0.5)
    return int(np.clip(low, 0, SAMPLE + 1)), int(np.clip(high, 0, SAMPLE + 1))


def ranks_table(ranks: Sequence[int], n: int) -> npt.NDArray[np.int64]:
    """(ranks, 3): each rank of n, counted from 0, and its first bounds: what `Selection.find` reads."""
    return np.array([(rank, *first_bounds(rank, n)) for rank in ranks], np.int64)


def scratch_rows(n: int) -> int:
    """Vectors of keys that a strip of n rows takes, filled up, with room for what is filled up again."""
    return -(-n // UNROLLED) * UNROLLED + UNROLLED


@dataclass(frozen=True, eq=False)
class _Bounds:
    """lo < the value of the rank <= hi, and how many values are <= each: vectors of keys and of counts."""

    lo: Any
    hi: Any
    below: Any
    up_to: Any


@dataclass(frozen=True, eq=False)
class Selection:
    """Writes the search for ranks among `n` rows of keys; `sample` and `work` are scratch."""

    keys: Keys
    n: Any
    sample: Any
    work: Any

    @property
    def write(self) -> Writer:
        """The kernel that is written."""
        return self.keys.write

    def filled(self, base: Any, count: Any) -> None:
        """base[count : count + UNROLLED] = the greatest key, which no pivot counts."""
        for k in range(UNROLLED):
            self.keys.store(self.keys.constant(self.keys.greatest), base, self.write.sum(count, k))

    def take_sample(self, source: Any, least: Any, greatest: Any) -> None:
        """sample[0] is below all values, sample[SAMPLE + 1] the greatest; between them SAMPLE of the rows, sorted."""
        keys, write = self.keys, self.write
        below = write.builder.sub(least, keys.constant(1))
        keys.store(below, self.sample, write.integer(0))
        keys.store(greatest, self.sample, write.integer(SAMPLE + 1))
        places = [write.builder.udiv(write.product(self.n, k), write.integer(SAMPLE)) for k in range(SAMPLE)]
        values = [keys.load(source, place) for place in places]
        for low, high, *_ in selection_network(tuple(range(SAMPLE))):
            values[low], values[high] = keys.smaller(values[low], values[high]), keys.larger(values[low], values[high])
        for k, value in enumerate(values):
            keys.store(value, self.sample, write.integer(k + 1))

    def find(self, source: Any, ranks: Any, which: Any) -> Any:
        """The keys of the rank number `which` of a `ranks_table`, in each lane."""
        keys, write = self.keys, self.write
        row = write.product(which, 3)
        rank, low, high = (write.index_at(ranks, write.sum(row, k)) for k in range(3))
        k = keys.everywhere(rank)
        lo, hi = keys.load(self.sample, write.integer(0)), keys.load(self.sample, write.integer(SAMPLE + 1))
        p, q = keys.load(self.sample, low), keys.load(self.sample, high)
        p = keys.choose(keys.compare("==", p, q), write.builder.sub(p, keys.constant(1)), p)  # many equal values, likely
        zero = keys.constant(0)
        start = (source, self.n, zero, lo, hi, zero, keys.everywhere(self.n), p, q, write.integer(0))
        with write.repeat(*start) as turn:
            rows, count, left_out, lo, hi, below, up_to, p, q, number = turn.carried
            at_p, at_q = self._counts(rows, count, p, q)
            at_p, at_q = write.builder.add(at_p, left_out), write.builder.add(at_q, left_out)
            now = self._narrowed(_Bounds(lo, hi, below, up_to), (p, at_p), (q, at_q), k)
            denser = self._denser(rows, count, now, left_out)
            following = write.sum(number, 1)
            p, q = self._pivots(now, k, following)
            turn.results = [*denser, now.lo, now.hi, now.below, now.up_to, p, q, following]
            going = write.builder.icmp_signed("<", following, write.integer(MOST_TURNS))
            turn.again = write.builder.and_(keys.any(self._unknown(now, k)), going)
        return self._value(turn.results[0], turn.results[1], now, k)

    def _counts(self, rows: Any, count: Any, p: Any, q: Any) -> tuple[Any, Any]:
        """How many values are <= p, and <= q."""
        keys, write = self.keys, self.write
        zeros = [Vector(write, keys.constant(0), "key")] * (2 * UNROLLED)
        with write.loop(write.integer(0), count, UNROLLED, zeros) as loop:
            for k in range(UNROLLED):
                value = keys.load(rows, write.sum(loop.index, k))
                for place, pivot in ((2 * k, p), (2 * k + 1, q)):
                    counted = keys.counted(loop.carried[place].value, keys.compare("<=", value, pivot))
                    loop.results[place] = Vector(write, counted, "key")
        sums = [vector.value for vector in loop.results]
        add = write.builder.add
        return add(add(sums[0], sums[2]), add(sums[4], sums[6])), add(add(sums[1], sums[3]), add(sums[5], sums[7]))

    def _narrowed(self, bounds: _Bounds, first: tuple[Any, Any], second: tuple[Any, Any], k: Any) -> _Bounds:
        """The bounds after two pivots, the first no greater than the second, and their counts."""
        keys = self.keys
        (p, at_p), (q, at_q) = first, second
        past_p, past_q = keys.compare("<=", at_p, k), keys.compare("<=", at_q, k)

        def lower(old: Any, at_first: Any, at_second: Any) -> Any:
            return keys.choose(past_q, at_second, keys.choose(past_p, at_first, old))

        def upper(old: Any, at_first: Any, at_second: Any) -> Any:
            return keys.choose(past_p, keys.choose(past_q, old, at_second), at_first)

        lo, below = lower(bounds.lo, p, q), lower(bounds.below, at_p, at_q)
        return _Bounds(lo, upper(bounds.hi, p, q), below, upper(bounds.up_to, at_p, at_q))

    def _unknown(self, bounds: _Bounds, k: Any) -> Any:
        """The lanes in which the value is neither the first above lo, nor the last up to hi, nor the only one possible."""
        keys, b = self.keys, self.write.builder
        first = keys.compare("!=", bounds.below, k)
        last = keys.compare("!=", bounds.up_to, b.add(k, keys.constant(1)))
        between = keys.compare("!=", b.add(bounds.lo, keys.constant(1)), bounds.hi)
        return b.and_(b.and_(first, last), between)

    def _denser(self, rows: Any, count: Any, bounds: _Bounds, left_out: Any) -> tuple[Any, Any, Any]:
        """(rows, their number, how many values up to lo are in none of them), without rows that no lane needs."""
        keys, write = self.keys, self.write
        left = write.product(keys.total(write.builder.sub(bounds.up_to, bounds.below)), DENSER)
        before = write.builder.block
        with write.where_less(left, count):
            zero = Vector(write, write.integer(0), "index")
            with write.loop(write.integer(0), count, 1, [zero]) as loop:
                value, place = keys.load(rows, loop.index), loop.carried[0].value
                b = write.builder
                inside = b.and_(keys.compare(">", value, bounds.lo), keys.compare("<=", value, bounds.hi))
                keys.store(keys.choose(inside, value, keys.constant(keys.greatest)), self.work, place)
                following = b.add(place, b.zext(keys.any(inside), place.type))
                loop.results = [Vector(write, following, "index")]
            kept = loop.results[0].value
            self.filled(self.work, kept)
            within = write.builder.block
        found = ((rows, self.work), (count, kept), (left_out, bounds.below))
        return tuple(self._either(old, before, new, within) for old, new in found)  # pyright: ignore[reportReturnType]  # 3

    def _either(self, old: Any, before: Any, new: Any, within: Any) -> Any:
        phi = self.write.builder.phi(old.type)
        phi.add_incoming(old, before)
        phi.add_incoming(new, within)
        return phi

    def _pivots(self, bounds: _Bounds, k: Any, number: Any) -> tuple[Any, Any]:
        """The next two pivots, strictly between the bounds where there is room."""
        keys, b = self.keys, self.write.builder
        third = b.udiv(b.sub(bounds.hi, bounds.lo), keys.constant(3))
        thirds = b.add(bounds.lo, third), b.sub(bounds.hi, third)
        lines = self._lines(bounds, k)
        early = b.icmp_signed("<", number, self.write.integer(TURNS))
        one = keys.constant(1)
        first, last = b.add(bounds.lo, one), b.sub(bounds.hi, one)
        chosen = [b.select(early, line, cut) for line, cut in zip(lines, thirds, strict=True)]
        inside = [keys.larger(keys.smaller(pivot, last), first) for pivot in chosen]
        return keys.smaller(*inside), keys.larger(*inside)

    def _lines(self, bounds: _Bounds, k: Any) -> tuple[Any, Any]:
        """Where the count is expected to pass k, less and plus a deviation, were the values between the bounds uniform."""
        keys, b = self.keys, self.write.builder
        low, high = keys.number(bounds.lo), keys.number(bounds.hi)
        count = keys.float(b.sub(bounds.up_to, bounds.below))
        half = self.write.constant(0.5, keys.dtype)
        place = keys.float(b.sub(k, bounds.below)) + half
        variance = place - place * place.over(count)
        away = half + variance.root() * self.write.constant(SPREAD, keys.dtype)
        width = (high - low).over(count)
        return keys.of((place - away).times_plus(width, low)), keys.of((place + away).times_plus(width, low))

    def _value(self, rows: Any, count: Any, bounds: _Bounds, k: Any) -> Any:
        """The first value above lo where k are up to it, else the last one up to hi."""
        keys, write = self.keys, self.write
        ends = [Vector(write, keys.constant(end), "key") for end in (keys.greatest, keys.least)]
        with write.loop(write.integer(0), count, 1, ends) as loop:
            value = keys.load(rows, loop.index)
            first, last = (vector.value for vector in loop.carried)
            above = keys.choose(keys.compare(">", value, bounds.lo), value, keys.constant(keys.greatest))
            up_to = keys.choose(keys.compare("<=", value, bounds.hi), value, keys.constant(keys.least))
            found = keys.smaller(first, above), keys.larger(last, up_to)
            loop.results = [Vector(write, one, "key") for one in found]
        first, last = (vector.value for vector in loop.results)
        return keys.choose(keys.compare("==", bounds.below, k), first, last)
