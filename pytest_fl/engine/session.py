"""All checks of one subject, one after the other, in this process: what is found out once, and how much time is left."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_fl.engine.judging import run_check
from pytest_fl.subjects import traces
from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.guard import Misbehaved, Rule, warming_up
from pytest_fl.subjects.round import Round
from pytest_fl.subjects.subject import Subject

if TYPE_CHECKING:
    from pytest_fl.checks import Check
    from pytest_fl.checks.parts import Audit
    from pytest_fl.engine.targets import Target
    from pytest_fl.reporting.results import Row
    from pytest_fl.subjects.parts import Part
    from pytest_fl.subjects.profiles import Profile
    from pytest_fl.subjects.witness import Witness


@dataclass
class Session:
    """One subject under one profile."""

    target: Target
    profile: Profile
    witness: Witness | None = None
    judged: Rule | Part | None = field(default=None, init=False)

    def start(self) -> tuple[str, str, str]:
        """Make the subject and call it for the first time, in its own time: its name, its spec, and how it is called.

        Raises ValueError where the target cannot be called in any way.
        """
        before = traces.snapshot()
        try:
            return self._started()
        finally:
            traces.restore(before)

    def _started(self) -> tuple[str, str, str]:
        with warming_up(self.profile.warm_up_seconds):
            if self.witness is not None:
                self.witness.calls()
            subject = self.target.subject()
            if self.witness is not None:
                self.witness.returned()
            self.judged = subject if not isinstance(subject, Subject) else self._rule(subject)
            if isinstance(self.judged, Rule):
                _warm(self.judged)
        if isinstance(self.judged, Rule):
            with contextlib.suppress(Misbehaved):  # which checks will tell
                grid(self.judged)
        if not isinstance(subject, Subject):
            return subject.name, "", ""
        return subject.name, subject.details.get("path", ""), subject.called

    def _rule(self, subject: Subject) -> Rule:
        claims = self.target.claims
        heeds = True if claims.get("claims") is not None and claims.get("min_clients") is None else None
        return Rule(subject, self.profile.call_seconds, heeds=heeds, witness=self.witness)

    def examine(self, check: Check | Audit, expected: str | None, seconds: float) -> Row:
        """The row of one check, which may take so many seconds; the state of the process is as before."""
        assert self.judged is not None
        before = traces.snapshot()
        if self.witness is not None:
            self.witness.clear()
        if isinstance(self.judged, Rule):
            self.judged.cache["state"] = before
            self.judged.deadline = time.monotonic() + seconds
            self.judged.stop = self.judged.deadline + max(2 * seconds, self.profile.call_seconds)
        profile = replace(self.profile, check_seconds=seconds)
        try:
            return run_check(self.judged, check, profile, {} if expected is None else {check.name: expected})
        finally:
            traces.restore(before)


def _warm(rule: Rule) -> None:
    """Call the rule on ordinary updates; what it does then is for the checks to tell."""
    f = 1 if rule.subject.fixed_f is None else rule.subject.fixed_f
    n = max(rule.subject.min_clients(f), 4 * f + 7)
    updates = np.random.default_rng(0).normal(size=(n, 2))
    with contextlib.suppress(Misbehaved):
        rule.begins(Round(updates, f, (), "its first call, on ordinary updates"))
        rule.raw(updates, f)


def share(left: float, checks_left: int, profile: Profile) -> float:
    """The seconds that the next check may take: its share of what is left, and no more than the profile gives it."""
    return min(profile.check_seconds, max(left, 0.0) / max(checks_left, 1))
