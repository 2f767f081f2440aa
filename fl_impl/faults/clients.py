"""Clients that follow a plan of faults, around clients of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fl_impl.faults.kinds import Moment

if TYPE_CHECKING:
    from fl_impl.faults.plan import FaultPlan
    from fl_impl.training.parameters import Vector

Watch = Callable[[int, int, Any], None]
"""Told (round, client, the update as it was meant)."""


@dataclass(eq=False)
class FaultyClient:
    """A client whose answers are what the plan makes of them; all else is the client's own."""

    client: Any
    number: int
    plan: FaultPlan
    patience: float = 0.0
    """The federation's client_timeout, 0 where it has none."""
    watch: Watch = lambda *_: None
    memory: dict[str, Any] = field(default_factory=dict[str, Any])

    def fit(self, parameters: Vector, round: int) -> Any:  # noqa: A002  # the published protocol
        """What arrives of the client's update."""
        update = self.client.fit(parameters, round)
        self.watch(round, self.number, update)
        return self.plan.arrives(update, Moment(self.number, round, self.patience, self.memory))

    def __getattr__(self, name: str) -> Any:
        if name == "client":  # not there yet: while it is copied
            raise AttributeError(name)
        return getattr(self.client, name)


def faulty(clients: Sequence[Any], plan: FaultPlan, *, patience: float = 0.0, watch: Watch | None = None) -> list[FaultyClient]:
    """The same clients under a plan, whose numbers are places in this list.

    patience: the `client_timeout` of the configuration: a client that hangs waits for three times as long; where it is
    0, the server is told at once that nothing comes. watch is told each update before anything happens to it. They are
    asked one by one as clients of the user's own, so that a cohort in one program becomes a loop.
    """
    return [FaultyClient(each, i, plan, patience, watch or (lambda *_: None)) for i, each in enumerate(clients)]
