"""The time on the wall that all checks of a subject share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_fl.subjects.profiles import Profile


@dataclass
class TimeBudget:
    """The time of all checks of a subject, and the checks that share it."""

    profile: Profile
    checks: int
    spent: float = 0.0

    def next(self) -> float:
        """Seconds for the next check; 0 where nothing is left."""
        left = self.profile.seconds - self.spent
        seconds = share(left, self.checks, self.profile)
        self.checks -= 1
        return seconds if left > 0 else 0.0

    @property
    def reason(self) -> str:
        """Why nothing more is tried."""
        return f"not run: the {self.profile.seconds:g} s for this subject are used up (--fl-profile=thorough has more)"


def share(left: float, checks_left: int, profile: Profile) -> float:
    """The seconds that the next check may take: its share of what is left, and no more than the profile gives it."""
    return min(profile.check_seconds, max(left, 0.0) / max(checks_left, 1))
