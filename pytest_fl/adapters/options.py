"""What a caller may say of an aggregator: the keywords that `conformance`, `verify` and all that take one hand on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict


class Options(TypedDict, total=False):
    """Keywords of `as_subject`; each may be left out, and None is the same."""

    min_clients: Callable[[int], int] | None
    """f -> the smallest n; 2f + 1 where neither the caller nor the library says."""
    kappa: Callable[[int, int], float] | None
    """(n, f) -> the robustness coefficient that is claimed."""
    symmetries: Iterable[str] | None
    """Names of `fl_impl.aggregators.base.SYMMETRIES`."""
    claims: str | None
    """The name of a known rule: held to its definition, symmetries and constants, in the convention that is recognised."""
    form: str | Mapping[str, Any] | Sequence[Any] | None
    """How the updates are handed over: a name of `adapters.containers.FORMS`, or a model (a state dict, a list of arrays)."""
    result: Callable[[Any], Any] | str | int | None
    """Where the aggregate stands in what comes back: a function, a key, or "index", "mask", "indices", "weights"."""
    root: Callable[[Any], Any] | str | bool | None
    """The server's own update: True for the median of the updates, a function of them, or the parameter that takes it."""
    stateful: bool | None
    """Whether it is a rule with memory, made anew for each history: a class, a factory or an object (docs/stateful.md)."""
    warm_up: int | None
    """With `stateful`: rounds of agreement after which it gives the agreed row."""
    within: float | None
    """How far from that row it may then be, as a share of the largest honest row so far."""
    influence: Callable[[int, int], float] | None
    """(n, f) -> how far from that row f attackers can keep it."""
    step: float | None
    """The farthest that the result moves from round to round."""
    recovers: int | None
    """Rounds after the last attack by which it gives the row on which all agree."""
    f: int | str | None
    """f of a rule that is for one f only, or the name of the parameter that takes f."""
