"""Flower's arrays as numpy's, and back: what came over the wire is checked before a byte of it is unpacked.

An array travels in numpy's format, npy 1.0 or 2.0. Its header is a Python literal, which numpy reads by `tokenize`, `ast` and
`np.dtype`: upon hostile bytes they raise a dozen kinds of exceptions. Here a pattern says what the header of plain numbers
looks like, and everything else is a ValueError. Pickled objects are never loaded.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from flwr.app import Array

Numbers = npt.NDArray[Any]
BFLOAT16: Final = "bfloat16"
"""numpy has no such dtype: npy stores 16 bits of "V2", and `Array.dtype` says what they are. ml_dtypes writes it like that."""
KINDS: Final = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
"""The dtypes that are read, byte order aside."""
MAGIC: Final = b"\x93NUMPY"
LENGTHS: Final = {b"\x01\x00": 2, b"\x02\x00": 4}
"""npy version -> how many bytes say how long the header is."""
LONGEST: Final = 10_000
"""Bytes of a header; one of plain numbers takes 118."""
DIMENSIONS: Final = 64
"""As many as numpy allows."""
ENTRY: Final = re.compile(
    r"""\s*['"](?P<key>descr|fortran_order|shape)['"]\s*:\s*"""
    r"""(?:['"](?P<descr>[<>|=]\w{2,4})['"]|(?P<fortran_order>True|False)|\((?P<shape>[0-9\s,]*)\))\s*(?:,|$)\s*"""
)
"""One of the three entries of a header."""


@dataclass(frozen=True)
class Header:
    """What an array says of itself in its first bytes."""

    shape: tuple[int, ...]
    dtype: str
    """A dtype string of numpy such as "<f4", or BFLOAT16."""
    fortran: bool
    """Whether the first index runs fastest."""
    offset: int
    """Where its numbers begin."""

    @property
    def stored(self) -> np.dtype[Any]:
        """Of the bytes: bool is read as uint8, so that a byte that is neither 0 nor 1 is seen."""
        return np.dtype({BFLOAT16: "<u2", "|b1": "|u1"}.get(self.dtype, self.dtype))


def header_of(array: Array) -> Header:
    """The header of an array, read from its first bytes alone.

    Raises ValueError for what is not plain numbers in numpy's format: objects, strings, complex numbers, records.
    """
    if array.stype != "numpy.ndarray":
        raise ValueError(f"an array is serialized as {str(array.stype)[:40]!r}, not as numpy's: it is not read")
    text, offset = header_text(array.data)
    entries = header_entries(text)
    dtype = dtype_of(entries["descr"], array.dtype)
    return Header(shape_of(entries["shape"]), dtype, entries["fortran_order"] == "True", offset)


def header_text(data: bytes) -> tuple[str, int]:
    """The text of a header, and where it ends. Raises ValueError where the bytes are not npy 1.0 or 2.0."""
    width = LENGTHS.get(bytes(data[6:8]))
    if data[:6] != MAGIC or width is None:
        raise ValueError(f"an array is not in numpy's format, npy 1.0 or 2.0: it begins with {bytes(data[:8])!r}")
    start = 8 + width
    length = int.from_bytes(data[8:start], "little")
    if length > LONGEST or len(data) < start + length:
        raise ValueError(f"an array is not in numpy's format: its header of {length} bytes is cut short or too long")
    return bytes(data[start : start + length]).decode("latin-1"), start + length


def header_entries(text: str) -> dict[str, str]:
    """The texts of "descr", "fortran_order" and "shape". Raises ValueError where there is anything but these three."""
    entries: dict[str, str] = {}
    text = text.strip()
    position, end = 1, len(text) - 1
    while text[:1] == "{" and text[-1:] == "}" and position < end:
        entry = ENTRY.match(text, position, end)
        value = entry.group(entry["key"]) if entry else None
        if entry is None or value is None or entry["key"] in entries:
            break
        entries[entry["key"]] = value
        position = entry.end()
    if position != end or len(entries) < 3:
        raise ValueError(f"an array is not plain numbers in numpy's format: its header is {text[:80]!r}")
    return entries


