"""From what a search found to a row: the worst bound, how close it came to its limit, and whether a failure was expected."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from pytest_fl.reporting.results import Row

if TYPE_CHECKING:
    from pytest_fl.checks import Bound
    from pytest_fl.engine.causes import Cause
    from pytest_fl.subjects.round import Round


class Claim(Protocol):
    """What a check of a rule and a check of another part have in common."""

    @property
    def name(self) -> str:
        """The name under which it is chosen."""
        ...

    @property
    def claim(self) -> str:
        """The sentence that a failure prints."""
        ...

    @property
    def needs(self) -> Callable[[Any], str]:
        """Why a subject does not claim this; empty where it does."""
        ...


@dataclass(frozen=True)
class Finding:
    """The worst bound of a search, the round that gave it, and how many rounds were judged."""

    bound: Bound
    round: Round | None = None
    tried: int = 0
    note: str = ""
    measured: Mapping[str, float] = field(default_factory=lambda: dict[str, float]())


def closeness(bound: Bound) -> float:
    """value / limit: infinite where the bound does not hold, 0 where there is nothing to compare."""
    if not bound.holds:
        return math.inf
    return bound.value / bound.limit if bound.limit > 0 else 0.0


def row_of(
    subject: str,
    check: Claim,
    finding: Finding,
    counterexample: Mapping[str, Any] | None = None,
    cause: Cause | None = None,
    behaves: str = "",
) -> Row:
    """The row of one (subject, check) pair."""
    bound = finding.bound
    return Row(
        subject,
        check.name,
        check.claim,
        "passed" if bound.holds else "failed",
        value=bound.value,
        limit=bound.limit,
        rounds=finding.tried,
        reason=finding.note if bound.holds else bound.reason,
        counterexample=None if bound.holds else counterexample,
        kind=cause.kind if cause else "",
        cause=cause.text if cause else "",
        behaves=behaves,
        measured=finding.measured,
    )


def as_expected(row: Row, reason: str | None) -> Row:
    """The row of a check that is expected to fail for this reason: a failure is no failure, and a pass is one."""
    if reason is None:
        return row
    if row.outcome == "failed":
        return replace(row, outcome="expected_failure", reason=reason)
    if row.outcome == "passed":
        return replace(row, outcome="failed", reason=f"passes, but was expected to fail ({reason}): remove the expectation")
    return row
