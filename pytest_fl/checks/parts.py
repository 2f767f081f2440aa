"""Checks of the other parts: a claim of a privacy mechanism, an accountant, a compressor, a secure sum, a LoRA merge."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, TypeVar, get_args

import numpy as np

from pytest_fl.checks import Bound
from pytest_fl.subjects.parts import Part

P = TypeVar("P", bound=Part)
Judge = Callable[[Any, np.random.Generator], Iterable[Bound]]
"""(part, generator) -> bounds that must all hold."""


@dataclass(frozen=True)
class Audit:
    """A claim about a kind of part."""

    name: str
    kind: type
    claim: str
    """The first line of the judge's docstring."""
    judge: Judge
    needs: Callable[[Any], str]
    """Why the part does not claim this; empty where it does."""


MODULES: Final = (
    "privacy",
    "mechanisms",
    "noise",
    "sampling",
    "canaries",
    "accountants",
    "compression",
    "secure_aggregation",
    "lora",
)
AUDITS: Final[dict[str, Audit]] = {}
"""All of them by name, in the order in which they run."""


def audited(kind: type[P], *, needs: Callable[[P], str] = lambda part: "") -> Callable[[Judge], Judge]:  # noqa: ARG005
    """Register `judge(part, rng) -> bounds` as a check of every part of that kind, from now on.

    The first line of its docstring is the claim. Raises ValueError for a judge with no docstring, or a name that is taken.
    """

    def register(judge: Judge) -> Judge:
        name, claim = judge.__name__, (inspect.getdoc(judge) or "").split("\n")[0]
        if not claim:
            raise ValueError(f"check {name!r} needs a docstring: its first line is the claim that a failure prints")
        if name in AUDITS and AUDITS[name].judge.__module__ != judge.__module__:
            raise ValueError(f"a check named {name!r} exists already, in {AUDITS[name].judge.__module__}; choose another")
        AUDITS[name] = Audit(name, kind, claim, judge, needs)
        return judge

    return register


def audits_of(part: Part) -> list[Audit]:
    """The checks of this kind of part. Raises ValueError for what is none."""
    for module in MODULES:
        import_module(f"pytest_fl.checks.{module}")  # importing registers
    found = [audit for audit in AUDITS.values() if isinstance(part, audit.kind)]
    if not found:
        raise ValueError(f"expected a {', '.join(kind.__name__ for kind in get_args(Part))}; got {type(part).__name__}")
    return found
