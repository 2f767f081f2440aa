"""How somebody's function or constructor is told f: under which name, as a number or as a fraction of the clients."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NUMBER: Final = frozenset(
    f"{prefix}{who}"
    for prefix in ("n_", "nb_", "num_", "number_of_", "max_", "")
    for who in (
        "byzantine", "byzantines", "byz", "malicious", "malicious_clients", "malicious_nodes", "byzantine_clients",
        "byzantine_nodes", "byzantine_workers", "attackers", "adversaries", "faulty", "compromised", "outliers",
    )
) | {"f"}  # fmt: skip
"""Names under which libraries take f, the number of Byzantine clients."""
FRACTION: Final = frozenset({
    "beta", "fraction", "trim_fraction", "trimmed_fraction", "trim_ratio", "trim_proportion", "proportiontocut",
    "cut_fraction", "byzantine_fraction", "byzantine_ratio", "malicious_fraction", "attacker_fraction",
})  # fmt: skip
"""Names under which libraries take f / n."""
CLIENTS: Final = frozenset({"n", "num_clients", "n_clients", "nb_clients", "num_workers", "n_workers", "nb_workers"})
"""Names under which libraries take n."""


@dataclass(frozen=True)
class Fixed:
    """f, or the fraction of the clients, that a configured rule is for and cannot be told otherwise."""

    text: str
    """As the user wrote it: `beta=0.2`."""
    f: int | None = None
    fraction: Fraction | None = None

    def admits(self, n: int, f: int) -> bool:
        """Whether the rule is for (n, f): of a fraction, f = floor(fraction * n), computed exactly."""
        return f == (self.f if self.fraction is None else math.floor(self.fraction * n))

    def __str__(self) -> str:
        return f"f fixed by {self.text}" if self.fraction is None else f"f = floor({self.fraction} n) by {self.text}"


@dataclass(frozen=True)
class Telling:
    """What a callable takes beside the updates."""

    f: str | None = None
    """The parameter that takes f; None where it is not told."""
    fraction: str | None = None
    """The parameter that takes f / n."""
    n: str | None = None
    """The parameter that takes n."""
    position: int | None = None
    """The place of f where it has to be passed by place."""
    fixed: Fixed | None = None
    """What a `functools.partial` has bound already."""

    def arguments(self, n: int, f: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional (after the updates) and keyword arguments that tell (n, f)."""
        if self.position is not None:
            return (f,), {}
        keywords: dict[str, Any] = {self.n: n} if self.n else {}
        if self.fixed is None and self.f:
            keywords[self.f] = f
        if self.fixed is None and self.fraction:
            keywords[self.fraction] = f / n
        return (), keywords

    @property
    def told(self) -> bool:
        """Whether f can still be told, as a number or as a fraction."""
        return self.fixed is None and bool(self.f or self.fraction or self.position is not None)

    def __str__(self) -> str:
        if self.fixed is not None:
            return str(self.fixed)
        if self.fraction:
            return f"f told as {self.fraction} = f/n"
        return f"f told as {self.f}" if self.told else "f not told"


def telling(function: Callable[..., Any], takes_updates: bool) -> Telling:
    """Find from the signature how `function` is told f.

    A parameter with a known name is it; failing that, the one parameter of a function beside the updates that has no
    default. Raises ValueError where a parameter is left that nobody fills.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return Telling(f="the second argument", position=1) if takes_updates else Telling()
    named = [p for p in parameters if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    if takes_updates and not named:
        return Telling(f="the second argument", position=1)  # *args: a decorator that hides the signature
    rest = named[int(takes_updates) :]
    names = {"f": _named(rest, NUMBER), "fraction": _named(rest, FRACTION), "n": _named(rest, CLIENTS)}
    if names["f"]:
        names["fraction"] = None
    unfilled = [p for p in rest if p.default is p.empty and p.name not in names.values()]
    told = names["f"] or names["fraction"]
    if takes_updates and len(unfilled) == 1 and not told:
        told = names["f"] = unfilled.pop().name
    if unfilled:
        raise ValueError(_unfilled(function, unfilled, takes_updates))
    by_place = next((i for i, p in enumerate(rest) if p.name == told and p.kind is p.POSITIONAL_ONLY), None)
    return Telling(**names, position=by_place, fixed=_bound(function, told))


def _named(parameters: list[inspect.Parameter], names: frozenset[str]) -> str | None:
    return next((p.name for p in parameters if p.name.lower().strip("_") in names), None)


def _bound(function: Callable[..., Any], name: str | None) -> Fixed | None:
    if not (name and isinstance(function, partial) and name in function.keywords):
        return None
    return _fixed(name, function.keywords[name])


def _unfilled(function: Callable[..., Any], parameters: list[inspect.Parameter], takes_updates: bool) -> str:
    name = getattr(function, "__qualname__", repr(function))
    wanted = "rule(updates), rule(updates, f)" if takes_updates else "a constructor that takes f or nothing"
    left = ", ".join(p.name for p in parameters)
    bind = f"functools.partial({name}, {parameters[0].name}=...)"
    return f"expected {wanted}, f under one of its usual names; got {name}, which also needs {left}: bind it, {bind}"


def fixed_in(instance: object) -> Fixed | None:
    """What a configured object carries in an attribute with a known name; a number goes before a fraction."""
    attributes: Mapping[str, object] = getattr(instance, "__dict__", {})
    for names in (NUMBER, FRACTION):
        for name, value in attributes.items():
            if name.strip("_") in names and (found := _fixed(name.strip("_"), value)):
                return found
    return None


def _fixed(name: str, value: object) -> Fixed | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return Fixed(f"{name}={value}", f=value)
    return Fixed(f"{name}={value}", fraction=exact(value)) if isinstance(value, float) else None


def exact(fraction: float) -> Fraction:
    """The fraction that a user wrote as a float: 0.29 is 29/100 and 1/3 is a third, so floor(fraction * n) is right."""
    return Fraction(fraction).limit_denominator(1_000_000)
