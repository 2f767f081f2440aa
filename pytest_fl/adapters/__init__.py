"""Anybody's aggregator as a subject: `as_subject`, and one small module a library.

An adapter is one function, `@adapter("package")`, in a module of this folder, or of another distribution that names it
as an entry point in the group `pytest_fl.adapters`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from pytest_fl.adapters import ours
from pytest_fl.adapters.functions import subject
from pytest_fl.adapters.process import command
from pytest_fl.adapters.registry import adapted, adapter
from pytest_fl.subjects.subject import Subject

__all__ = ["adapter", "as_subject", "command"]

Kappa = Callable[[int, int], float]


def as_subject(
    aggregator: object,
    *,
    min_clients: Callable[[int], int] | None = None,
    kappa: Kappa | None = None,
    symmetries: Iterable[str] | None = None,
    claims: str | None = None,
) -> Subject:
    """The subject of an aggregator of any kind, with what its library documents and what the caller claims for it.

    `aggregator`: a function `rule(updates)` or `rule(updates, f)` over numpy, torch, JAX or lists; a class built for
    each f; a configured object; a tuple of pre-aggregators and a rule; a strategy or function of Flower, a rule of
    ByzFL, byzpy or krum; an `Aggregator` of fl_impl; a spec (`"nnm|trimmed_mean"`, `"package.module:attribute"`); a
    `command`. `claims="krum"` holds it to the constants of `pytest_fl.oracles.theory.RULES["krum"]`; what is given beside it
    goes before. Raises ValueError for what is none of these, and for claims of the wrong kind.
    """
    found = _found(aggregator)
    if claims is not None:
        found = _claiming(found, claims)
    changes: dict[str, Any] = {}
    if min_clients is not None:
        changes["min_clients"] = _function_of("min_clients", min_clients, "f", 1)
    if kappa is not None:
        changes["kappa"] = _function_of("kappa", kappa, "n, f", 5, 1)
        changes["exact"] = False
    if symmetries is not None:
        changes["symmetries"] = _known(symmetries)
    return replace(found, **changes)


def _found(aggregator: object) -> Subject:
    if isinstance(aggregator, Subject):
        return aggregator
    if isinstance(aggregator, str):
        return _spec(aggregator)
    return adapted(aggregator) or subject(aggregator)


def _spec(text: str) -> Subject:
    """A rule of fl_impl by name, or what stands at `module:name`, `module:name(option=1)`, `module:step|module:rule`."""
    from fl_impl.common.specs import split  # noqa: PLC0415  # fl_impl is loaded when a rule is needed, not when the plugin is

    parts = split(text, "|")
    if not all(":" in part.partition("(")[0] for part in parts):
        return ours.of_spec(text)
    steps = tuple(_imported(part.strip()) for part in parts)
    return _found(steps if len(steps) > 1 else next(iter(steps)))


def _imported(text: str) -> object:
    """What stands at `module:name`; with arguments, a `functools.partial` that binds them."""
    from fl_impl.common import specs  # noqa: PLC0415  # see above

    if "(" not in text:
        return specs.import_attribute(text)
    module, _, call = text.partition(":")
    spec = specs.parse(call)
    made: Any = specs.import_attribute(f"{module}:{spec.name}")
    return partial(made, *spec.arguments, **spec.options) if spec.arguments or spec.options else made


def _claiming(found: Subject, claims: str) -> Subject:
    from pytest_fl.oracles.theory import rule_theory  # noqa: PLC0415  # the bounds are loaded when somebody claims one

    rule, needed = rule_theory(claims), found.min_clients
    return replace(
        found, kappa=rule.kappa, exact=rule.exact, symmetries=rule.symmetries, rule=rule.name,
        min_clients=lambda f: max(needed(f), rule.min_clients(f)),
    )  # fmt: skip


def _function_of(name: str, function: Any, arguments: str, *example: int) -> Any:
    try:
        float(function(*example))
    except (TypeError, ValueError) as error:
        given = f"{function!r}, which raised {error}" if callable(function) else f"{function!r}"
        raise ValueError(f"expected {name} to be a function of {arguments} that gives a number, got {given}") from error
    return function


def _known(symmetries: Iterable[str]) -> frozenset[str]:
    from fl_impl.aggregators.base import SYMMETRIES  # noqa: PLC0415  # see above
    from fl_impl.common.specs import nearest  # noqa: PLC0415  # see above

    names = frozenset([symmetries] if isinstance(symmetries, str) else symmetries)
    for name in sorted(names - SYMMETRIES):
        raise ValueError(f"expected symmetries out of those known, got {name!r}{nearest(name, SYMMETRIES)}")
    return names
