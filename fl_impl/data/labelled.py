"""Labelled data as plain arrays, held once and indexed by every client."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Dataset:
    """m inputs and their labels."""

    x: Array
    """(m, ...) float32."""
    y: Array
    """(m,) int64 class labels, or (m, ...) float32 targets where classes is 0."""
    classes: int
    image: tuple[int, ...] = ()
    """(height, width) where a row of x is an image laid flat; () where it is none."""
    groups: Array | None = None
    """(m,) int64: whose sample it is, where the data come from several people."""
    name: str = ""

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Array) -> Dataset:
        """A data set of copies of these rows."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], groups=groups)

    def with_arrays(self, x: Array, y: Array) -> Dataset:
        """Other inputs and labels, of the same kind; groups are forgotten where the number of rows changes."""
        groups = self.groups if len(y) == len(self.y) else None
        return replace(self, x=x, y=y, groups=groups)


def split(data: Dataset, rng: np.random.Generator, *, test: float = 0.2) -> tuple[Dataset, Dataset]:
    """(training, test) data, the same share of every class, or of every group where there are groups, in the test."""
    strata = data.groups if data.groups is not None else data.y if data.classes else np.zeros(len(data), np.int64)
    held: list[Array] = []
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        held.append(rows[: round(test * len(rows))])
    chosen = np.zeros(len(data), bool)
    chosen[np.concatenate(held)] = True
    return data.take(np.flatnonzero(~chosen)), data.take(np.flatnonzero(chosen))
