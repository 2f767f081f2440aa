"""The same updates handed over in other ways: other containers, dtypes and memory, as far as the rule takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.adapters.containers import FORMS, Form, forms
from pytest_fl.adapters.models import tensor

if TYPE_CHECKING:
    from pytest_fl.adapters.trial import Apply, Way

Updates = npt.NDArray[Any]
EXAMPLES: Final = 10


def _backwards(x: Updates) -> Updates:
    """The same numbers in memory from the last row to the first."""
    return np.ascontiguousarray(x[::-1])[::-1]


def _columns_backwards(x: Updates) -> Updates:
    return np.ascontiguousarray(x[:, ::-1])[:, ::-1]


def _spaced(x: Updates) -> Updates:
    return np.repeat(x, 2, axis=1)[:, ::2]


def _read_only(x: Updates) -> Updates:
    locked = x.copy()
    locked.flags.writeable = False
    return locked


def _swapped(x: Updates) -> Updates:
    return x.astype(x.dtype.newbyteorder())


ARRAYS: Final[dict[str, Callable[[Updates], Updates]]] = {
    "in float32": lambda x: x.astype(np.float32),
    "in float16": lambda x: x.astype(np.float16),
    "in int64": lambda x: np.rint(x).astype(np.int64),
    "in int32": lambda x: np.rint(x).astype(np.int32),
    "in Fortran order": np.asfortranarray,
    "with negative strides": _backwards,
    "with columns backwards": _columns_backwards,
    "with every other column of an array": _spaced,
    "in read-only memory": _read_only,
    "in the other byte order": _swapped,
}
"""Ways of holding an (n, d) numpy array."""


def _requiring_gradient(x: Updates) -> Any:
    return tensor(x.copy()).requires_grad_(True)


def _in_bfloat16(x: Updates) -> Any:
    import torch  # noqa: PLC0415  # the rule takes tensors

    return tensor(x.copy()).to(torch.bfloat16)  # type: ignore[reportPrivateImportUsage]  # torch's stubs


def _transposed(x: Updates) -> Any:
    return tensor(np.ascontiguousarray(x.T)).t()


TENSORS: Final[dict[str, Callable[[Updates], Any]]] = {
    "in float32": lambda x: tensor(x.astype(np.float32)),
    "in float16": lambda x: tensor(x.astype(np.float16)),
    "in bfloat16": _in_bfloat16,
    "in int64": lambda x: tensor(np.rint(x).astype(np.int64)),
    "that require a gradient": _requiring_gradient,
    "transposed in memory": _transposed,
}
"""Ways of holding an (n, d) torch tensor."""
Call = Callable[[Updates, int], Any]
EXACT: Final = frozenset({"in int64", "in int32"})
"""Ways that hold whole numbers only."""


def in_other_ways(apply: Apply, way: Way) -> Mapping[str, Call]:
    """Name -> the rule's call with the updates handed over in that way."""
    ways: dict[str, Call] = {}
    form = way.form
    if form.name in {"numpy array", "list of arrays"}:
        ways |= {f"{form.name} {name}": _given(apply, way, lambda x, hold=hold: _as(form, hold(x))) for name, hold in ARRAYS.items()}
    if form.name in {"torch tensor", "list of tensors"}:
        ways |= {f"{form.name} {name}": _given(apply, way, lambda x, hold=hold: _rows(form, hold(x))) for name, hold in TENSORS.items()}
    if form.model is not None:
        for name in ("in float32", "in float16", "in read-only memory"):
            ways[f"{form.name} {name}"] = _given(apply, way, lambda x, hold=ARRAYS[name]: _as(form, hold(x)))
    elif form.name in PLAIN:
        others = [other for other in forms() if other.name in PLAIN and other.name != form.name]
        ways |= {other.name: _other(apply, replace(way, form=other)) for other in others}
    return ways


PLAIN: Final = frozenset({"numpy array", "torch tensor", "list of arrays", "list of tensors", "list of lists"})


def _as(form: Form, updates: Updates) -> Any:
    from pytest_fl.adapters.models import one_layer  # noqa: PLC0415  # a short name at the place of use

    return form.give(updates, [EXAMPLES] * len(updates), one_layer)


def _rows(form: Form, updates: Any) -> Any:
    return list(updates) if form.name == "list of tensors" else updates


def _given(apply: Apply, way: Way, give: Callable[[Updates], Any]) -> Call:
    def call(updates: Updates, f: int) -> Any:
        n = len(updates)
        result = apply(give(updates), n, f, [EXAMPLES] * n, way.own(updates))
        return way.reading(result, updates, way.form, way.layout)

    return call


def _other(apply: Apply, way: Way) -> Call:
    return lambda updates, f: way.call(apply, updates, f, [EXAMPLES] * len(updates))


assert set(FORMS) >= PLAIN
