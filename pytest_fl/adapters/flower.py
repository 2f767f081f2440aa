"""Flower's strategies of both generations, and the legacy aggregation functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pytest_fl.adapters import flower_calls
from pytest_fl.adapters.functions import named, objects, row_kind
from pytest_fl.adapters.registry import adapter, classes, origin, unwrapped
from pytest_fl.adapters.signatures import Fixed, fixed_in, telling
from pytest_fl.subjects.subject import Subject, majority

if TYPE_CHECKING:
    from pytest_fl.adapters.flower_calls import Floats

EXAMPLES: Final = 10
"""The sample count that every client claims where a check does not set it."""
LEGACY: Final = "flwr.server.strategy"
SERVERAPP: Final = "flwr.serverapp.strategy"
MinClients = Callable[[int], int]
Counted = Callable[[Any, int, list[int]], Any]
"""(updates, f, claimed sample counts) -> the vector, or None."""


def _krum(f: int) -> int:
    return 2 * f + 3


def _bulyan(f: int) -> int:
    return 4 * f + 3


SELECTS: Final = "n-f-2 neighbours, squared distances; n >= 2f+3 as in Blanchard et al. (2017), which it cites"
TRIMS: Final = "trims int(beta * n) a side, in floats; the f of the checks is floor(beta * n), exact"
KNOWN: Final[dict[str, tuple[MinClients, str]]] = {
    "FedAvg": (majority, "mean weighted by claimed counts: no defence"),
    "FedMedian": (majority, "midpoint median; claimed counts ignored"),
    "FedTrimmedAvg": (majority, f"{TRIMS}; claimed counts ignored"),
    "Krum": (_krum, SELECTS),
    "MultiKrum": (_krum, f"{SELECTS}; the selected weighted by claimed counts"),
    "Bulyan": (_bulyan, "n-2f selected by Krum, then per coordinate the n-4f nearest the median; n >= 4f+3"),
    "aggregate": (majority, "mean weighted by claimed counts: no defence"),
    "aggregate_median": (majority, "midpoint median; claimed counts ignored"),
    "aggregate_trimmed_avg": (majority, f"{TRIMS}; claimed counts ignored"),
    "aggregate_krum": (_krum, f"{SELECTS}; to_keep=0 is Krum, more is Multi-Krum, weighted by claimed counts"),
    "aggregate_bulyan": (_bulyan, "n-2f selected by Krum, then per coordinate the n-4f nearest the median; n >= 4f+3"),
}
"""Strategy or function -> the fewest clients by its documentation, and its convention."""


@adapter("flwr")
def flower(rule: object) -> Subject | None:
    """A strategy, its class, or a partial of it, of either generation, a user's subclass too; or a legacy function."""
    inner = unwrapped(rule)
    if inspect.isroutine(inner):
        return _function(rule) if inner.__name__ in KNOWN else None
    for kind in classes(inner):
        for generation, call in ((SERVERAPP, flower_calls.serverapp), (LEGACY, flower_calls.legacy)):
            if kind.__module__.startswith(generation):
                return _strategy(rule, generation, call)
    return None


def _strategy(rule: Any, generation: str, call: Callable[[Any, Floats, list[int]], Any]) -> Subject:
    if inspect.isclass(unwrapped(rule)):
        told = telling(rule, takes_updates=False)
        fixed, how, build = told.fixed, f"built for each f, {told}", objects(rule, told)
    else:
        fixed = fixed_in(rule)
        how, build = str(fixed or "f not told"), lambda *_: rule

    def counted(updates: Floats, f: int, counts: list[int]) -> Any:
        return call(build(len(updates), f, row_kind(updates)), updates, counts)

    known = next((kind.__name__ for kind in classes(unwrapped(rule)) if kind.__name__ in KNOWN), "")
    return _subject(f"{generation.removesuffix('.strategy')}.{named(rule)}", rule, known, counted, fixed or how)


def _function(rule: Any) -> Subject:
    inner: Any = unwrapped(rule)
    plain: dict[str, Any] = {"to_keep": 0} if inner.__name__ in {"aggregate_krum", "aggregate_bulyan"} else {}
    if inner.__name__ == "aggregate_bulyan":
        plain["aggregation_rule"] = inner.__globals__["aggregate_krum"]
    bound = partial(inner, **{**plain, **(rule.keywords if isinstance(rule, partial) else {})})
    told = telling(bound, takes_updates=True)

    def counted(updates: Floats, f: int, counts: list[int]) -> Any:
        return flower_calls.function(bound, updates, counts, told.arguments(len(updates), f)[1])

    return _subject(f"flwr.{named(rule)}", rule, inner.__name__, counted, told.fixed or str(told))


def _subject(name: str, rule: object, known: str, counted: Counted, told: Fixed | str) -> Subject:
    min_clients, convention = KNOWN.get(known, (majority, ""))
    fixed = told if isinstance(told, Fixed) else None
    return Subject(
        name=name,
        call=lambda updates, f: counted(updates, f, [EXAMPLES] * len(updates)),
        call_with_counts=counted,
        min_clients=min_clients,
        fixed_f=fixed.f if fixed else None,
        admits=fixed.admits if fixed and fixed.fraction is not None else None,
        conventions="; ".join(filter(None, (convention, str(told)))),
        details=origin(rule),
    )
