"""Vectors that lie apart in memory, or narrower than rules compute in, as the matrix that nobody has to put together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
COMPUTED: Final = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
"""Type of the stored numbers -> the type that rules compute in."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """n vectors of one length d, each contiguous, wherever it lies: what kernels read in place of an (n, d) matrix.

    It has the shape, dtype and rows of the matrix that rules see; a row is widened when it is asked for.
    """

    rows: Sequence[npt.NDArray[Any]] | npt.NDArray[Any]
    """n arrays, or the rows of one, as they are stored; bfloat16, which numpy lacks, as uint16."""
    stored: str
    """A key of COMPUTED."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return len(self.rows), len(self.rows[0])

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type that rules compute in."""
        return np.dtype(COMPUTED[self.stored])

    def __len__(self) -> int:
        """The number of vectors."""
        return len(self.rows)

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        """A vector, in the type that rules compute in."""
        return widened(self.rows[row], self.stored)

    @cached_property
    def addresses(self) -> npt.NDArray[np.int64]:
        """(n,) where each vector begins in memory."""
        if isinstance(self.rows, np.ndarray):
            return self.rows.ctypes.data + np.arange(len(self.rows)) * self.rows.strides[0]
        return np.array([row.ctypes.data for row in self.rows], np.int64)

    def after(self, column: int) -> Vectors:
        """The same vectors without the columns before that one."""
        rows = self.rows
        kept = rows[:, column:] if isinstance(rows, np.ndarray) else [row[column:] for row in rows]
        return Vectors(kept, self.stored)

    def matrix(self) -> npt.NDArray[Any]:
        """(n, d): the copy that is saved elsewhere, for what needs all updates side by side."""
        found = np.empty(self.shape, self.dtype)
        for row, vector in zip(found, self.rows, strict=True):
            row[:] = widened(vector, self.stored)
        return found


def widened(values: npt.NDArray[Any], stored: str) -> npt.NDArray[Any]:
    """Stored values in the type that rules compute in; no copy where that is the same."""
    if stored == "bfloat16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(COMPUTED[stored], copy=False)


def narrowed(values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values rounded to a dtype; to float16 by torch where it is loaded, since numpy takes 30 times as long for it."""
    torch = sys.modules.get("torch")
    if torch is None or values.dtype != np.float32 or np.dtype(dtype) != np.float16:
        return values.astype(dtype, copy=False)
    return torch.from_numpy(values).half().numpy()
