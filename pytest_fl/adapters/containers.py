"""In which container somebody's rule takes the updates: every form that is known, by its name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.adapters.models import HOLDERS, Holder, Layout, is_tensor, tensor

if TYPE_CHECKING:
    from pytest_fl.subjects.subject import Container

Updates = npt.NDArray[np.floating]
SECONDS: Final = 2.0
"""What one attempt may take; the rule that needs longer is left to the time guard of the checks."""


@dataclass(frozen=True)
class Form:
    """One way of handing over the updates, and of reading what comes back in kind."""

    name: str
    container: Container
    give: Callable[[Updates, Sequence[int], Layout], Any]
    """((n, d) updates, sample counts, layout) -> what the rule is called with."""
    native: Callable[[object], bool]
    """Whether a vector or model that came back is of the same kind as what was given."""
    model: Callable[[Any, int, Layout], Any] | None = None
    """(result, d, layout) -> the vector in a model that came back; raises where it is none. None where rows are vectors."""
    carries_counts: bool = False
    layered: bool = False
    """Whether a client's row can be several layers."""


def is_vector(result: object, d: int) -> bool:
    """Whether a result has the shape (d,)."""
    try:
        return tuple(np.shape(result)) == (d,)  # type: ignore[reportArgumentType]  # anything may have come back
    except (TypeError, ValueError, RuntimeError):  # ragged, or nothing that has a shape
        return False


def is_jax(value: object) -> bool:
    """Whether value is a JAX array; JAX is not imported to find out."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.Array)


def _is_array(result: object) -> bool:
    return isinstance(result, np.ndarray)


def _is_list(result: object) -> bool:
    return isinstance(result, list | tuple)


def _array_or_floats(result: object) -> bool:
    """An array for an array; or a list of Python's own numbers, which only a rule that converts its array gives."""
    return _is_array(result) or (isinstance(result, list) and all(type(entry) is float for entry in result))


def _plain(name: str, container: Container, give: Callable[[Updates], Any], native: Callable[[object], bool]) -> Form:
    return Form(name, container, lambda updates, _counts, _layout: give(updates), native)


Wrapper = Callable[[Sequence[Any], Sequence[int]], Any]
WRAPPERS: Final[dict[str, Wrapper]] = {
    "[{}]": lambda models, _counts: list(models),
    "[(n, {})]": lambda models, counts: list(zip(counts, models, strict=True)),
    "[({}, n)]": lambda models, counts: list(zip(models, counts, strict=True)),
    "{{client: {}}}": lambda models, _counts: dict(zip(client_names(len(models)), models, strict=True)),
    "{{client: ({}, n)}}": lambda models, counts: dict(
        zip(client_names(len(models)), zip(models, counts, strict=True), strict=True)
    ),
}
"""What holds the clients, in the order in which it is tried; {} is what one of them sends."""


def client_names(n: int) -> list[str]:
    """The keys of a dict by client."""
    return [f"client_{i}" for i in range(n)]


def _of_models(pattern: str, holder: Holder) -> Form:
    def give(updates: Updates, counts: Sequence[int], layout: Layout) -> Any:
        layers = layout(updates.shape[1])
        return WRAPPERS[pattern]([holder.model(row, layers) for row in updates], counts)

    def model(result: Any, d: int, layout: Layout) -> Any:
        return holder.vector(result, layout(d))

    container: Container = "torch" if holder.name in TORCH else "list"
    return Form(pattern.format(holder.name), container, give, _of_kind(holder), model, _counted(pattern), layered=True)


def _of_kind(holder: Holder) -> Callable[[object], bool]:
    """Whether a model that came back holds tensors or arrays as the one that was given does."""

    def native(result: object) -> bool:
        entries: Any = result.values() if isinstance(result, Mapping) else result
        if holder.name in {"tree", "Module"}:
            return True
        return isinstance(entries, Iterable) and all(is_tensor(entry) == (holder.name in TORCH) for entry in entries)

    return native


def _counted(pattern: str) -> bool:
    return "(n" in pattern or "n)" in pattern


def _of_vectors(pattern: str, name: str, give: Callable[[Updates], Sequence[Any]], native: Callable[[object], bool]) -> Form:
    def whole(updates: Updates, counts: Sequence[int], _layout: Layout) -> Any:
        return WRAPPERS[pattern](give(updates), counts)

    container: Container = "torch" if name == "tensor" else "list"
    return Form(pattern.format(name), container, whole, native, carries_counts=_counted(pattern))


def _stacks(updates: Updates, _counts: Sequence[int], layout: Layout) -> dict[str, Any]:
    """{name: (n, *shape)}: the clients' models stacked, layer by layer."""
    layers = layout(updates.shape[1])
    models = [HOLDERS["{name: array}"].model(row, layers) for row in updates]
    return {layer.name: np.stack([model[layer.name] for model in models]) for layer in layers}


def _from_stacks(result: Any, d: int, layout: Layout) -> Any:
    return HOLDERS["{name: array}"].vector(result, layout(d))


def _models(*patterns: str) -> Iterator[Form]:
    for pattern in patterns:
        yield from (_of_models(pattern, holder) for holder in HOLDERS.values() if pattern == "[{}]" or holder.name != "Module")


def _vectors(*patterns: str) -> Iterator[Form]:
    for pattern in patterns:
        yield _of_vectors(pattern, "array", list, _is_array)
        yield _of_vectors(pattern, "tensor", lambda x: list(tensor(x)), is_tensor)


TORCH: Final = frozenset({"OrderedDict", "[tensor]", "Module"})
PAIRS: Final = ("[(n, {})]", "[({}, n)]")
BY_CLIENT: Final = ("{{client: {}}}", "{{client: ({}, n)}}")
FORMS: Final[dict[str, Form]] = {
    form.name: form
    for form in (
        _plain("numpy array", "numpy", lambda x: x, _array_or_floats),
        _plain("jax array", "numpy", lambda x: sys.modules["jax"].numpy.asarray(x), is_jax),
        _plain("torch tensor", "torch", tensor, is_tensor),
        _plain("list of arrays", "list", list, _is_array),
        _plain("list of tensors", "torch", lambda x: list(tensor(x)), is_tensor),
        *_models("[{}]"),
        _plain("list of lists", "list", lambda x: x.tolist(), _is_list),
        *_vectors(*PAIRS),
        *_models(*PAIRS),
        *_vectors(*BY_CLIENT),
        *_models(*BY_CLIENT),
        Form("{name: stack}", "list", _stacks, lambda _: False, _from_stacks, layered=True),
    )
}
"""In the order in which they are tried; OrderedDict is a state dict of torch tensors, n a sample count."""


def form_named(name: str) -> Form:
    """The form of that name; ValueError with the nearest name where there is none."""
    from fl_impl.common.specs import lookup  # noqa: PLC0415  # fl_impl is loaded when a name is looked up

    return lookup(name, FORMS, "a form of pytest_fl.adapters.containers.FORMS")


def forms() -> Iterator[Form]:
    """The forms that can be tried: JAX's only where somebody has imported JAX, torch's last where nobody has imported torch."""
    known = [form for form in FORMS.values() if form.name != "jax array" or "jax" in sys.modules]
    yield from sorted(known, key=lambda form: form.container == "torch" and "torch" not in sys.modules)
