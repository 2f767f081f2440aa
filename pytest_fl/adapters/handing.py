"""The same updates handed over in other ways: other containers, dtypes and memory, as far as the rule takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.adapters.containers import Form, forms
from pytest_fl.adapters.models import one_layer, tensor

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
}
"""Ways of holding an (n, d) numpy array of small whole numbers."""
MEMORY: Final[dict[str, Callable[[Updates], Updates]]] = {
    "in Fortran order": np.asfortranarray,
    "as every other row of an array": lambda x: np.repeat(x, 2, axis=0)[::2],
    "as every other column of an array": _spaced,
    "with its rows backwards in memory": _backwards,
    "with its columns backwards in memory": _columns_backwards,
    "in read-only memory": _read_only,
    "in the other byte order": _swapped,
}
"""Ways of holding the same numbers in memory."""


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
PLAIN: Final = frozenset({"numpy array", "torch tensor", "list of arrays", "list of tensors", "list of lists"})
DISTINGUISHES: Final = frozenset({
    "isinstance", "hasattr", "type", "is_tensor", "from_numpy", "as_tensor", "tensor", "detach", "cpu", "issubclass",
})  # fmt: skip
"""Names in the code of a rule that tells arrays from tensors, or turns one into the other. One that does not is for one of
them: what the methods of the other do (`sort`, `std`) is not its business."""


INTEGERS: Final = frozenset({
    "issubdtype", "integer", "kind", "is_floating_point", "int", "int64", "int32", "isinstance", "char", "is_integer", "name",
})  # fmt: skip
"""Names in the code of a rule that knows of whole numbers. One that does not may round in them: it was not made for them."""


def in_other_ways(rule: object, apply: Apply, way: Way) -> Mapping[str, Call]:
    """Name -> the rule's call with the updates in another container or dtype."""
    form, ways = way.form, dict[str, Call]()
    if form.name in {"numpy array", "list of arrays"}:
        held = {name: hold for name, hold in ARRAYS.items() if "int" not in name or INTEGERS & names_in(rule)}
        ways = {f"a {form.name} {name}": _given(apply, way, _holding(form, hold)) for name, hold in held.items()}
    if form.name in {"torch tensor", "list of tensors"}:
        split = list if form.name == "list of tensors" else _itself
        ways = {f"a {form.name} {name}": _given(apply, way, _then(hold, split)) for name, hold in TENSORS.items()}
    if form.model is not None:
        ways = {
            f"{form.name} {name}": _given(apply, way, _holding(form, ARRAYS[name])) for name in ("in float32", "in float16")
        }
    if form.name in PLAIN:
        both = bool(DISTINGUISHES & names_in(rule))
        others = [other for other in forms() if other.name in PLAIN and other.name != form.name]
        alike = [other for other in others if both or (other.container == "torch") == (form.container == "torch")]
        ways |= {f"a {other.name}": _other(apply, replace(way, form=other)) for other in alike}
        if both and form.container != "torch":
            ways |= {f"a tensor {name}": _given(apply, way, hold) for name, hold in TENSORS.items()}
    return ways


def in_other_memory(apply: Apply, way: Way) -> Mapping[str, Call]:
    """Name -> the rule's call with the same (n, d) array held otherwise; only for rules that take one."""
    if way.form.name != "numpy array":
        return {}
    return {name: _given(apply, way, _holding(way.form, hold)) for name, hold in MEMORY.items()}


def names_in(rule: object) -> set[str]:
    """The names that the code of a rule uses: of a function, of a class's or object's methods, of what is nested in them."""
    while isinstance(rule, partial):
        rule = rule.func
    rule = getattr(rule, "__func__", rule)
    code = getattr(rule, "__code__", None)
    if code is None:
        kind = rule if isinstance(rule, type) else type(rule)
        codes = [getattr(value, "__code__", None) for value in vars(kind).values()]
        return set[str]().union(*(_names(code) for code in codes if isinstance(code, CodeType)))
    return _names(code)


def _names(code: CodeType) -> set[str]:
    nested = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*(_names(inner) for inner in nested))


def _itself(x: Any) -> Any:
    return x


def _then(hold: Callable[[Updates], Any], split: Callable[[Any], Any]) -> Callable[[Updates], Any]:
    return lambda updates: split(hold(updates))


def _holding(form: Form, hold: Callable[[Updates], Updates]) -> Callable[[Updates], Any]:
    return lambda updates: form.give(hold(updates), [EXAMPLES] * len(updates), one_layer)


def _given(apply: Apply, way: Way, give: Callable[[Updates], Any]) -> Call:
    def call(updates: Updates, f: int) -> Any:
        n = len(updates)
        result = apply(give(updates), n, f, [EXAMPLES] * n, way.own(updates))
        return way.reading(result, updates, way.form, way.layout)

    return call


def _other(apply: Apply, way: Way) -> Call:
    return lambda updates, f: way.call(apply, updates, f, [EXAMPLES] * len(updates))
