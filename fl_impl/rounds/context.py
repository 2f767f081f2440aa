"""What the server tells a rule that asks: counts, the last aggregate, its own update, the clients' past."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fl_impl.clients import SimulatedClient
from fl_impl.common.randomness import generator
from fl_impl.rounds.admission import stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fl_impl.aggregators import Aggregator
    from fl_impl.rounds.admission import Admitted
    from fl_impl.rounds.state import RunState

ROOT_SAMPLES: Final = 100
"""How many clean samples the server holds itself, for a rule that wants its own update."""


@dataclass(frozen=True, eq=False)
class RoundContext:
    """A rule, and what the server knows in a round that it may be told."""

    rule: Aggregator
    state: RunState
    clients: Sequence[Any]
    seed: int
    round: int
    hidden: frozenset[str] = frozenset()
    """What privacy or secure aggregation keeps from the server."""
    counters: int = 0
    """Columns at the end that are integer or boolean buffers: the rule does not see them, their median is taken."""
    device: str = "cpu"
    """Where the rule is computed."""

    def bound(self, admitted: Admitted) -> Callable[..., Any]:
        """The rule as (rows, f) -> (d,), with its context: of the rows that arrived, or of what secure sums make of them."""
        return lambda rows, f: self.aggregate(rows, f, self.told(admitted))

    def aggregate(self, rows: Any, f: int, told: dict[str, Any]) -> Any:
        """(d,): the rule on the columns of numbers, and the lower median on those of counters, which is one of their values."""
        width = rows.shape[1] - self.counters
        result = on_device(self.rule, rows[:, :width], f, told, self.device)
        if not self.counters:
            return result
        middle = np.sort(np.asarray(rows)[:, width:], axis=0)[(len(rows) - 1) // 2]
        return np.concatenate([np.asarray(result), middle])

    def preview(self, honest: Admitted, own: Admitted, f: int) -> dict[str, Any]:
        """What a white-box attacker knows of the server: the rule as (n, d) -> (d,), honest rows first, and its last result."""

        @functools.cache
        def told() -> dict[str, Any]:
            return self.told(stacked(honest, own), "preview") if self.rule.keywords.context else {}

        return {"aggregate": lambda updates: self.aggregate(updates, f, told()), "previous": self.state.previous}

    def told(self, admitted: Admitted, purpose: str = "rule") -> dict[str, Any]:
        """The keywords that the rule takes, as far as there is something to tell."""
        sources = {
            "weights": lambda: admitted.weights,
            "previous": lambda: self.numbers(self.state.previous),
            "root": lambda: self.numbers(self.root()),
            "history": lambda: self.numbers(self.history(admitted)),
            "rng": lambda: generator(self.seed, purpose, self.round),
        }
        known = {name: source() for name, source in sources.items() if name in self.rule.keywords.context - self.hidden}
        return {name: value for name, value in known.items() if value is not None}

    def numbers(self, whole: Any) -> Any:
        """A vector or rows without the counters at the end."""
        return whole if whole is None or not self.counters else whole[..., : -self.counters]

    def root(self) -> Any:
        """(d,): the update of a client of the server's own, on clean samples; None where clients are not simulated."""
        first = self.clients[0]
        if type(first) is not SimulatedClient:
            return None
        rows = generator(self.seed, "root").permutation(len(first.data))[:ROOT_SAMPLES]
        own = replace(first, id=len(self.clients), rows=np.sort(rows), state={})
        return own.fit(self.state.parameters, self.round).delta

    def history(self, admitted: Admitted) -> Any:
        """(n, d): the sum of what each client has sent, in this round too."""
        nothing = np.zeros(admitted.deltas.shape[1], np.float32)
        return admitted.deltas + np.stack([self.state.history.get(client, nothing) for client in admitted.ids])

    def remember(self, admitted: Admitted, result: Any) -> None:
        """Keep what the next round may be asked for."""
        self.state.previous = result.astype(np.float32)
        if "history" in self.rule.keywords.context - self.hidden:
            self.state.history |= dict(zip(admitted.ids, self.history(admitted), strict=True))


def on_device(rule: Aggregator, rows: Any, f: int, told: dict[str, Any], device: str) -> Any:
    """The rule of (n, d) rows as an array, computed on a torch device."""
    if device == "cpu":
        return rule(rows, f=f, **told)
    import torch  # noqa: PLC0415  # clients that train there have it

    return rule(torch.as_tensor(rows, device=device), f=f, **told).cpu().numpy()
