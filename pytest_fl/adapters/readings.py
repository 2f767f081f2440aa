"""What a rule gives back: the aggregate, or which clients it chose, alone or beside other things."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from pytest_fl.adapters.containers import client_names, is_jax, is_vector
from pytest_fl.adapters.models import is_tensor
from pytest_fl.subjects.guard import Misbehaved

if TYPE_CHECKING:
    from pytest_fl.adapters.containers import Form
    from pytest_fl.adapters.models import Layout

Updates = npt.NDArray[np.floating]
Kind = Literal["vector", "model", "index", "client", "mask", "indices", "weights", "own"]
WORDS: Final[dict[str, str]] = {
    "index": "returns the index of a client",
    "client": "returns the name of a client",
    "mask": "returns a mask of the clients, whose mean is taken",
    "indices": "returns indices of clients, whose mean is taken",
    "weights": "returns the weights of the clients, whose mean is taken",
    "own": "read by result=",
}
MOST: Final = 6
"""Entries of a tuple or dict that are looked through for the aggregate."""


@dataclass(frozen=True)
class Reading:
    """Where in a result the aggregate stands, and as what."""

    kind: Kind = "vector"
    path: tuple[Any, ...] = ()
    own: Callable[[Any], Any] | None = None
    """The caller's `result=`."""

    def __call__(self, result: Any, updates: Updates, form: Form, layout: Layout) -> Any:
        """The vector; whatever came back where a vector is expected and something else came."""
        if self.own is not None:
            return self.own(result)
        result = self.item(result)
        if self.kind == "vector":
            return np.asarray(result) if is_jax(result) else result
        if self.kind == "model":
            assert form.model is not None
            try:
                return form.model(result, updates.shape[1], layout)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
                raise Misbehaved(str(error) if isinstance(error, ValueError) else f"returned no model: {error!r}") from None
        return _chosen(self.kind, result, updates)

    def item(self, result: Any) -> Any:
        """What stands at the path."""
        for key in self.path:
            result = _item(result, key)
        return result

    def __str__(self) -> str:
        """Empty for a plain aggregate."""
        place = f"item {self.path[0]!r} of the result" if self.path else ""
        return ", ".join(filter(None, (place, WORDS.get(self.kind, ""))))


PLAIN: Final = Reading()
"""The aggregate as it came back."""


def _item(result: Any, key: Any) -> Any:
    try:
        return getattr(result, key) if isinstance(key, str) and not isinstance(result, Mapping) else result[key]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Misbehaved(f"returned {type(result).__name__} without item {key!r}") from error


def _chosen(kind: Kind, result: Any, updates: Updates) -> Any:
    """The row or the mean of the rows that were chosen."""
    n = len(updates)
    if kind == "client":
        names = client_names(n)
        if result not in names:
            raise Misbehaved(f"returned {result!r:.60}; expected the name of a client")
        return updates[names.index(result)].copy()
    values = _flat(result)
    if values is None or not len(values):
        raise Misbehaved(f"returned {result!r:.60}; expected {WORDS[kind].removeprefix('returns ')}")
    if kind == "weights":
        return (values / values.sum()) @ updates if values.shape == (n,) else result
    if kind == "mask":
        if values.shape != (n,) or not values.any():
            raise Misbehaved(f"returned a mask of shape {values.shape} with {values.sum()} chosen; expected some of {n}")
        return updates[values.astype(bool)].mean(axis=0)
    if not ((values >= 0) & (values < n)).all():
        raise Misbehaved(f"returned the indices {values.tolist()!r:.60} of {n} clients")
    rows = updates[values.astype(np.int64)]
    return rows[0].copy() if kind == "index" or len(rows) == 1 else rows.mean(axis=0)


def _flat(result: Any) -> npt.NDArray[Any] | None:
    """Numbers on one axis, of a tensor, array, scalar, list or set."""
    try:
        value = result.detach().cpu().numpy() if is_tensor(result) else sorted(result) if isinstance(result, set) else result
        array = np.atleast_1d(np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        return None
    return array if array.ndim == 1 and array.dtype.kind in "iubf" else None


def find_reading(result: Any, updates: Updates, form: Form, layout: Layout) -> Reading | None:
    """How a result can be read: as the aggregate first, then inside a tuple or dict, then as a choice of clients."""
    for path, item in ((), result), *_items(result):
        if form.model is not None and _is_model(item, updates.shape[1], form, layout):
            return Reading("model", path)
        if is_vector(item, updates.shape[1]) and not _is_choice(item):
            return Reading("vector", path)
    for path, item in ((), result), *_items(result):
        if kind := _choice(item, len(updates), form):
            return Reading(kind, path)
    return None


def _items(result: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(result, tuple) and len(result) <= MOST:
        yield from (((i,), item) for i, item in enumerate(result))
    elif isinstance(result, Mapping) and len(result) <= MOST:
        yield from (((key,), item) for key, item in result.items())
    elif hasattr(result, "__dict__") and not is_tensor(result) and len(vars(result)) <= MOST:
        yield from (((key,), item) for key, item in vars(result).items())


def _is_model(result: Any, d: int, form: Form, layout: Layout) -> bool:
    assert form.model is not None
    try:
        return is_vector(form.model(result, d, layout), d)
    except Exception:  # noqa: BLE001  # foreign results fail in every way
        return False


def _is_choice(item: Any) -> bool:
    """Whether the entries are whole numbers or booleans by type: never the mean of what the trial sends."""
    values = _flat(item)
    return values is not None and values.dtype.kind in "iub"


def _choice(item: Any, n: int, form: Form) -> Kind | None:
    if isinstance(item, str):
        return "client" if item in client_names(n) and "client" in form.name else None
    values = _flat(item)
    if values is None or values.dtype.kind not in "iub" or not len(values):
        return None
    if values.dtype.kind == "b":
        return "mask" if len(values) == n else None
    scalar = np.ndim(item) == 0 if not isinstance(item, set) else False
    inside = ((values >= 0) & (values < n)).all() and len(set(values.tolist())) == len(values)
    if len(values) == n and set(values.tolist()) <= {0, 1}:
        return "mask"
    return None if not inside else "index" if scalar else "indices"
