"""One check on one rule: the stored rounds, the corpus, then Hypothesis; the worst bound found becomes a row."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pytest_fl.adapters import as_subject
from pytest_fl.checks import Bound, Check, all_checks
from pytest_fl.engine.shrink import shrink
from pytest_fl.inputs.adversary import WorstCase, hunt
from pytest_fl.inputs.precision import in_its_precision
from pytest_fl.inputs.strategies import SEARCHES
from pytest_fl.reporting import current
from pytest_fl.reporting.failures import facts
from pytest_fl.reporting.report import Report
from pytest_fl.reporting.results import Row
from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.guard import Hung, Misbehaved, Rule
from pytest_fl.subjects.profiles import Profile, profile_named
from pytest_fl.subjects.round import Round
from pytest_fl.subjects.subject import Subject


def verify(
    aggregator: object,
    *,
    min_clients: Callable[[int], int] | None = None,
    kappa: Callable[[int, int], float] | None = None,
    symmetries: Iterable[str] | None = None,
    claims: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    profile: str | Profile = "default",
    seed: int = 0,
    checks: Iterable[str] | None = None,
) -> Report:
    """Run every check on an aggregator and report, without pytest: `print(pytest_fl.verify(my_rule))`.

    Takes what `conformance` takes. `checks`: only these, by name. Counterexamples are saved under ./.pytest_fl.
    """
    subject = as_subject(aggregator, min_clients=min_clients, kappa=kappa, symmetries=symmetries, claims=claims)
    chosen = replace(profile_named(profile) if isinstance(profile, str) else profile, seed=seed)
    rule = Rule(subject, chosen.call_seconds)
    return Report(tuple(run_check(rule, check, chosen, expected_failures or {}) for check in chosen_checks(checks)))


def chosen_checks(names: Iterable[str] | None = None) -> list[Check]:
    """The checks of these names, or all; ValueError with the nearest name for an unknown one."""
    from fl_impl.common.specs import lookup  # noqa: PLC0415  # fl_impl is loaded when a check runs

    known = all_checks()
    return list(known.values()) if names is None else [lookup(name, known, "the name of a check") for name in names]


def run_check(rule: Rule, check: Check, profile: Profile, expected_failures: Mapping[str, str]) -> Row:
    """The row of one (subject, check) pair; a failure is shrunk, and saved where it can be replayed from."""
    started = time.perf_counter()
    reason = check.needs(rule.subject) or ("" if check.gate else _gate(rule, profile))
    if rule.hung and not reason:
        reason = "not run: an earlier call of this rule did not return"
    if reason:
        return Row(rule.subject.name, check.name, check.claim, "not_claimed", reason=reason)
    found = _search(rule, check, profile)
    row = Row(
        rule.subject.name,
        check.name,
        check.claim,
        measured=found.measured,
        outcome="passed" if found.bound.holds else "failed",
        value=found.bound.value,
        limit=found.bound.limit,
        rounds=found.tried,
        reason=found.bound.reason if not found.bound.holds else found.note,
        counterexample=None if found.bound.holds or found.round is None else _counterexample(rule, check, found),
        seconds=time.perf_counter() - started,
    )
    return _expected(row, expected_failures.get(check.name))


def _gate(rule: Rule, profile: Profile) -> str:
    """Why nothing but the gate is worth trying: the rule does not even return a vector. Found once for each rule."""
    if "gate" not in rule.cache:
        broken = [check.name for check in all_checks().values() if check.gate and not _holds(rule, check, profile)]
        rule.cache["gate"] = f"not run: {broken[0]} fails" if broken else ""
    return rule.cache["gate"]


def _holds(rule: Rule, check: Check, profile: Profile) -> bool:
    return _search(rule, check, profile).bound.holds


def _expected(row: Row, reason: str | None) -> Row:
    if reason is None:
        return row
    if row.outcome == "failed":
        return replace(row, outcome="expected_failure", reason=reason)
    if row.outcome == "passed":
        return replace(row, outcome="failed", reason=f"passes, but was expected to fail ({reason}): remove the expectation")
    return row


@dataclass(frozen=True)
class Found:
    """The worst bound of a search, the round that gave it, and how many rounds were judged."""

    bound: Bound
    round: Round | None
    tried: int
    note: str = ""
    measured: Mapping[str, float] = field(default_factory=lambda: dict[str, float]())


def judge(rule: Rule, check: Check, round_: Round) -> Bound | None:
    """The bound of one round; a rule that does anything but return a vector is infinitely far from its limit."""
    try:
        return check.judge(rule, round_)
    except Misbehaved as finding:
        return Bound(float("inf"), 0.0, str(finding))


def _closeness(bound: Bound) -> float:
    if not bound.holds:
        return float("inf")
    return bound.value / bound.limit if bound.limit > 0 else 0.0


def _search(rule: Rule, check: Check, profile: Profile) -> Found:
    """The corpus, then the adversary, then Hypothesis, until something does not hold."""
    try:
        found = _corpus(rule, check, profile)
        slow = bool(found.note)
        if check.adversary and found.bound.holds and not slow:
            found = _attacked(rule, check, profile, found)
    except Misbehaved as finding:  # not even an ordinary round is taken
        return Found(Bound(float("inf"), 0.0, str(finding)), None, 0)
    if check.search and found.bound.holds and not slow:
        found = _fuzz(rule, check, profile, found)
    return found if found.note or not found.bound.holds else replace(found, note=grid(rule).note)


def _corpus(rule: Rule, check: Check, profile: Profile) -> Found:
    worst = Found(Bound(0.0, 0.0), None, 0)
    deadline = time.process_time() + profile.check_seconds
    for round_ in _rounds(rule, check, profile):
        bound = judge(rule, check, round_)
        if bound is None:
            continue
        tried = worst.tried + 1
        if worst.round is None or _closeness(bound) > _closeness(worst.bound):
            worst = Found(bound, round_, tried)
        worst = replace(worst, tried=tried)
        if not bound.holds:
            return _shrunk(rule, check, worst)
        if time.process_time() > deadline:
            return replace(worst, note=f"stopped after {tried} rounds: a call of this rule is slow")
    return worst


def _attacked(rule: Rule, check: Check, profile: Profile, found: Found) -> Found:
    """The adversary's worst case at one (n, f), judged as any round; its coefficient is reported, claimed or not."""
    pairs = [(n, f) for n, f in grid(rule).small if n <= 9]
    if not pairs:
        return found
    n, f = (7, 2) if (7, 2) in pairs else pairs[-1]
    worst = _worst_case(rule, n, f, profile)
    measured = {"n": n, "f": f, "coefficient": worst.ratio, "lower_bound": worst.lower_bound}
    if worst.kappa is not None:
        measured["kappa"] = worst.kappa
    round_ = in_its_precision(rule, Round(worst.updates, f, worst.byzantine, "the worst case that the adversary found"))
    bound = judge(rule, check, round_)
    found = replace(found, measured=measured, tried=found.tried + worst.evaluations)
    if bound is None or _closeness(bound) <= _closeness(found.bound):
        return found
    found = replace(found, bound=bound, round=round_)
    return found if bound.holds else _shrunk(rule, check, found)


