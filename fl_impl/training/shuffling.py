"""The batches of many clients at once: who trains on which rows in each step, from (seed, client, round, epoch) alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Step:
    """Clients first to last - 1 train on a batch each: (last - first, b) row numbers."""

    first: int
    last: int
    rows: Ints


def steps(
    rows: Sequence[Ints],
    ids: Sequence[int],
    *,
    batch_size: int,
    epochs: int,
    limit: int | None,
    seed: int,
    round_number: int,
    least: int = 1,
) -> Iterator[Step]:
    """The steps of one round: each epoch is shuffled, its last batch may be short, `limit` batches end it if given.

    A last batch of fewer than `least` rows is joined to the one before it, where there is one. A step is yielded once for
    each run of neighbours whose batches are equally long.
    """
    sizes = np.array([len(mine) for mine in rows], np.int64)
    starts, names = np.cumsum(sizes) - sizes, np.array(ids, np.uint64)
    everything, per_epoch = np.concatenate(rows), np.maximum(1, (sizes + batch_size - least) // batch_size)
    order = everything.copy()
    counts = per_epoch * epochs if limit is None else np.full(len(sizes), limit)
    for step in range(int(counts.max())):
        epoch, place = np.divmod(step, per_epoch)
        fresh = np.flatnonzero((place == 0) & (step < counts))
        for number in np.unique(epoch[fresh]):
            which = fresh[epoch[fresh] == number]
            keys = mixed(mixed(mixed(mixed(np.uint64(seed)) + names[which]) + np.uint64(round_number)) + np.uint64(number))
            shuffle(everything, order, starts[which], sizes[which], keys)
        whole = np.where(place == per_epoch - 1, sizes - place * batch_size, batch_size)
        lengths = np.where(step < counts, whole, 0)
        for first, last in runs(lengths):
            at = (starts + place * batch_size)[first:last, None] + np.arange(lengths[first])
            yield Step(first, last, order[at])


def runs(lengths: Ints) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of equal lengths above 0."""
    edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
    return ((a, b) for a, b in itertools.pairwise(edges) if lengths[a] > 0)


def shuffle(rows: Ints, order: Ints, starts: Ints, sizes: Ints, keys: Keys) -> None:
    """Write a permutation of each segment of rows to the same place of order; it follows from the segment's key alone.

    Entry j is sorted by the top 44 bits of a hash of (key, j) behind the number of its segment: one sort for all.
    """
    segment = np.repeat(np.arange(len(sizes)), sizes)
    inside = np.arange(len(segment)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = starts[segment] + inside
    drawn = mixed(keys[segment] + inside.astype(np.uint64) * GOLDEN) >> np.uint64(20)
    chosen = np.argsort((segment.astype(np.uint64) << np.uint64(44)) | drawn, kind="stable")
    order[place] = rows[place[chosen]]


def mixed(state: Keys | np.uint64) -> Keys:
    """splitmix64's finalizer: 64 well-mixed bits of each entry. Steele, Lea & Flood 2014."""
    z = np.atleast_1d(np.asarray(state, np.uint64)) + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
