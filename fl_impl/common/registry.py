"""Tables of functions by name: data sets, partitions, models, server optimizers; adding one is one decorated function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from fl_impl.common.specs import lookup, nearest, parse

F = TypeVar("F", bound=Callable[..., Any])


class Registry(Mapping[str, F], Generic[F]):
    """Functions under their own names, and `bind`, which reads a spec such as `dirichlet(0.5)`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        """What one entry is, with its article, for messages: "a partition"."""
        self._functions: dict[str, F] = {}

    def __call__(self, function: F) -> F:
        """Enter a function under its name; used as a decorator. Raises ValueError where the name is taken."""
        name = function.__name__
        if name in self._functions:
            raise ValueError(f"{self.kind} named {name!r} exists already, in {self._functions[name].__module__}")
        self._functions[name] = function
        return function

    def bind(self, spec: str) -> Callable[..., Any]:
        """The function of a spec with its options bound; positional ones in the order of the signature.

        Raises ValueError for a wrong name, option or number of options, with the nearest name.
        """
        read = parse(spec)
        function = lookup(read.name, self, self.kind)
        known = options_of(function)
        if len(read.arguments) > len(known):
            raise ValueError(f"{read.name} takes at most {len(known)} options ({', '.join(known)}), got {spec!r}")
        options = {**dict(zip(known, read.arguments, strict=False)), **read.options}
        wrong = next((name for name in options if name not in known), None)
        if wrong is not None:
            raise ValueError(f"{read.name} has no option {wrong!r}{nearest(wrong, known)}, asked for in {spec!r}")
        missing = [name for name, default in known.items() if default is inspect.Parameter.empty and name not in options]
        if missing:
            raise ValueError(f"{read.name} needs {', '.join(missing)}: write {read.name}({missing[0]}=...), got {spec!r}")
        return functools.partial(function, **options)

    def __getitem__(self, name: str) -> F:
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters of a function and their defaults: these are its options."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