def _worst_case(rule: Rule, n: int, f: int, profile: Profile) -> WorstCase:
    """What the adversary finds in few dimensions and in many; looked for once for all checks of a rule."""
    key = f"worst case {n} {f} {profile.evaluations} {profile.seed}"
    if key not in rule.cache:
        evaluations = 2 * profile.evaluations
        rule.cache[key] = hunt(rule, n, f, None, evaluations=evaluations, seconds=profile.check_seconds, seed=profile.seed)
    return rule.cache[key]


def _rounds(rule: Rule, check: Check, profile: Profile) -> Iterator[Round]:
    for round_ in chain(_stored(rule, check), check.rounds(rule, profile)):
        yield round_ if check.gate or check.name == "keeps_dtype" else in_its_precision(rule, round_)


def _stored(rule: Rule, check: Check) -> Iterator[Round]:
    """Rounds of this check saved by earlier failures of this subject, and all of it in tests/rounds."""
    running = current.item.get()
    root = running.rootdir if running else Path.cwd()
    for folder in (root / "tests" / "rounds", root / current.FOLDER):
        for path in sorted(folder.glob("*.npz")):
            try:
                round_, known = Round.load(path)
            except (ValueError, OSError, EOFError, zipfile.BadZipFile):
                continue  # not ours, or half written by a run that was killed
            mine = known.get("subject") == rule.subject.name or folder.name == "rounds"
            if mine and known.get("check") == check.name and rule.subject.takes(round_.n, round_.f):
                yield round_


