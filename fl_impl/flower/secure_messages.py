"""How the messages of a secure sum travel: as records of Flower's, beside the model where clients are to train."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fl_impl.flower.decoder import packed, unpacked
from fl_impl.flower.records import form_of
from fl_impl.flower.replies import Model
from fl_impl.privacy.secure_aggregation import SecureAggregationError

ASKED: Final = "secure-sum"
"""The ConfigRecord of a message that says what is to be done, and of a reply that says which client did it."""
CARRIED: Final = "secure-message"
"""The ArrayRecord with the bytes of the protocol's message: Flower sends long arrays in pieces."""
BYTES: Final = "bytes"


def carrying(message: bytes, **asked: Any) -> RecordDict:
    """The records of one message of the protocol."""
    array = packed(np.frombuffer(message, np.uint8))
    return RecordDict({ASKED: ConfigRecord(asked), CARRIED: ArrayRecord({BYTES: array})})


def carried(content: RecordDict) -> tuple[ConfigRecord, bytes]:
    """(what is said of it, the protocol's message) of the records. Raises SecureAggregationError where they are no such."""
    asked, arrays = content.get(ASKED), content.get(CARRIED)
    array = arrays.get(BYTES) if isinstance(arrays, ArrayRecord) else None
    if not isinstance(asked, ConfigRecord) or not isinstance(array, Array):
        raise SecureAggregationError(f"it has no {ASKED!r} and {CARRIED!r} of a secure sum")
    try:
        numbers = unpacked(array)
    except ValueError as error:
        raise SecureAggregationError(f"its {CARRIED!r} cannot be read: {error}") from error
    if numbers.dtype != np.uint8 or numbers.ndim != 1:
        raise SecureAggregationError(f"its {CARRIED!r} holds no bytes, but {numbers.dtype}")
    return asked, numbers.tobytes()


def about(content: RecordDict) -> bytes:
    """A digest of what clients make their updates from: all records but those of the protocol, and how they are to be summed.

    Their masks cancel only where it is the same for all.
    """
    said = hashlib.sha256()
    for name in sorted(set(content) - {CARRIED}):
        record: Any = content[name]
        for key in sorted(record):
            if (name, key) == (ASKED, "stage"):
                continue
            for part in [json.dumps([name, key]).encode(), *written(record[key])]:
                said.update(len(part).to_bytes(8, "little"))
                said.update(part)
    return said.digest()


def written(value: Any) -> list[bytes]:
    """An array or a value of a record as bytes, of one kind and content only."""
    if isinstance(value, Array):
        return [json.dumps([value.dtype, value.shape, value.stype]).encode(), value.data]
    return [json.dumps([type(value).__name__, value], default=bytes.hex).encode()]


def summed_model(arrays: ArrayRecord, exclude: Iterable[str]) -> Model:
    """The model of which the floating point arrays go through the sum, but for those that match `exclude`.

    Arrays of integers stay as they are: a sum over a grid is none of theirs. Raises ValueError for arrays that are not plain
    numbers, or where none is left.
    """
    form = form_of(arrays)
    others = [glob.escape(name) for name in form.names if name not in form.floating]
    model = Model(form, arrays, (), (*exclude, *others))
    if not len(model.origin):
        raise ValueError(f"no floating point numbers are left to sum: the arrays are {', '.join(form.names[:4])}")
    return model
