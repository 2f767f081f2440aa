"""The updates as the kernels see them: rows of one matrix, or vectors apart, chosen by number and never copied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.vectors import COMPUTED, Vectors, widened

Array = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Rows:
    """x[chosen], (n, d), where every row of x is contiguous."""

    x: Array | Vectors
    chosen: npt.NDArray[np.int64]

    @property
    def n(self) -> int:
        """The number of chosen rows."""
        return len(self.chosen)

    @property
    def d(self) -> int:
        """The number of columns."""
        return self.x.shape[1]

    @cached_property
    def stored(self) -> str:
        """The name of the type in memory, a key of COMPUTED."""
        return self.x.stored if isinstance(self.x, Vectors) else self.x.dtype.name

    @cached_property
    def dtype(self) -> str:
        """The name of the type that is computed in, "float32" or "float64"."""
        return COMPUTED[self.stored]

    def __getitem__(self, row: int) -> Array:
        return self.x[self.chosen[row]]

    def part(self, row: int, columns: slice) -> Array:
        """Some columns of a row, widened, without looking at the others."""
        source = self.x.rows if isinstance(self.x, Vectors) else self.x
        return widened(source[self.chosen[row]][columns], self.stored)

    def addresses(self) -> npt.NDArray[np.int64]:
        """(n,) where each row begins in memory."""
        if isinstance(self.x, Vectors):
            return self.x.addresses[self.chosen]
        return self.x.ctypes.data + self.chosen * self.x.strides[0]

    def and_again(self, row: int, times: int) -> Rows:
        """The same rows, and then one of them some more times."""
        return Rows(self.x, np.concatenate([self.chosen, np.repeat(self.chosen[row], times)]))

    def after(self, column: int) -> Rows:
        """The same rows without the columns before that one."""
        return Rows(self.x.after(column) if isinstance(self.x, Vectors) else self.x[:, column:], self.chosen)

    def block(self, columns: slice, dtype: str = "") -> Any:
        """(n, some columns), a copy side by side, in a dtype."""
        return np.stack([self.part(i, columns) for i in range(self.n)], dtype=dtype or self.dtype)

    def are_finite(self) -> bool:
        """Whether no value is NaN or infinite: a pass over all of them."""
        step = 1 << 16
        starts = range(0, self.d, step)
        return all(np.isfinite(self.part(i, slice(k, k + step))).all() for i in range(self.n) for k in starts)


def rows_of(x: Array | Vectors, chosen: npt.ArrayLike | None = None) -> Rows:
    """The chosen rows of x, all of them by default; x is copied only where its rows are not contiguous."""
    if isinstance(x, np.ndarray):
        x = _readable(x)
    numbers = np.arange(len(x)) if chosen is None else np.asarray(chosen, np.int64) % len(x)
    return Rows(x, numbers)


def _readable(x: Array) -> Array:
    if x.dtype.name not in ("float32", "float64"):
        raise ValueError(f"kernels compute on float32 and float64; got {x.dtype}. Convert with .astype(numpy.float32)")
    return x if x.strides[1] == x.itemsize and x.flags.aligned else np.ascontiguousarray(x)
