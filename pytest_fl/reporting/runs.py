"""A run: one federation that a test asked for, what it was and how it ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

NO_ATTACK = "none"


@dataclass(frozen=True)
class Run:
    """One federation, small enough to travel with the test that ran it."""

    aggregator: str
    attack: str
    """`NO_ATTACK` for a clean run."""
    rounds: int
    clients: int
    byzantine: int
    """Clients that the aggregator is told to tolerate."""
    accuracy: float
    """Of the last round, on held-out data."""
    loss: float
    seconds: float
    setting: str
    """Equal for runs that differ in nothing but their attack."""
    test: str = ""
    outcome: str = ""
    """The outcome of that test: "passed", "failed", "skipped"."""

    @property
    def clean(self) -> bool:
        """Whether nobody attacked in this federation."""
        return self.attack == NO_ATTACK

    def to_json(self) -> str:
        """One line of JSON that `Run.from_json` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Run:
        """The run that `to_json` wrote."""
        return cls(**json.loads(text))
