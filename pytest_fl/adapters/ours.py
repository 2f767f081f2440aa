"""Our own rules: the claims are those of the `Aggregator` object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pytest_fl.adapters.registry import adapter, origin
from pytest_fl.subjects.subject import Subject, Updates

if TYPE_CHECKING:
    from fl_impl.aggregators.base import Aggregator


TOLD: Final = {"previous": "its last result", "history": "what each client has sent so far", "root": "a root update"}
"""What a server tells a rule beside the updates of the round."""


@adapter("fl_impl")
def ours(rule: object) -> Subject | None:
    """An `Aggregator`, held to everything that it claims. Raises ValueError for a pre-aggregator alone."""
    from fl_impl.aggregators import Aggregator, PreAggregator  # noqa: PLC0415  # only where one was handed over

    if isinstance(rule, PreAggregator):
        raise ValueError(  # noqa: TRY004  # the caller's mistake is one of value: it is ours, but not a rule
            f"expected a rule, got the pre-aggregator {rule.spec}: put one after it, as in {rule.spec} | trimmed_mean"
        )
    return _of(rule) if isinstance(rule, Aggregator) else None


def rule_of(text: str) -> Aggregator:
    """The aggregator of a spec."""
    from fl_impl.aggregators import resolve  # noqa: PLC0415  # only where a spec was handed over

    return resolve(text)


def remembering(rule: object) -> Subject | None:
    """One of our rules as a server leads it through rounds: told its last result, and what each client has sent so far."""
    from fl_impl.aggregators import Aggregator  # noqa: PLC0415  # only where one was handed over

    if not isinstance(rule, Aggregator):
        return None

    def renew() -> Callable[[Updates, int], Any]:
        told: dict[str, Any] = {}

        def call(updates: Updates, f: int) -> Any:
            context = {**_context(rule, updates), **{name: told[name] for name in rule.keywords.context & told.keys()}}
            if "history" in rule.keywords.context:
                context["history"] = told["history"] = told.get("history", 0.0) + updates
            told["previous"] = rule(updates, f=f, **context)
            return told["previous"]

        return call

    told = [words for name, words in TOLD.items() if name in rule.keywords.context]
    called = f"called as {rule.spec}, told {' and '.join(told) or 'the updates alone'}, made anew for each history"
    return replace(_of(rule), call=lambda updates, f: renew()(updates, f), renew=renew, tensor_call=None, called=called)


def of_spec(text: str) -> Subject:
    """The subject of `"krum"`, `"nnm|trimmed_mean"`, `"multi_krum(m=5)"`. Raises ValueError with the nearest name."""
    from fl_impl.aggregators import resolve  # noqa: PLC0415  # only where a spec was handed over

    return _of(resolve(text))


def _of(rule: Aggregator) -> Subject:
    from pytest_fl.oracles.theory import RULES  # noqa: PLC0415  # the bounds are loaded when a rule is judged

    return Subject(
        name=rule.spec,
        call=lambda updates, f: rule(updates, f=f, **_context(rule, updates)),
        tensor_call=lambda updates, f: rule(updates, f=f),
        min_clients=rule.min_clients,
        kappa=rule.kappa,
        exact=rule.exact,
        symmetries=rule.symmetries,
        rule=rule.spec if rule.spec in RULES else None,
        strict_dtype=True,
        conventions=rule.source,
        details={**origin(rule, "pytest-fl"), "path": rule.spec},
    )


def _context(rule: Aggregator, updates: Updates) -> dict[str, Updates]:
    """A root update for rules that cannot do without one: the median of what came, as an honest server would learn it."""
    if "root" not in rule.keywords.context or not updates.size or updates.ndim != 2:
        return {}
    with np.errstate(all="ignore"):
        finite = updates[np.isfinite(updates).all(axis=1)]
    return {"root": np.median(finite, axis=0).astype(updates.dtype)} if len(finite) else {}
