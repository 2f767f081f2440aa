"""In which container somebody's rule takes the updates: found by trying, once, on a small round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.subjects import guard
from pytest_fl.subjects.subject import Subject

if TYPE_CHECKING:
    from pytest_fl.subjects.subject import Container

Rule = Callable[[Any, int], Any]
"""(updates in the rule's container, f) -> whatever it returns."""
SECONDS: Final = 2.0
"""What one attempt may take; the rule that needs longer is left to the time guard of the checks."""


@dataclass(frozen=True)
class Form:
    """One way of handing over the updates."""

    name: str
    container: Container
    give: Callable[[npt.NDArray[np.floating]], Any]
    native: Callable[[object], bool]
    """Whether a result is of the same kind as what was given."""
    take: Callable[[Any], Any] = lambda result: result


def _tensor(updates: npt.NDArray[np.floating]) -> Any:
    import torch  # noqa: PLC0415  # only a rule that took no numpy array brings it in

    return torch.from_numpy(updates if updates.flags.writeable else updates.copy())  # type: ignore[reportPrivateImportUsage]  # torch's stubs


def is_tensor(value: object) -> bool:
    """Whether value is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _jax_array(updates: npt.NDArray[np.floating]) -> Any:
    return sys.modules["jax"].numpy.asarray(updates)


def _from_jax(result: object) -> object:
    return np.asarray(result) if isinstance(result, sys.modules["jax"].Array) else result


FORMS: Final[dict[str, Form]] = {
    form.name: form
    for form in (
        Form("numpy array", "numpy", lambda x: x, lambda r: isinstance(r, np.ndarray)),
        Form("jax array", "numpy", _jax_array, lambda r: isinstance(r, np.ndarray), _from_jax),
        Form("torch tensor", "torch", _tensor, is_tensor),
        Form("list of arrays", "list", list, lambda r: isinstance(r, np.ndarray | list | tuple)),
        Form("list of tensors", "torch", lambda x: list(_tensor(x)), is_tensor),
        Form("list of lists", "list", lambda x: x.tolist(), lambda r: isinstance(r, list | tuple)),
    )
}
"""In the order in which they are tried."""


def in_form(rule: Rule, form: Form) -> Callable[[npt.NDArray[np.floating], int], Any]:
    """`rule` as a function of a numpy array. A JAX rule is run in double precision where the updates are."""
    if form.name != "jax array":
        return lambda updates, f: form.take(rule(form.give(updates), f))

    def call(updates: npt.NDArray[np.floating], f: int) -> Any:
        with sys.modules["jax"].enable_x64(updates.dtype == np.float64):
            return form.take(rule(form.give(updates), f))

    return call


def forms() -> Iterator[Form]:
    """The forms that can be tried: JAX's only where somebody has imported JAX."""
    return (form for form in FORMS.values() if form.name != "jax array" or "jax" in sys.modules)


def find_form(rule: Rule, n: int, f: int) -> Form | None:
    """The first form in which the rule gives one vector of the kind it was given.

    Failing that, the first in which it gives a vector at all, then the first in which it does not raise; None where
    it raises in each. So a rule that returns None or hangs still becomes a subject, and the checks say so.
    """
    updates = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    trial = guard.Rule(Subject("trial", rule), SECONDS)
    found: tuple[int, Form | None] = (0, None)
    for form in forms():
        try:
            result = trial.attempt(partial(in_form(rule, form), updates.copy(), f))
        except guard.Hung:
            return form
        except guard.Misbehaved:
            continue
        vector = is_vector(result, 3)
        rank = 1 + vector + (vector and form.native(result))
        if rank == 3:
            return form
        found = max(found, (rank, form), key=lambda pair: pair[0])
    return found[1]


def first_accepted(rule: Rule) -> Callable[[npt.NDArray[np.floating], int], Any]:
    """`rule` in the first form in which it does not raise, tried anew at each call.

    Raises ValueError with what each attempt said where there is none.
    """

    def call(updates: npt.NDArray[np.floating], f: int) -> Any:
        said = list[str]()
        for form in forms():
            try:
                return in_form(rule, form)(updates, f)
            except Exception as error:  # noqa: BLE001  # foreign code raises anything
                said.append(f"given a {form.name}: {type(error).__name__}: {error}")
        raise ValueError(f"expected a rule that takes (n, d) updates in one of these forms: {'; '.join(said)}")

    return call


def is_vector(result: object, d: int) -> bool:
    """Whether a result has the shape (d,)."""
    try:
        return tuple(np.shape(result)) == (d,)  # type: ignore[reportArgumentType]  # anything may have come back
    except (TypeError, ValueError):  # ragged, or nothing that has a shape
        return False