def dtype_of(descr: str, said: object) -> str:
    """The dtype of a header. Raises ValueError for one that is not read."""
    if descr in ("<V2", "|V2") and said == BFLOAT16:
        return BFLOAT16
    if descr[1:] not in KINDS:
        raise ValueError(f"an array holds {descr!r}, not plain numbers: it is not read")
    return np.dtype(descr).str


def shape_of(text: str) -> tuple[int, ...]:
    """A shape such as "3, 4" or "3,". Raises ValueError for what is none, or too large for any memory."""
    parts = [part.strip() for part in text.split(",")]
    parts = parts[:-1] if parts[-1] == "" else parts
    if len(parts) > DIMENSIONS or not all(part.isdecimal() and len(part) < 20 for part in parts):
        raise ValueError(f"an array is not in numpy's format: its shape is ({text[:80]})")
    shape = tuple(int(part) for part in parts)
    if math.prod(max(size, 1) for size in shape) >= 2**59:  # times 8 bytes: what numpy can count
        raise ValueError(f"an array says that its shape is ({text[:80]}): no memory holds that")
    return shape


def unpacked(array: Array, shape: tuple[int, ...] | None = None) -> Numbers:
    """The numbers of an array, read-only; bfloat16 as float32, all else in its own dtype.

    Raises ValueError for another shape than `shape`, for more or fewer bytes than it takes, and for bytes that are no bool.
    """
    header = header_of(array)
    if shape is not None and header.shape != shape:
        raise ValueError(f"wrong shape: expected {shape}, got {header.shape}"[:200])
    expected = math.prod(header.shape) * header.stored.itemsize
    if len(array.data) - header.offset != expected:
        raise ValueError(f"an array of shape {header.shape} takes {expected} bytes, got {len(array.data) - header.offset}")
    numbers = np.frombuffer(array.data, header.stored, offset=header.offset)
    if header.dtype == "|b1":
        if (numbers > 1).any():
            raise ValueError("an array of bool has bytes that are neither 0 nor 1")
        numbers = numbers.view(np.bool_)
    if header.dtype == BFLOAT16:
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        numbers.flags.writeable = False
    return numbers.reshape(header.shape, order="F" if header.fortran else "C")


def packed(numbers: Any, dtype: str | None = None) -> Array:
    """An Array of the same shape, () too, in row-major order; in another dtype if asked for, where `fitted` makes it fit."""
    given = np.asarray(numbers, order="C")  # np.ascontiguousarray would make shape () into (1,)
    if dtype == BFLOAT16:
        stored, name = bits_of_bfloat16(given).view("V2"), BFLOAT16
    else:
        stored = given if dtype is None else fitted(given, dtype)
        name = str(stored.dtype)
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(stored))
    data = b"".join((buffer.getvalue(), stored.reshape(-1).view(np.uint8).data))  # one copy, where np.save makes two
    return Array(name, tuple(int(size) for size in stored.shape), "numpy.ndarray", data)


def fitted(numbers: Numbers, dtype: str) -> Numbers:
    """As another dtype; floating point numbers beyond its range become its largest ones, so that finite stays finite."""
    wanted = np.dtype(dtype)
    if wanted.kind == "f" and numbers.dtype.itemsize > wanted.itemsize:
        largest = np.finfo(wanted).max
        numbers = np.where(np.isfinite(numbers), np.clip(numbers, -largest, largest), numbers)
    return numbers.astype(wanted, order="C", copy=False)


def bits_of_bfloat16(numbers: Numbers) -> npt.NDArray[np.uint16]:
    """float32's upper 16 bits, rounded to nearest, ties to even; beyond the range the largest finite one."""
    largest = np.array([0x7F7F0000], np.uint32).view(np.float32)[0]
    bits = np.array(np.clip(numbers, -largest, largest), np.float32, ndmin=1).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return rounded.astype(np.uint16).reshape(np.shape(numbers))
