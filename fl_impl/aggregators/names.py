"""From what a user writes to the aggregator that it stands for: specs, aliases, import paths, plain functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

from fl_impl.aggregators.claims import Aggregator, PreAggregator
from fl_impl.aggregators.registry import ALL, PRE
from fl_impl.common import specs

ALIASES: Final = {
    "fedavg": "mean",
    "fedprox": "mean",  # on the server; the proximal term is the client's
    "median": "coordinate_median",
    "byzantine_robust": "nnm|trimmed_mean",
}
"""Other names, and the specs that they stand for."""


def resolve(what: object) -> Aggregator:
    """The aggregator that a spec, an object, or a plain function `(updates, f) -> (d,)` stands for.

    Specs: "krum", "nnm|trimmed_mean", "multi_krum(m=5)", an alias such as "fedavg", "package.module:attribute".
    Raises ValueError, with the nearest name where a name is wrong.
    """
    if isinstance(what, Aggregator):
        return what
    if isinstance(what, str):
        *before, last = [part.strip() for part in specs.split(what, "|")]
        return functools.reduce(lambda after, pre: _pre_aggregator(pre, what) | after, reversed(before), _rule(last))
    if callable(what) and not isinstance(what, PreAggregator):
        return Aggregator(_import_path(what), what, native=True)
    raise ValueError(
        'expected an aggregator: a spec such as "krum" or "nnm|trimmed_mean", an Aggregator, or a function '
        f"(updates, f) -> vector; got {what!r}"
    )


def _rule(text: str) -> Aggregator:
    if _is_import_path(text):
        return resolve(specs.import_attribute(text))
    spec = specs.parse(text)
    if spec.name in PRE:
        raise ValueError(f'{spec.name} is a pre-aggregator and needs a rule after it: "{text}|trimmed_mean"')
    known: dict[str, Aggregator | str] = {**ALL, **ALIASES}
    found = specs.lookup(spec.name, known, "an aggregator")
    return resolve(found).configured(**_options(spec))


def _pre_aggregator(text: str, whole: str) -> PreAggregator:
    if _is_import_path(text):
        found = specs.import_attribute(text)
        if isinstance(found, PreAggregator):
            return found
        raise ValueError(f"expected a pre-aggregator before the last bar of {whole!r}, got {found!r}")
    spec = specs.parse(text)
    if spec.name in ALL or spec.name in ALIASES:
        raise ValueError(f"{spec.name} is a rule and ends a pipe; in {whole!r} more comes after it")
    return specs.lookup(spec.name, PRE, "a pre-aggregator").configured(**_options(spec))


def _is_import_path(text: str) -> bool:
    return ":" in text and "(" not in text


def _options(spec: specs.Spec) -> Mapping[str, Any]:
    if spec.arguments:
        raise ValueError(f"options are given by name, as in {spec.name}(option={spec.arguments[0]!r})")
    return spec.options


def _import_path(function: Callable[..., Any]) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}:{name}" if module and name else type(function).__name__
