"""Which adapter serves which object: found by the package that defines its class; no library is imported for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeVar

from fl_impl.common.registry import Registry
from pytest_fl.adapters.signatures import fixed_in
from pytest_fl.subjects.subject import Subject

Adapter = Callable[[Any], Subject | None]
"""Takes what a user handed over; None where it is not one of the package's rules after all."""
A = TypeVar("A", bound=Adapter)

ADAPTERS: Final[Registry[Adapter]] = Registry("an adapter", package="pytest_fl.adapters", group="pytest_fl.adapters")
"""Package -> the adapter of its rules."""


def adapter(package: str) -> Callable[[A], A]:
    """Register the function below as the adapter of all functions, classes and objects that `package` defines.

    It also gets subclasses that a user derived from the package's classes, and `functools.partial` of any of them.
    Raises ValueError where the package has another adapter.
    """

    def register(function: A) -> A:
        ADAPTERS.enter(package, function)
        return function

    return register


def adapted(aggregator: object) -> Subject | None:
    """What the first adapter makes of it that knows its package; None where none does."""
    for package in packages(aggregator):
        if package in ADAPTERS and (subject := ADAPTERS[package](aggregator)) is not None:
            return subject
    return None


def packages(aggregator: object) -> Iterator[str]:
    """The top-level packages that define an object, nearest first: of a user's subclass the user's, then its base's."""
    inner = unwrapped(aggregator)
    defined = [inner] if inspect.isroutine(inner) else classes(inner)
    for one in defined:
        yield (getattr(one, "__module__", None) or "").partition(".")[0]


def classes(aggregator: object) -> Sequence[type]:
    """The classes of an object, or a class and its bases, nearest first."""
    return inspect.getmro(aggregator if inspect.isclass(aggregator) else type(aggregator))


def unwrapped(aggregator: object) -> object:
    """The rule inside `functools.partial`, at the end of a tuple of steps, or behind a bound method."""
    while isinstance(aggregator, partial) or (isinstance(aggregator, tuple) and aggregator):
        aggregator = aggregator.func if isinstance(aggregator, partial) else aggregator[-1]
    return aggregator.__self__ if inspect.ismethod(aggregator) else aggregator


def origin(aggregator: object, distribution: str = "") -> dict[str, str]:
    """`Subject.details`: the package, its version, and the spec that `as_subject` turns back into the rule."""
    package = next(packages(aggregator))
    try:
        found = version(distribution or package)
    except (PackageNotFoundError, ValueError):  # a script, or a name that no distribution bears
        found = "unknown"
    return {"package": package, "version": found, "path": reference(aggregator)}


def reference(aggregator: object) -> str:
    """`module:name`, with what a partial or an object binds: `module:Krum(f=2)`; steps of a tuple between bars."""
    if isinstance(aggregator, tuple):
        return "|".join(reference(step) for step in aggregator)
    if isinstance(aggregator, partial):
        bound = [*map(repr, aggregator.args), *(f"{name}={value!r}" for name, value in aggregator.keywords.items())]
        return reference(aggregator.func) + (f"({', '.join(bound)})" if bound else "")
    if inspect.ismethod(aggregator):
        return reference(aggregator.__self__)
    if inspect.isroutine(aggregator) or inspect.isclass(aggregator):
        return f"{aggregator.__module__}:{aggregator.__qualname__}"
    fixed = fixed_in(aggregator)
    return reference(type(aggregator)) + (f"({fixed.text})" if fixed else "")
