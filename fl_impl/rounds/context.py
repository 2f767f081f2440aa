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

    def bound(self, admitted: Admitted) -> Callable[..., Any]:
        """The rule as (rows, f) -> (d,), with its context: of the rows that arrived, or of what secure sums make of them."""
        return lambda rows, f: self.rule(rows, f=f, **self.told(admitted))

    def preview(self, honest: Admitted, own: Admitted, f: int) -> dict[str, Any]:
        """What a white-box attacker knows of the server: the rule as (n, d) -> (d,), honest rows first, and its last result."""

        @functools.cache
        def told() -> dict[str, Any]:
            return self.told(stacked(honest, own), "preview") if self.rule.keywords.context else {}

        return {"aggregate": lambda updates: self.rule(updates, f=f, **told()), "previous": self.state.previous}

    def told(self, admitted: Admitted, purpose: str = "rule") -> dict[str, Any]:
        """The keywords that the rule takes, as far as there is something to tell."""
        sources = {
            "weights": lambda: admitted.counts,
            "previous": lambda: self.state.previous,
            "root": self.root,
            "history": lambda: self.history(admitted),
            "rng": lambda: generator(self.seed, purpose, self.round),
        }
        known = {name: source() for name, source in sources.items() if name in self.rule.keywords.context - self.hidden}
        return {name: value for name, value in known.items() if value is not None}

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
