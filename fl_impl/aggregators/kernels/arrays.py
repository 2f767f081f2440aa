"""The updates as the kernels see them: rows of one numpy matrix, chosen by number and never copied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """x[chosen], (n, d), where every row of x is contiguous."""

    x: Array
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
    def dtype(self) -> str:
        """The name of the element type, "float32" or "float64"."""
        return self.x.dtype.name

    def __getitem__(self, row: int) -> Array:
        return self.x[self.chosen[row]]

    def addresses(self) -> npt.NDArray[np.int64]:
        """(n,) where each row begins in memory."""
        return self.x.ctypes.data + self.chosen * self.x.strides[0]

    def and_again(self, row: int, times: int) -> Rows:
        """The same rows, and then one of them some more times."""
        return Rows(self.x, np.concatenate([self.chosen, np.repeat(self.chosen[row], times)]))

    def after(self, column: int) -> Rows:
        """The same rows without the columns before that one."""
        return Rows(self.x[:, column:], self.chosen)

    def are_finite(self) -> bool:
        """Whether no value is NaN or infinite: a pass over all of them."""
        step = 1 << 16
        return all(np.isfinite(self[i][k : k + step]).all() for i in range(self.n) for k in range(0, self.d, step))


def rows_of(x: Array, chosen: npt.ArrayLike | None = None) -> Rows:
    """The chosen rows of x, all of them by default; x is copied only where its rows are not contiguous."""
    if x.dtype.name not in ("float32", "float64"):
        raise ValueError(f"kernels compute on float32 and float64; got {x.dtype}. Convert with .astype(numpy.float32)")
    if x.strides[1] != x.itemsize or not x.flags.aligned:
        x = np.ascontiguousarray(x)
    numbers = np.arange(len(x)) if chosen is None else np.asarray(chosen, np.int64) % len(x)
    return Rows(x, numbers)
