"""Flower's arrays and one vector: what came over the wire is checked before a byte of it is unpacked."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord

Floats = npt.NDArray[np.floating[Any]]
NUMBERS: Final = "fiub"
"""Kinds of dtypes that are numbers."""
HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class Form:
    """Names, shapes and dtypes of a model's arrays, in order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in each."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def d(self) -> int:
        """The length of the vector."""
        return sum(self.sizes)

    @cached_property
    def dtype(self) -> type[np.float32 | np.float64]:
        """Of the vector: float32 where that holds every array exactly, else float64."""
        return np.float32 if all(kind.kind == "f" and kind.itemsize <= 4 for kind in self.dtypes) else np.float64

    def vector(self, record: Mapping[str, Array]) -> Floats:
        """(d,), a copy. Raises ValueError that says what is wrong with the arrays."""
        if tuple(record) != self.names:
            raise ValueError(f"wrong arrays: expected {shown(self.names)}, got {shown(tuple(record))}")
        parts = [unpacked(record[name], shape) for name, shape in zip(self.names, self.shapes, strict=True)]
        with np.errstate(over="ignore"):
            return np.concatenate([part.reshape(-1).astype(self.dtype) for part in parts])

    def record(self, vector: npt.NDArray[Any]) -> ArrayRecord:
        """The arrays of a (d,) vector; numbers of integer arrays are rounded."""
        parts = np.split(vector, np.cumsum(self.sizes)[:-1])
        arrays = {
            name: Array(np.ascontiguousarray((part if dtype.kind == "f" else np.rint(part)).reshape(shape), dtype))
            for name, part, shape, dtype in zip(self.names, parts, self.shapes, self.dtypes, strict=True)
        }
        return ArrayRecord(arrays)


def form_of(record: Mapping[str, Array]) -> Form:
    """The form of these arrays. Raises ValueError where one is no array of numbers."""
    headers = [header_of(array) for array in record.values()]
    return Form(tuple(record), tuple(shape for shape, _, _ in headers), tuple(dtype for _, dtype, _ in headers))


def header_of(array: Array) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """(shape, dtype, offset of the data) of an array, read from its first bytes alone.

    Raises ValueError for what is not numbers in numpy's format: above all for pickled objects, which are never loaded.
    """
    if array.stype != "numpy.ndarray":
        raise ValueError(f"an array is serialized as {str(array.stype)[:40]!r}, not as numpy's: it is not read")
    start = io.BytesIO(array.data[:20_000])
    try:
        shape, fortran, dtype = HEADERS[np.lib.format.read_magic(start)](start)
    except (ValueError, KeyError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"an array is not in numpy's format: {str(error)[:80]}") from None
    if dtype.kind not in NUMBERS or fortran:
        raise ValueError(f"an array holds {dtype}{' in Fortran order' if fortran else ''}, not plain numbers: it is not read")
    return shape, dtype, start.tell()


def unpacked(array: Array, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The numbers of an array, read-only. Raises ValueError for another shape, or more or fewer bytes than that takes."""
    found, dtype, offset = header_of(array)
    if found != shape:
        raise ValueError(f"wrong shape: expected {shape}, got {found}")
    expected = math.prod(shape) * dtype.itemsize
    if len(array.data) - offset != expected:
        raise ValueError(f"an array of shape {shape} takes {expected} bytes, got {len(array.data) - offset}")
    return np.frombuffer(array.data, dtype, offset=offset).reshape(shape)


def shown(names: tuple[str, ...]) -> str:
    """A few of the names."""
    return ", ".join(name[:40] for name in names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "") or "none"
