"""One check on one subject, a rule or another part, becomes one row."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from pytest_fl.checks import Check, all_checks
from pytest_fl.checks.parts import Audit
from pytest_fl.engine import parts
from pytest_fl.engine.rows import Finding, as_expected, row_of
from pytest_fl.engine.saving import counterexample
from pytest_fl.engine.search import judge, search
from pytest_fl.reporting.results import Row
from pytest_fl.subjects.guard import Misbehaved, OutOfTime, Rule
from pytest_fl.subjects.parts import Part
from pytest_fl.subjects.profiles import Profile
from pytest_fl.subjects.round import Round


def run_check(judged: Rule | Part, check: Check | Audit, profile: Profile, expected_failures: Mapping[str, str]) -> Row:
    """The row of one (subject, check) pair; a failure is shrunk, and saved where it can be replayed from."""
    started = time.perf_counter()
    subject = judged.subject if isinstance(judged, Rule) else judged
    reason = check.needs(cast("Any", subject))
    if reason:
        return Row(subject.name, check.name, check.claim, "not_claimed", reason=reason)
    if isinstance(judged, Rule):
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
    return counterexample(rule.subject.name, rule.subject.details.get("path", ""), check, round_, output)
