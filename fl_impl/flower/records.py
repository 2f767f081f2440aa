"""A model's arrays: their names, shapes and dtypes, and the floating point ones as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord

from fl_impl.flower.decoder import BFLOAT16, Numbers, header_of, packed, unpacked

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Schema:
    """Names, shapes and dtypes of a model's arrays, in order. They stay what they are, however many rounds there are."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    """As in `decoder.Header`."""

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each name stands."""
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def floating(self) -> tuple[str, ...]:
        """The names of the arrays of floating point numbers; the others hold integers or bool."""
        return tuple(name for name, dtype in zip(self.names, self.dtypes, strict=True) if is_floating(dtype))

    @property
    def d(self) -> int:
        """How many floating point numbers there are."""
        return sum(math.prod(self.shapes[self.places[name]]) for name in self.floating)

    def read(self, record: Mapping[str, Array], needed: Iterable[str] | None = None) -> dict[str, Numbers]:
        """The numbers of the arrays that are `needed`, all where None, by name. The order in the record does not matter.

        An array may come in another dtype if its numbers are of the one that was sent: integers for floats, and floats
        that are whole for integers. Raises ValueError that says what is wrong with the arrays.
        """
        wanted = self.names if needed is None else tuple(needed)
        if not set(wanted) <= set(record) <= set(self.names):
            raise ValueError(f"wrong arrays: expected {shown(self.names)}, got {shown(tuple(record))}")
        return {name: self.matching(name, record[name]) for name in wanted}

    def matching(self, name: str, array: Array) -> Numbers:
        """The numbers of one array, of the shape and kind that were sent."""
        place = self.places[name]
        numbers = unpacked(array, self.shapes[place])
        if numbers.dtype.kind == "f" and not is_floating(self.dtypes[place]):
            return whole(numbers, self.dtypes[place])
        return numbers if is_floating(self.dtypes[place]) else within(numbers, self.dtypes[place])

    def dtype(self, names: Iterable[str]) -> type[np.float32 | np.float64]:
        """Of the vector of these arrays: float32 where that holds all of their numbers, else float64."""
        return np.float64 if any(self.dtypes[self.places[name]][1:] == "f8" for name in names) else np.float32

    def vector(self, arrays: Mapping[str, Numbers], names: tuple[str, ...]) -> Floats:
        """(d,) of these arrays, one after another, a copy; a number beyond its range is infinite."""
        dtype = self.dtype(names)
        with np.errstate(over="ignore"):
            parts = [arrays[name].reshape(-1).astype(dtype) for name in names]
        return np.concatenate(parts) if parts else np.zeros(0, dtype)

    def parted(self, vector: Numbers, names: tuple[str, ...]) -> dict[str, Numbers]:
        """The arrays of a vector of these names: the way back from `vector`."""
        shapes = [self.shapes[self.places[name]] for name in names]
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        parts = np.split(vector, ends[:-1]) if names else []
        return {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}

    def record(self, arrays: Mapping[str, Numbers], kept: Mapping[str, Array] | None = None) -> ArrayRecord:
        """These numbers as Flower's arrays, with the names, order, shapes and dtypes of the form; `kept` ones as they are."""
        stays = kept or {}
        written = {
            name: stays[name] if name in stays else packed(arrays[name].reshape(shape), dtype)
            for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True)
        }
        return ArrayRecord(written)


def form_of(record: Mapping[str, Array]) -> Schema:
    """The form of these arrays. Raises ValueError where one is no array of numbers."""
    headers = [header_of(array) for array in record.values()]
    return Schema(tuple(record), tuple(header.shape for header in headers), tuple(header.dtype for header in headers))


def is_floating(dtype: str) -> bool:
    """Whether a dtype of `decoder.Header` is one of floating point numbers."""
    return dtype == BFLOAT16 or dtype[1] == "f"


def whole(numbers: Numbers, dtype: str) -> Numbers:
    """Floating point numbers as the integers or bool that they are. Raises ValueError where one is none."""
    if not (np.isfinite(numbers).all() and (np.rint(numbers) == numbers).all()):
        raise ValueError(f"wrong numbers: expected {np.dtype(dtype)}, got fractions or numbers that are not finite")
    if numbers.size and float(np.abs(numbers.astype(np.float64)).max()) >= 2.0**63:
        raise ValueError(f"wrong numbers: expected {np.dtype(dtype)}, got larger ones")
    return within(numbers.astype(np.int64), dtype)


def within(numbers: Numbers, dtype: str) -> Numbers:
    """Integers as those of another dtype. Raises ValueError where one is beyond its range."""
    wanted = np.dtype(dtype)
    if numbers.dtype == wanted or not numbers.size:
        return numbers.astype(wanted, copy=False)
    low, high = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
    if int(numbers.min()) < low or int(numbers.max()) > high:
        raise ValueError(f"wrong numbers: expected {wanted}, got some beyond {low} to {high}")
    return numbers.astype(wanted)


def shown(names: tuple[str, ...]) -> str:
    """A few of the names."""
    return ", ".join(name[:40] for name in names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "") or "none"
