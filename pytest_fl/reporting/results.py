"""What a check finds: rows of (subject, check, outcome, value, limit), and the counterexample of a failure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["passed", "failed", "expected_failure", "not_claimed", "not_run"]
"""`not_claimed`: the subject does not say so. `not_run`: it could not be looked at, and `reason` says why."""


@dataclass(frozen=True)
class Row:
    """One (subject, check) pair: its outcome, how close the rule came to the limit, and the worst round found."""

    subject: str
    check: str
    claim: str
    """The first line of the check's docstring."""
    outcome: Outcome
    value: float = 0.0
    limit: float = 0.0
    rounds: int = 0
    """Rounds evaluated."""
    seconds: float = 0.0
    reason: str = ""
    """Why it failed in one sentence; or the reason of an expected failure; or why it is not claimed."""
    counterexample: Mapping[str, Any] | None = None
    """n, f, d, dtype, byzantine (row numbers), origin, updates (nested lists when small), file (npz path), replay (a line)."""
    measured: Mapping[str, float] = field(default_factory=lambda: dict[str, float]())
    """Figures that are not compared: the measured coefficient, f/(n-2f)."""

    @property
    def closeness(self) -> float:
        """value / limit: 1 is at the limit, above 1 is a violation; 0 where there is nothing to compare."""
        if self.limit > 0:
            return self.value / self.limit
        return 0.0 if self.value <= self.limit else float("inf")

    def to_json(self) -> str:
        """One line of JSON that `Row.from_json` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Row:
        """The row that `to_json` wrote."""
        return cls(**json.loads(text))
