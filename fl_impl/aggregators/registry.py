"""The decorators that make a rule out of a function and its claims, and the dictionaries of all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from fl_impl.aggregators.claims import (
    SYMMETRIES,
    Aggregator,
    Keywords,
    PreAggregator,
    Weights,
    honest_majority,
    unproven,
)
from fl_impl.aggregators.kernels import combine, combine_rows
from fl_impl.aggregators.ranks import Ranks, mean_of_ranks
from fl_impl.aggregators.screening import measured
from fl_impl.common.specs import nearest

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix
    from fl_impl.aggregators.kernels import Geometry

Made = TypeVar("Made", Aggregator, PreAggregator)

ALL: Final[dict[str, Aggregator]] = {}
"""Every rule by its name."""
PRE: Final[dict[str, PreAggregator]] = {}
"""Every pre-aggregator by its name."""


def aggregator(
    *,
    by: Literal["updates", "distances", "ranks"] = "updates",
    kappa: Callable[..., float] = unproven,
    min_clients: Callable[..., int] = honest_majority,
    symmetries: frozenset[str] | set[str] | Callable[..., frozenset[str]] = frozenset(),
    source: str = "",
    exact: bool = False,
    selective: bool = False,
    defended: bool = True,
    weighing: Callable[..., Weights] | None = None,
) -> Callable[[Callable[..., Any]], Aggregator]:
    """Register a function under its name as a rule, with its claims.

    by="updates": the function is `rule(x: (n, d), f, *, options, context) -> (d,)`.
    by="distances": it is `weigh(geometry, f, *, options) -> (n,)`, the weights of the updates in the result.
    by="ranks": it is `ranks(n, f, *, options) -> (low, high)`; the result is, in each coordinate, the mean of the
    sorted values number low to high - 1. Or -> (low, high, keep): the mean of the `keep` values nearest to that mean.
    Claims that depend on options are functions that take those by keyword. `selective`, `defended` and `weighing` are
    as in Aggregator.
    """

    def register(function: Callable[..., Any]) -> Aggregator:
        rule = {"updates": lambda plain: plain, "distances": _combining, "ranks": _averaging_ranks}[by](function)
        claimed = symmetries if callable(symmetries) else frozenset(symmetries)
        made = Aggregator(
            function.__name__, rule, kappa, min_clients, claimed, source, exact, Keywords.of(function),
            weighing=function if by == "distances" else weighing, ranks=function if by == "ranks" else None,
            selective=selective, defended=defended,
        )  # fmt: skip
        _check_names(made.symmetries)
        return _registered(made, ALL)

    return register


def pre_aggregator(
    *,
    by: Literal["updates", "mixing"] = "updates",
    kappa: Callable[..., float],
    preserves: frozenset[str] | set[str],
    source: str,
    equalises: bool = False,
    output_clients: Callable[..., int] = lambda n: n,
    min_clients: Callable[..., int] = lambda needed, f: max(honest_majority(f), needed),
) -> Callable[[Callable[..., Any]], PreAggregator]:
    """Register a function under its name as a pre-aggregator, with what it does to the claims of the rule after it.

    by="updates": the function is `transform(x: (n, d), f, *, options, context) -> (n', d)`.
    by="mixing": it is `mixing(n, f, geometry: () -> Geometry, *, options, context) -> (n', n)`, a matrix with rows that
    sum to 1; the output is that matrix times x. `geometry()` costs a pass over x, which a function that mixes blindly
    saves.
    `kappa(inner, n, f, *, options)` is the coefficient of the composition with a rule whose own is inner(n', f).
    """

    def register(function: Callable[..., Any]) -> PreAggregator:
        made = PreAggregator(
            function.__name__, _mixed(function) if by == "mixing" else function, kappa, frozenset(preserves), source,
            output_clients, min_clients, Keywords.of(function), equalises=equalises,
            mixing=function if by == "mixing" else None,
        )  # fmt: skip
        _check_names(made.preserves)
        return _registered(made, PRE)

    return register


def _combining(weigh: Callable[..., Weights]) -> Callable[..., Any]:
    @functools.wraps(weigh)
    def rule(x: Matrix, f: int, **options: Any) -> Any:
        return combine(weigh(measured(x, f), f, **options), x)

    return rule


def _averaging_ranks(ranks: Callable[..., Ranks]) -> Callable[..., Any]:
    @functools.wraps(ranks)
    def rule(x: Matrix, f: int, **options: Any) -> Any:
        return mean_of_ranks(x, ranks(len(x), f, **options))

    return rule


def _mixed(mixing: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(mixing)
    def transform(x: Matrix, f: int, **keywords: Any) -> Any:
        def geometry() -> Geometry:
            return measured(x, f)

        return combine_rows(mixing(len(x), f, geometry, **keywords), x)

    return transform


def _check_names(symmetries: Iterable[str]) -> None:
    for name in symmetries:
        if name not in SYMMETRIES:
            raise ValueError(f"no symmetry is called {name!r}{nearest(name, SYMMETRIES)}")


def _registered(made: Made, registry: dict[str, Made]) -> Made:
    if made.name in registry:
        raise ValueError(f"two rules are called {made.name!r}: give one of them another name")
    registry[made.name] = made
    return made
