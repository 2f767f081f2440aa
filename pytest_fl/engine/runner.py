"""`verify` and `replay`: one check on one subject, a rule or another part, becomes one row."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast, get_args

import numpy as np

from pytest_fl.adapters import as_subject
from pytest_fl.adapters.options import Options
from pytest_fl.adapters.parts import as_part
from pytest_fl.checks import Check, all_checks
from pytest_fl.checks.parts import Audit, audits_of
from pytest_fl.engine import parts
from pytest_fl.engine.identities import identity
from pytest_fl.engine.rows import Finding, as_expected, row_of
from pytest_fl.engine.search import judge, search
from pytest_fl.reporting import current
from pytest_fl.reporting.failures import facts
from pytest_fl.reporting.report import Report
from pytest_fl.reporting.results import Row
from pytest_fl.subjects.guard import Misbehaved, Rule
from pytest_fl.subjects.parts import Part
from pytest_fl.subjects.profiles import Profile, profile_named
from pytest_fl.subjects.round import Round
from pytest_fl.subjects.subject import Subject


def verify(
    thing: object,
    *,
    expected_failures: Mapping[str, str] | None = None,
    profile: str | Profile = "default",
    seed: int = 0,
    checks: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    **options: Unpack[Options],
) -> Report:
    """Run every check on an aggregator, or on another part, and report, without pytest: `print(pytest_fl.verify(my_rule))`.

    Takes what `conformance` takes. `checks`: only these, by name; `skip`: all but these. Counterexamples are saved under
    ./.pytest_fl.
    """
    subject = subject_of(thing, **options)
    chosen = replace(profile_named(profile) if isinstance(profile, str) else profile, seed=seed)
    judged = guarded(subject, chosen)
    tried = checks_of(subject, checks, skip)
    rows = tuple(run_check(judged, check, chosen, expected_failures or {}) for check in tried)
    return Report(rows, notes=_notes(judged, rows))


def _notes(judged: Rule | Part, rows: Iterable[Row]) -> tuple[str, ...]:
    """How the rule was called; where something fails also what it was seen to be."""
    if not isinstance(judged, Rule):
        return ()
    notes = [judged.subject.called]
    if any(row.outcome == "failed" for row in rows) and not judged.hung:
        with contextlib.suppress(Misbehaved):
            notes.append(f"behaves as {identity(judged)}")
    return tuple(filter(None, notes))


audit_report = verify
"""The name that `verify` has where a part other than an aggregator is judged."""


def subject_of(thing: object, **options: Unpack[Options]) -> Subject | Part:
    """What is judged: the part that `as_part` takes `thing` for, or else the rule that `as_subject` does.

    A string is a rule of that name before it is a compression. Raises ValueError for what is neither, and for claims that
    are made for a part that is no rule.
    """
    part = _part(thing)
    if part is None:
        return as_subject(thing, **options)
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"expected {', '.join(given)} for an aggregator only; {part.name} is a {type(part).__name__}")
    return part


def _part(thing: object) -> Part | None:
    if isinstance(thing, str) and (":" in thing or not _is_compression(thing)):
        return None
    try:
        return as_part(thing)
    except ValueError:
        return None


def _is_compression(spec: str) -> bool:
    from fl_impl.compression import ALIASES, CODECS  # noqa: PLC0415  # fl_impl is loaded when a check is chosen

    last = spec.rpartition("|")[2].partition("(")[0].strip()
    return last in CODECS or last in ALIASES


def checks_of(subject: Subject | Part, names: Iterable[str] | None = None, skip: Iterable[str] = ()) -> list[Check | Audit]:
    """The checks of a subject of this kind, or those of these names, without those to skip.

    Raises ValueError with the nearest name for an unknown one.
    """
    from fl_impl.common.specs import lookup  # noqa: PLC0415  # fl_impl is loaded when a check is chosen

    all_of_kind = all_checks().values() if isinstance(subject, Subject) else audits_of(subject)
    known: dict[str, Check | Audit] = {check.name: check for check in all_of_kind}
    wanted = known.values() if names is None else [lookup(name, known, "the name of a check") for name in names]
    left_out = {lookup(name, known, "the name of a check").name for name in skip}
    return [check for check in wanted if check.name not in left_out]


def guarded(subject: Subject | Part, profile: Profile) -> Rule | Part:
    """The subject as `run_check` takes it: one `Rule` for all checks, so that what is found out is found out once."""
    return Rule(subject, profile.call_seconds) if isinstance(subject, Subject) else subject


def run_check(judged: Rule | Part, check: Check | Audit, profile: Profile, expected_failures: Mapping[str, str]) -> Row:
    """The row of one (subject, check) pair; a failure is shrunk, and saved where it can be replayed from."""
    started = time.perf_counter()
    subject = judged.subject if isinstance(judged, Rule) else judged
    reason = check.needs(cast("Any", subject))
    if isinstance(judged, Rule) and not reason:
        reason = _idle(judged, cast("Check", check), profile)
    if reason:
        return Row(subject.name, check.name, check.claim, "not_claimed", reason=reason)
    counterexample = None
    if isinstance(judged, get_args(Part)):
        finding = parts.search(cast("Part", judged), cast("Audit", check), profile.seed)
    else:
        rule = cast("Rule", judged)
        finding = search(rule, cast("Check", check), profile)
        if finding.round is not None and not finding.bound.holds:
            counterexample = _counterexample(rule, check.name, finding.round)
    row = row_of(subject.name, check, finding, counterexample)
    return as_expected(replace(row, seconds=time.perf_counter() - started), expected_failures.get(check.name))


def _idle(rule: Rule, check: Check, profile: Profile) -> str:
    """Why nothing is tried: the rule does not even return a vector, or never came back. Found once for each rule."""
    if not check.gate and "gate" not in rule.cache:
        broken = [gate.name for gate in all_checks().values() if gate.gate and not search(rule, gate, profile).bound.holds]
        rule.cache["gate"] = f"not run: {broken[0]} fails" if broken else ""
    reason = "" if check.gate else rule.cache["gate"]
    return reason or ("not run: an earlier call of this rule did not return" if rule.hung else "")


def _counterexample(rule: Rule, check: str, round_: Round) -> dict[str, Any]:
    output: object = None
    try:
        output = None if rule.hung else rule(round_.updates, round_.f)
    except Misbehaved as finding:
        output = str(finding)
    path = save(rule.subject, check, round_)
    return {**facts(round_, output), "file": str(path), "replay": replay_line(path, rule.subject)}


def save(subject: Subject, check: str, round_: Round) -> Path:
    """Write the round to .pytest_fl/SUBJECT-CHECK-DIGEST.npz, the same round to the same file."""
    digest = hashlib.sha256(np.ascontiguousarray(round_.updates).tobytes() + bytes(str((round_.f, round_.byzantine)), "utf8"))
    name = re.sub(r"[^\w.|()=-]+", "_", subject.name).replace("|", "-")[:60]
    path = current.storage() / f"{name}-{check}-{digest.hexdigest()[:8]}.npz"
    round_.save(path, check=check, subject=subject.name)
    return path


def replay_line(path: Path, subject: Subject) -> str:
    """A command that runs a saved round again."""
    target = subject.details.get("path") or subject.name
    return f"python -m pytest_fl replay {path} '{target}'"


def replay(path: str | Path, aggregator: object, **claims: Any) -> Report:
    """Run the check of a saved counterexample again, on that round alone; claims as for `conformance`.

    Raises ValueError where the file is not a saved round or its check is unknown.
    """
    round_, known = Round.load(Path(path))
    rule = Rule(as_subject(aggregator, **claims), profile_named("default").call_seconds)
    (check,) = checks_of(rule.subject, [known.get("check", "")])
    bound = judge(rule, cast("Check", check), round_)
    if bound is None:
        reason = "the claim says nothing of this round for this rule"
        return Report((Row(rule.subject.name, check.name, check.claim, "not_claimed", rounds=1, reason=reason),))
    counterexample = None if bound.holds else _counterexample(rule, check.name, round_)
    return Report((row_of(rule.subject.name, check, Finding(bound, round_, 1), counterexample),))


__all__ = ["audit_report", "checks_of", "guarded", "replay", "run_check", "subject_of", "verify"]
