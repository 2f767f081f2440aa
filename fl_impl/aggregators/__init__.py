"""Aggregation rules, each with its claims: `krum(updates, f=2)`, `nnm | trimmed_mean`, `resolve("multi_krum(m=5)")`.

Every rule and pre-aggregator is a name of this package: `from fl_impl.aggregators import krum`. They are found by the
registry at the first look-up, so this file lists none.
"""

from __future__ import annotations

from functools import cache
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from fl_impl.aggregators.base import CONTEXT, SYMMETRIES, Aggregator, ConvergenceWarning
from fl_impl.aggregators.pipes import PreAggregator
from fl_impl.aggregators.registry import ALIASES, ALL, PRE, aggregator, pre_aggregator, resolve
from fl_impl.common.specs import nearest

if TYPE_CHECKING:
    from fl_impl.aggregators.files.aggregate import aggregate_files as aggregate_files
    from fl_impl.aggregators.rules.mixing import bucketing as bucketing
    from fl_impl.aggregators.rules.mixing import nnm as nnm

    # For type checkers, to which every other name is a rule: what these are is seen at run time without this.
    from fl_impl.aggregators.rules.shortened import arc as arc
    from fl_impl.aggregators.rules.shortened import clipping as clipping

__all__ = [
    "ALIASES",
    "ALL",
    "CONTEXT",
    "PRE",
    "SYMMETRIES",
    "Aggregator",
    "ConvergenceWarning",
    "PreAggregator",
    "aggregate_files",
    "aggregator",
    "pre_aggregator",
    "resolve",
]


def __getattr__(name: str) -> Aggregator:
    """A rule or pre-aggregator by its name (PEP 562). Raises AttributeError with the nearest name."""
    if name.startswith("_") or name in _modules():  # the import system asks for a module before it imports it
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "aggregate_files":
        from fl_impl.aggregators.files.aggregate import aggregate_files  # noqa: PLC0415  # for those who have files

        return aggregate_files  # pyright: ignore[reportReturnType]  # type checkers see the import above
    if name in PRE:
        return PRE[name]  # pyright: ignore[reportReturnType]  # see above
    if name in ALL:
        return ALL[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{nearest(name, (*__all__, *ALL, *PRE))}")


def __dir__() -> list[str]:
    """The public names, the rules and the pre-aggregators."""
    return sorted({*__all__, *ALL, *PRE})


@cache
def _modules() -> frozenset[str]:
    return frozenset(entry.name for entry in iter_modules(__path__))
