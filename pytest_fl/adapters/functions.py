"""Anybody's function, class or configured object as a subject: how it is called is read from its signature."""

from __future__ import annotations

import copy
import inspect
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pytest_fl.adapters.containers import FORMS, Form, Rule, find_form, first_accepted, in_form
from pytest_fl.adapters.registry import origin
from pytest_fl.adapters.signatures import Fixed, Telling, fixed_in, telling
from pytest_fl.subjects.subject import Subject, majority

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

METHODS: Final = ("__call__", "aggregate", "aggregate_vectors", "pre_aggregate")
"""Methods of an object that may be the rule, in the order in which they are looked for."""


@dataclass(frozen=True)
class Stage:
    """A rule, or a step before one: (updates in its container, f) -> what it returns."""

    apply: Rule
    how: str
    """How it is told f, in a few words."""
    fixed: Fixed | None = None
    """The f of a configured object."""


def subject(
    rule: object, *, form: str | None = None, min_clients: Callable[[int], int] = majority, prefix: str = "",
    conventions: str = "",
) -> Subject:  # fmt: skip
    """The subject of a function, a class built for each f, a configured object, or a tuple of those as a pipe.

    `form` names one of `containers.FORMS` where it is known; otherwise it is found by trying.
    Raises ValueError where the signature leaves open how the rule is called.
    """
    stage = staged(rule)
    found = FORMS[form] if form else _tried(rule, stage, min_clients)
    fixed = stage.fixed
    return Subject(
        name=".".join(filter(None, (prefix, named(rule)))),
        call=in_form(stage.apply, found) if found else first_accepted(stage.apply),
        container=found.container if found else "numpy",
        tensor_call=stage.apply if found and found.name == "torch tensor" else None,
        min_clients=min_clients,
        fixed_f=fixed.f if fixed else None,
        admits=fixed.admits if fixed and fixed.fraction is not None else None,
        conventions="; ".join(filter(None, (conventions, stage.how, found and f"given a {found.name}"))),
        details=origin(rule),
    )


def refuse_alone(rule: object, is_step: bool, example: str) -> None:
    """Raise ValueError where what stands last is a pre-aggregator: it gives n vectors, not one."""
    if is_step:
        raise ValueError(f"expected a rule, got the pre-aggregator {named(rule)}: put a rule after it, as in {example}")


def _tried(rule: object, stage: Stage, min_clients: Callable[[int], int]) -> Form | None:
    """The form, found on a copy: what the trial leaves in the object must not reach the checks."""
    with suppress(Exception):  # objects refuse to be copied in many ways; then the trial takes the object itself
        stage = staged(copy.deepcopy(rule))
    f = stage.fixed.f if stage.fixed and stage.fixed.f is not None else 1
    return find_form(stage.apply, max(min_clients(f), 4 * f + 7), f)


def staged(rule: object) -> Stage:
    """How a function, a class, a configured object, or a tuple of them is called."""
    if isinstance(rule, tuple):
        return _pipe([staged(step) for step in rule])
    if inspect.isclass(rule) or (isinstance(rule, partial) and inspect.isclass(rule.func)):
        return _class(rule)
    if inspect.isroutine(rule) or isinstance(rule, partial):
        return _function(rule)
    return _function(method(rule))


def _pipe(stages: list[Stage]) -> Stage:
    """Pre-aggregators and a rule, one after the other, each told f in its own way."""
    fixed = {stage.fixed for stage in stages if stage.fixed}
    if not stages or len(fixed) > 1:
        got = ", ".join(map(str, fixed)) or "an empty one"
        raise ValueError(f"expected a tuple of steps for one f, the rule last; got {got}")

    def apply(updates: Any, f: int) -> Any:
        for stage in stages:
            updates = stage.apply(updates, f)
        return updates

    return Stage(apply, ", then ".join(dict.fromkeys(stage.how for stage in stages)), fixed.pop() if fixed else None)


def method(instance: object) -> Callable[..., Any]:
    """The method of an object that is its rule. Raises ValueError where it has none."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(instance, torch.nn.Module):
        return instance.forward  # type: ignore[attr-defined]  # every Module has it; its __call__ hides the signature
    for name in METHODS:
        if callable(found := getattr(instance, name, None)):
            return found
    raise ValueError(
        "expected an aggregator: a function rule(updates, f), a class or object with __call__ or aggregate, a Flower "
        f'strategy, or a spec such as "krum" or "package.module:attribute"; got {type(instance).__name__}: {instance!r}'
    )


def _function(function: Callable[..., Any]) -> Stage:
    told = telling(function, takes_updates=True)
    fixed = None if told.told else told.fixed or fixed_in(getattr(function, "__self__", None))

    def apply(updates: Any, f: int) -> Any:
        positional, keywords = told.arguments(len(updates), f)
        return function(updates, *positional, **keywords)

    return Stage(apply, str(fixed or told), fixed)


def _class(kind: Callable[..., Any]) -> Stage:
    told = telling(kind, takes_updates=False)
    if told.told or told.fixed or told.n:
        how, fixed = str(told.fixed or f"built for each f, {told}"), told.fixed
    else:
        sample = _function(method(_made(kind)))
        how, fixed = sample.how, sample.fixed
    build = objects(kind, told)

    def apply(updates: Any, f: int) -> Any:
        return _function(method(build(len(updates), f, row_kind(updates)))).apply(updates, f)

    return Stage(apply, how, fixed)


def _made(kind: Callable[..., Any]) -> Any:
    try:
        return kind()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"expected a class that can be built without arguments; {named(kind)}() raised {said}") from error


def objects(kind: Callable[..., Any], told: Telling) -> Callable[[int, int, Hashable], Any]:
    """One object for each (n, f) and kind of row, kept as a server keeps it, so that state between calls shows."""

    @lru_cache(maxsize=32)
    def build(n: int, f: int, row: Hashable) -> Any:
        del row
        return kind(**told.arguments(n, f)[1])

    return build


def row_kind(updates: Any) -> Hashable:
    """The shape and dtype of a client's vector: what a server's model has once and for all."""
    return np.shape(updates[0]), str(getattr(updates[0], "dtype", ""))


def named(rule: object) -> str:
    """A short name: that of a function or class, or of an object's class with the f it is for."""
    if isinstance(rule, tuple):
        return "|".join(named(step) for step in rule)
    if isinstance(rule, partial):
        bound = [*map(_brief, rule.args), *(f"{key}={_brief(value)}" for key, value in rule.keywords.items())]
        return f"{named(rule.func)}({', '.join(bound)})"
    if inspect.ismethod(rule):
        return f"{named(rule.__self__)}.{rule.__name__}"
    if isinstance(rule, FunctionType) and rule.__name__ == "<lambda>":
        return f"lambda:{rule.__code__.co_firstlineno}"
    if inspect.isroutine(rule) or inspect.isclass(rule):
        return rule.__name__
    fixed = fixed_in(rule)
    return f"{type(rule).__name__}({fixed.text if fixed else ''})"


def _brief(value: object) -> str:
    return getattr(value, "__name__", None) or repr(value)
