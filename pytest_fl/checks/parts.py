"""Checks of the other parts: a claim of a privacy mechanism, an accountant, a compressor, a secure sum, a LoRA merge."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args

import numpy as np

from fl_impl.common.registry import Registry
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


AUDITS: Final[Registry[Audit]] = Registry("a check of a part", package="pytest_fl.checks", group="pytest_fl.part_checks")
"""All of them by name, in the order in which they run."""


def audited(kind: type[P], *, needs: Callable[[P], str] = lambda part: "") -> Callable[[Judge], Judge]:  # noqa: ARG005
    """Register `judge(part, rng) -> bounds` as a check of every part of that kind, from now on.

    The first line of its docstring is the claim. Raises ValueError for a judge with no docstring, or a name that is taken.
    """

    def register(judge: Judge) -> Judge:
        name, claim = judge.__name__, (inspect.getdoc(judge) or "").split("\n")[0]
        if not claim:
            raise ValueError(f"check {name!r} needs a docstring: its first line is the claim that a failure prints")
        AUDITS.enter(name, Audit(name, kind, claim, judge, needs), judge)
        return judge

    return register


def audits_of(part: Part) -> list[Audit]:
    """The checks of this kind of part. Raises ValueError for what is none."""
    found = [audit for audit in AUDITS.values() if isinstance(part, audit.kind)]
    if not found:
        raise ValueError(f"expected a {', '.join(kind.__name__ for kind in get_args(Part))}; got {type(part).__name__}")
    return found
