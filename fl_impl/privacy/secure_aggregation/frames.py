"""Bytes of a message: fields with their lengths before them, and lists of client numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

LENGTH_BYTES: Final = 4


class SecureAggregationError(ValueError):
    """A message was refused or too few clients remain: this session is over, and nothing is summed from it."""


def pack(*fields: bytes) -> bytes:
    """The fields one after another, each with its length."""
    return b"".join(part for field in fields for part in (len(field).to_bytes(LENGTH_BYTES, "little"), field))


def unpack(data: bytes, count: int | None = None, *, least: int = 0) -> list[bytes]:
    """The fields that `pack` wrote: `count` of them, or at least so many.

    Raises SecureAggregationError where bytes or fields are missing or left over.
    """
    fields, position = list[bytes](), 0
    while position < len(data):
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(data[position:start], "little")
        fields.append(data[start:position])
        if start > len(data) or position > len(data):
            raise SecureAggregationError(f"a message of {len(data)} bytes is truncated: it announces {position}")
    if count is not None and len(fields) != count:
        raise SecureAggregationError(f"expected a message of {count} fields, got {len(fields)}")
    if len(fields) < least:
        raise SecureAggregationError(f"expected a message of {least} fields or more, got {len(fields)}")
    return fields


def pack_numbers(numbers: Iterable[int]) -> bytes:
    """Client numbers, four bytes each."""
    return np.array(list(numbers), "<u4").tobytes()


def unpack_numbers(data: bytes) -> tuple[int, ...]:
    """The numbers that `pack_numbers` wrote. Raises SecureAggregationError for half a number or one named twice."""
    if len(data) % 4:
        raise SecureAggregationError(f"expected client numbers of 4 bytes each, got {len(data)} bytes")
    numbers = tuple(np.frombuffer(data, "<u4").tolist())
    if len(set(numbers)) != len(numbers):
        raise SecureAggregationError("a list of clients names one of them twice")
    return numbers
