"""All checks of one subject, one after the other, in this process: each becomes a row, what is found out once is kept."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pytest_fl.checks import Check, all_checks
from pytest_fl.checks.histories import HistoryCheck
from pytest_fl.checks.parts import Audit
from pytest_fl.engine import parts
from pytest_fl.engine.histories import replayed_history, row_of_histories
from pytest_fl.engine.identities import identity
from pytest_fl.engine.rows import Finding, as_expected, row_of
from pytest_fl.engine.saving import counterexample
from pytest_fl.engine.search import judge, search
from pytest_fl.reporting.results import Row
from pytest_fl.subjects import traces
from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.guard import Misbehaved, OutOfTime, Rule, warming_up
from pytest_fl.subjects.histories import History
from pytest_fl.subjects.parts import Part
from pytest_fl.subjects.profiles import Profile
from pytest_fl.subjects.round import Round
from pytest_fl.subjects.subject import Subject

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_fl.engine.targets import Target
    from pytest_fl.subjects.witness import Witness


@dataclass
class Session:
    """One subject under one profile."""

    target: Target
    profile: Profile
    witness: Witness | None = None
    explores: bool = True
    """Whether the (n, f) that it takes are looked for at the start, in their own time."""
    judged: Rule | Part | None = field(default=None, init=False)

    def start(self) -> tuple[str, str]:
        """Make the subject and call it for the first time, in its own time: its name, and how it is called.

        Raises ValueError where the target cannot be called in any way.
        """
        before = traces.snapshot()
        try:
            return self._started()
        finally:
            traces.restore(before)

    def _started(self) -> tuple[str, str]:
        with warming_up(self.profile.warm_up_seconds):
            if self.witness is not None:
                self.witness.calls()
            subject = self.target.subject()
            if self.witness is not None:
                self.witness.returned()
            self.judged = subject if not isinstance(subject, Subject) else self._rule(subject)
            if isinstance(self.judged, Rule):
                _warm(self.judged)
        if isinstance(self.judged, Rule) and self.explores:
            with contextlib.suppress(Misbehaved):  # which checks will tell
                grid(self.judged)
        if not isinstance(subject, Subject):
            return subject.name, ""
        return subject.name, subject.called

    def _rule(self, subject: Subject) -> Rule:
        claims = self.target.claims
        heeds = True if claims.get("claims") is not None and claims.get("min_clients") is None else None
        return Rule(subject, self.profile.call_seconds, heeds=heeds, witness=self.witness)

    def identity(self) -> str:
        """What the rule is seen to be; empty where it is no rule, or not even called."""
        if not isinstance(self.judged, Rule) or self.judged.hung or self.judged.subject.memory is not None:
            return ""
        self.judged.deadline = self.judged.stop = math.inf
        with contextlib.suppress(Misbehaved):
            return str(identity(self.judged))
        return ""

    def examine(
        self, check: Check | Audit | HistoryCheck, expected: str | None, seconds: float, file: Path | None = None
    ) -> Row:
        """The row of one check, which may take so many seconds; the state of the process is as before.

        `file`: a rule is judged on this saved round alone. Raises ValueError for a file that holds none.
        """
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
            if file is not None and isinstance(self.judged, Rule):
                return _again(self.judged, check, file)
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


def run_check(
    judged: Rule | Part, check: Check | Audit | HistoryCheck, profile: Profile, expected_failures: Mapping[str, str]
) -> Row:
    """The row of one (subject, check) pair; a failure is shrunk, and saved where it can be replayed from."""
    started = time.perf_counter()
    subject = judged.subject if isinstance(judged, Rule) else judged
    reason = check.needs(cast("Any", subject))
    if reason:
        return Row(subject.name, check.name, check.claim, "not_claimed", reason=reason)
    if isinstance(check, HistoryCheck):
        row = row_of_histories(cast("Rule", judged), check, profile)
    elif isinstance(judged, Rule):
        row = _of_rule(judged, cast("Check", check), profile)
    else:
        row = row_of(subject.name, check, parts.search(judged, cast("Audit", check), profile.seed))
    return as_expected(replace(row, seconds=time.perf_counter() - started), expected_failures.get(check.name))


def _of_rule(rule: Rule, check: Check, profile: Profile) -> Row:
    name = rule.subject.name
    reason = "" if check.gate else _gate(rule, profile)
    if rule.hung and not reason and not check.gate:
        reason = "not run: an earlier call of this rule did not return"
    if reason:
        return Row(name, check.name, check.claim, "not_run", reason=reason)
    finding = _finding(rule, check, profile)
    if not finding.tried and finding.bound.holds:
        outcome = "not_run" if finding.note else "not_claimed"
        reason = finding.note or "it says nothing of any round at the (n, f) that this rule takes"
        return Row(name, check.name, check.claim, outcome, reason=reason)
    shown = None if finding.bound.holds or finding.round is None else _counterexample(rule, check.name, finding.round)
    return row_of(name, check, finding, shown)


def _again(rule: Rule, check: Check | Audit | HistoryCheck, file: Path) -> Row:
    row = _once(rule, check, file)
    return row if row.counterexample is None else replace(row, counterexample={**row.counterexample, "file": str(file)})


def _once(rule: Rule, check: Check | Audit | HistoryCheck, file: Path) -> Row:
    """The row of the round in a file, or of the history. Raises ValueError where it holds the other of the two."""
    history = History.load(file)
    if isinstance(check, HistoryCheck) is (history is None):
        raise ValueError(f"expected {file} to hold {'one round' if history else 'a history'}: it was saved by another check")
    if history is not None:
        return replayed_history(rule, cast("HistoryCheck", check), history[0])
    return replayed(rule, cast("Check", check), Round.load(file)[0])


def replayed(rule: Rule, check: Check, round_: Round) -> Row:
    """The row of one check on one round, again."""
    bound = judge(rule, check, round_)
    if bound is None:
        reason = "the claim says nothing of this round for this rule"
        return Row(rule.subject.name, check.name, check.claim, "not_claimed", rounds=1, reason=reason)
    shown = None if bound.holds else _counterexample(rule, check.name, round_)
    return row_of(rule.subject.name, check, Finding(bound, round_, 1), shown)


def _gate(rule: Rule, profile: Profile) -> str:
    """Why nothing but the gates is worth trying: the rule does not even return a vector."""
    for check in all_checks().values():
        if check.gate and not (finding := _finding(rule, check, profile)).bound.holds:
            return f"not run: {check.name} fails: {finding.bound.reason}"
    return ""


def _finding(rule: Rule, check: Check, profile: Profile) -> Finding:
    """What the search finds: of a gate once for each rule, so that its row and the reason of the others are one."""
    if not check.gate:
        return search(rule, check, profile)
    key = f"gate {check.name}"
    if key not in rule.cache:
        rule.cache[key] = search(rule, check, profile)
    return rule.cache[key]


def _counterexample(rule: Rule, check: str, round_: Round) -> dict[str, Any]:
    output: object = None
    try:
        output = None if rule.hung else rule(round_.updates, round_.f)
    except Misbehaved as finding:
        output = str(finding)
    except OutOfTime:
        output = "not called again: the time of the check is up"
    return counterexample(rule.subject.name, check, round_, output)