def _shrunk(rule: Rule, check: Check, found: Found) -> Found:
    if rule.hung or found.round is None:
        return found
    reason = found.bound.reason

    def still_fails(round_: Round) -> bool:
        bound = judge(rule, check, round_)
        return bound is not None and not bound.holds and bool(bound.reason) == bool(reason)

    small = shrink(found.round, still_fails, rule.subject.takes)
    bound = judge(rule, check, small)
    if bound is None or bound.holds:  # the rule changes its mind: show what was seen first
        return found
    return replace(found, bound=bound, round=small)


def _fuzz(rule: Rule, check: Check, profile: Profile, found: Found) -> Found:
    """What Hypothesis finds, shrunk by it; the same as before where it finds nothing."""
    from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: PLC0415  # 0.2 s, only where it is used

    pairs = tuple(pair for pair in grid(rule).small if pair[0] <= 8)
    if not pairs:
        return found
    failing: list[tuple[Bound, Round]] = []
    tried = 0

    @settings(
        max_examples=profile.examples,
        deadline=None,
        database=None,  # failures are stored as rounds, in .pytest_fl
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),  # type: ignore[reportArgumentType]  # its metaclass iterates over members
        print_blob=False,
    )
    @seed(profile.seed)
    @given(SEARCHES[check.search](clients=pairs))
    def search(round_: Round) -> None:
        nonlocal tried
        tried += 1
        round_ = in_its_precision(rule, round_)
        bound = judge(rule, check, round_)
        if bound is not None and not bound.holds:
            failing.append((bound, round_))
            raise _Violation

    with contextlib.suppress(Exception):  # our Violation; or Hypothesis's Flaky, where the rule changes its mind
        search()
    found = replace(found, tried=found.tried + tried)
    return replace(found, bound=failing[-1][0], round=failing[-1][1]) if failing else found


class _Violation(Exception):  # noqa: N818  # tells Hypothesis to shrink
    pass


def _counterexample(rule: Rule, check: Check, found: Found) -> dict[str, Any]:
    round_ = found.round
    assert round_ is not None
    output: object = None
    try:
        output = None if rule.hung else rule(round_.updates, round_.f)
    except Misbehaved as finding:
        output = str(finding)
    path = save(rule.subject, check, round_)
    return {**facts(round_, output), "file": str(path), "replay": replay_line(path, rule.subject)}


def save(subject: Subject, check: Check, round_: Round) -> Path:
    """Write the round to .pytest_fl/SUBJECT-CHECK-DIGEST.npz, the same round to the same file."""
    digest = hashlib.sha256(np.ascontiguousarray(round_.updates).tobytes() + bytes(str((round_.f, round_.byzantine)), "utf8"))
    name = re.sub(r"[^\w.|()=-]+", "_", subject.name).replace("|", "-")[:60]
    path = current.storage() / f"{name}-{check.name}-{digest.hexdigest()[:8]}.npz"
    round_.save(path, check=check.name, subject=subject.name)
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
    (check,) = chosen_checks([known.get("check", "")])
    rule = Rule(as_subject(aggregator, **claims), profile_named("default").call_seconds)
    bound = judge(rule, check, round_)
    outcome = "not_claimed" if bound is None else "passed" if bound.holds else "failed"
    shown = bound or Bound(0.0, 0.0, "the claim says nothing of this round for this rule")
    found = Found(shown, round_, 1)
    return Report(
        (
            Row(
                rule.subject.name,
                check.name,
                check.claim,
                outcome,
                value=shown.value,
                limit=shown.limit,
                rounds=1,
                reason=shown.reason,
                counterexample=_counterexample(rule, check, found) if outcome == "failed" else None,
            ),
        )
    )


__all__ = ["Hung", "judge", "replay", "run_check", "verify"]
