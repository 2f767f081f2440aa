"""Selection networks: fixed sequences of exchanges that bring the order statistics asked for to their places.

An exchange puts the smaller of two values first. A sequence that sorts every input of zeros and ones sorts every input
(the 0-1 principle, Knuth, The Art of Computer Programming vol. 3, 5.3.4), so a network needs no data to be proved.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple


class Comparator(NamedTuple):
    """values[low], values[high] become their minimum and maximum; one that nobody reads later is not kept."""

    low: int
    high: int
    keep_low: bool = True
    keep_high: bool = True


def sorting_network(n: int) -> tuple[Comparator, ...]:
    """Batcher's odd-even merge sort (1968) of n values: O(n log^2 n) exchanges, 97 for n = 20.

    Depth first: one part is sorted to the end before the next is begun, so that values stay in registers.
    """
    return tuple(Comparator(low, high) for low, high in _sort(range(n)))


@lru_cache(maxsize=256)
def selection_network(classes: tuple[Hashable | None, ...]) -> tuple[Comparator, ...]:
    """The exchanges that matter when only the classes of the sorted positions are read.

    classes[p] is None where the p-th smallest value is not wanted; positions of one class may come out in any order
    among themselves, as a sum over them allows. Backwards from the outputs, an exchange within one class is dropped, and
    so is one whose results nobody reads.
    """
    wanted: list[Hashable | None] = list(classes)
    kept: list[Comparator] = []
    for low, high, *_ in reversed(sorting_network(len(classes))):
        if wanted[low] == wanted[high]:
            continue
        kept.append(Comparator(low, high, wanted[low] is not None, wanted[high] is not None))
        wanted[low], wanted[high] = (len(kept), "low"), (len(kept), "high")  # distinct from all others
    return tuple(reversed(kept))


def _sort(places: Sequence[int]) -> list[tuple[int, int]]:
    if len(places) < 2:
        return []
    half = 1 << ((len(places) - 1).bit_length() - 1)  # the largest power of two below the length: `_merge` needs it even
    first, second = places[:half], places[half:]
    return _sort(first) + _sort(second) + _merge(first, second)


def _merge(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """Merge two sorted runs: the even places, the odd places, then each odd place with the even place after it."""
    if not second:
        return []
    if len(first) == 1:
        return [(first[0], second[0])]
    both = [*first, *second]
    last = [(both[k], both[k + 1]) for k in range(1, len(both) - 1, 2)]
    return _merge(first[::2], second[::2]) + _merge(first[1::2], second[1::2]) + last
