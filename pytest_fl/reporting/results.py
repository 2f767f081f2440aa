"""What a check finds: rows of (subject, check, outcome, value, limit), and the counterexample of a failure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Outcome = Literal["passed", "failed", "expected_failure", "not_claimed", "not_run"]
"""`not_claimed`: the subject does not say so. `not_run`: it could not be looked at, and `reason` says why."""
Kind = Literal["defect", "range", "by contract", ""]
"""Of a failure: `engine.causes` says what they are. Empty for what did not fail, and for parts that are no rules: a defect."""
STRICT: Final[dict[str, tuple[Kind, ...]]] = {
    "defects": ("defect", ""),
    "range": ("defect", "", "range"),
    "all": ("defect", "", "range", "by contract"),
}
"""Which kinds of failure fail a build, by the word for it."""


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
    kind: Kind = ""
    cause: str = ""
    """Why it fails, in words that all failures of the same cause share; empty where nothing of the sort was seen."""
    behaves: str = ""
    """Which rule the subject is seen to be, where it fails."""
    measured: Mapping[str, float] = field(default_factory=lambda: dict[str, float]())
    """Figures that are not compared: the measured coefficient, f/(n-2f)."""

    def fails(self, strict: str = "defects") -> bool:
        """Whether it failed in a way that fails a build: `strict` is a word of STRICT."""
        return self.outcome == "failed" and self.kind in STRICT[strict]

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
