"""The bytes of a compressed update: a safetensors file of named arrays, whose header names the codec and d."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

Arrays = dict[str, npt.NDArray[Any]]
Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""The name, dtype (little-endian) and shape of each array: what a receiver expects, to the byte."""


def pack(arrays: Mapping[str, npt.NDArray[Any]], *, codec: str, d: int) -> bytes:
    """The arrays as one message; its length depends on their dtypes and shapes alone."""
    return save(dict(arrays), {"codec": codec, "d": str(d)})


def unpack(data: bytes, layout: Layout, *, codec: str, d: int) -> Arrays:
    """The arrays of a message that somebody sent. Raises ValueError where it is not exactly of the layout, codec and d."""
    try:
        arrays = load(bytes(data))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected a compressed update, got {len(data)} bytes that are not: {error}") from error
    if header != {"codec": codec, "d": str(d)}:
        raise ValueError(f"expected an update of d={d} by the codec {codec!r}, got {header}")
    got = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    if got != dict(layout):
        raise ValueError(f"expected arrays {dict(layout)} in a message of {codec!r} for d={d}, got {got}")
    return arrays


def size(layout: Layout, *, codec: str, d: int) -> int:
    """The length in bytes of any message of that layout."""
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in layout.items()}
    return len(pack(arrays, codec=codec, d=d))
