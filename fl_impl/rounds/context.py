"""What the server tells a rule that asks: counts, the last aggregate, its own update, the clients' past."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fl_impl.clients import SimulatedClient
from fl_impl.common.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fl_impl.aggregators import Aggregator
    from fl_impl.rounds.admission import Admitted
    from fl_impl.rounds.checkpoints import RunState

ROOT_SAMPLES: Final = 100
"""How many clean samples the server holds itself, for a rule that wants its own update."""


@dataclass(frozen=True, eq=False)
class Server:
    """What the server knows in a round."""

    state: RunState
    clients: Sequence[Any]
    seed: int
    round: int
    hidden: frozenset[str] = frozenset()
    """What privacy or secure aggregation keeps from the server."""

    def context(self, rule: Aggregator, admitted: Admitted, purpose: str = "rule") -> dict[str, Any]:
        """The keywords that this rule takes, as far as there is something to tell."""
        sources = {
            "weights": lambda: admitted.counts,
            "previous": lambda: self.state.single.get("previous"),
            "root": self.root,
            "history": lambda: self.history(admitted),
            "rng": lambda: generator(self.seed, purpose, self.round),
        }
        told = {name: sources[name]() for name in sources if name in rule.keywords.context - self.hidden}
        return {name: value for name, value in told.items() if value is not None}

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
        return admitted.deltas + np.stack([self.state.history.get(str(client), nothing) for client in admitted.ids])

    def remember(self, rule: Aggregator, admitted: Admitted, result: Any) -> None:
        """Keep what the next round may be asked for."""
        self.state.single["previous"] = result.astype(np.float32)
        if "history" in rule.keywords.context - self.hidden:
            self.state.history |= {str(i): total for i, total in zip(admitted.ids, self.history(admitted), strict=True)}
