"""What is claimed of a rule with memory, round by round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Memory:
    """What is claimed of a rule with memory; what is left out is not claimed."""

    warm_up: int | None = None
    """Rounds after which it gives the row on which the honest clients have agreed ever since: 0 is at once."""
    within: float = 0.0
    """How far from that row it may still be, as a share of the largest honest row so far: what a momentum leaves."""
    influence: Callable[[int, int], float] | None = None
    """(n, f) -> how far from that row f attackers can keep it, in units of the updates; 0 where left out."""
    step: float | None = None
    """The farthest that the result moves from one round to the next."""
    recovers: int | None = None
    """Rounds after the last attack by which it gives the row on which all clients agree, as `within` says."""

    def reach(self, n: int, f: int) -> float:
        """`influence`, or 0."""
        return 0.0 if self.influence is None else float(self.influence(n, f))
