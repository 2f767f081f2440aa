"""How long to look: `quick`, `default`, `thorough`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fl_impl.common.specs import lookup


@dataclass(frozen=True)
class Profile:
    """The effort spent on each check. The corpus is the same for every rule; a slow rule is tried on less of it."""

    name: str
    rounds: int
    """Rounds of the corpus tried by each check, at most."""
    examples: int
    """Hypothesis examples tried by each check that searches."""
    evaluations: int
    """Evaluations of the adversary."""
    check_seconds: float
    """After which a check of a slow rule stops, and says so: time on the wall, as all below."""
    call_seconds: float
    """After which one call counts as hung."""
    seed: int = 0
    seconds: float = 60.0
    """For all checks of one subject together; each may take its share of what is left."""
    warm_up_seconds: float = 30.0
    """For the first calls: a rule may compile itself."""


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile("quick", rounds=250, examples=20, evaluations=300, check_seconds=1.5, call_seconds=5, seconds=30),
        Profile("default", rounds=900, examples=100, evaluations=1500, check_seconds=6, call_seconds=10),
        Profile("thorough", rounds=10_000, examples=1000, evaluations=20_000, check_seconds=120, call_seconds=30, seconds=1800),
    )
}


def profile_named(name: str) -> Profile:
    """The profile of that name; ValueError with the nearest name where there is none."""
    return lookup(name, PROFILES, "a profile")
