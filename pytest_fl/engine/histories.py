"""One check of a rule with memory: the corpus of histories, then Hypothesis; a failing history is made short, and saved."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pytest_fl.checks import Bound
from pytest_fl.checks.histories import HistoryCheck, history_checks
from pytest_fl.engine.rows import Finding, closeness, row_of
from pytest_fl.reporting import current
from pytest_fl.reporting.failures import facts
from pytest_fl.reporting.results import Row
from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.guard import Misbehaved, OutOfTime, Rule
from pytest_fl.subjects.histories import History, told

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_fl.subjects.profiles import Profile

SHRINKING: Final = 200
"""Shorter histories that are tried."""
SHRINKING_SECONDS: Final = 3.0


def row_of_histories(rule: Rule, check: HistoryCheck, profile: Profile) -> Row:
    """The row of one check of a rule with memory."""
    name, reason = rule.subject.name, "" if check.gate else _gate(rule, profile)
    if rule.hung and not reason and not check.gate:
        reason = "not run: an earlier call of this rule did not return"
    if reason:
        return Row(name, check.name, check.claim, "not_run", reason=reason)
    finding, history = searched(rule, check, profile)
    if not finding.tried and finding.bound.holds:
        reason = finding.note or "it says nothing of any history at the (n, f) that this rule takes"
        return Row(name, check.name, check.claim, "not_run" if finding.note else "not_claimed", reason=reason)
    shown = None if finding.bound.holds or history is None else counterexample(rule, check, history)
    return row_of(name, check, finding, shown)


def replayed_history(rule: Rule, check: HistoryCheck, history: History) -> Row:
    """The row of one check on one history, again."""
    bound = judge_history(rule, check, history)
    if bound is None:
        reason = "the claim says nothing of this history for this rule"
        return Row(rule.subject.name, check.name, check.claim, "not_claimed", rounds=1, reason=reason)
    shown = None if bound.holds else counterexample(rule, check, history)
    return row_of(rule.subject.name, check, Finding(bound, None, 1), shown)


def judge_history(rule: Rule, check: HistoryCheck, history: History) -> Bound | None:
    """The bound of one history; a rule that does anything but return vectors is infinitely far from its limit."""
    try:
        return check.judge(rule, history)
    except Misbehaved as finding:
        return Bound(float("inf"), 0.0, str(finding))


def _gate(rule: Rule, profile: Profile) -> str:
    for check in history_checks().values():
        if check.gate:
            finding, _ = searched(rule, check, profile)
            if not finding.bound.holds:
                return f"not run: {check.name} fails: {finding.bound.reason}"
    return ""


def searched(rule: Rule, check: HistoryCheck, profile: Profile) -> tuple[Finding, History | None]:
    """The worst bound and the history that gave it; of a gate once for each rule."""
    key = f"histories {check.name}"
    if key in rule.cache:
        return rule.cache[key]
    try:
        found = _searched(rule, check, profile)
    except Misbehaved as finding:
        found = Finding(Bound(float("inf"), 0.0, str(finding))), None
    if check.gate:
        rule.cache[key] = found
    return found


def _searched(rule: Rule, check: HistoryCheck, profile: Profile) -> tuple[Finding, History | None]:
    worst, where = Finding(Bound(0.0, 0.0)), None
    if not (grid(rule).small or grid(rule).large):
        return Finding(Bound(float("inf"), 0.0, "takes no ordinary updates at any (n, f) tried")), None
    for history in check.histories(rule, profile):
        try:
            bound = judge_history(rule, check, history)
        except OutOfTime:
            return replace(worst, note=_stopped(worst.tried)), where
        if bound is not None:
            if not bound.holds:
                small, bound = shrunk(rule, check, history, bound)
                return Finding(bound, None, worst.tried + 1), small
            if where is None or closeness(bound) > closeness(worst.bound):
                worst, where = replace(worst, bound=bound), history
            worst = replace(worst, tried=worst.tried + 1)
        if rule.late:
            return replace(worst, note=_stopped(worst.tried)), where
    return _fuzzed(rule, check, profile, worst, where) if check.search else (worst, where)


def _stopped(tried: int) -> str:
    return f"stopped after {tried} histories: the time for this check is up"


def _fuzzed(
    rule: Rule, check: HistoryCheck, profile: Profile, worst: Finding, where: History | None
) -> tuple[Finding, History | None]:
    """What Hypothesis finds, shrunk by it."""
    from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: PLC0415  # 0.2 s, only where it is used

    from pytest_fl.inputs.history_strategies import histories  # noqa: PLC0415  # it imports Hypothesis

    pairs = tuple(pair for pair in grid(rule).small if pair[0] <= 8)
    if not pairs:
        return worst, where
    failing: list[tuple[Bound, History]] = []
    tried = 0

    @settings(
        max_examples=profile.examples // 2, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),  # type: ignore[reportArgumentType]  # its metaclass iterates over members
        print_blob=False,
    )  # fmt: skip
    @seed(profile.seed)
    @given(histories(clients=pairs))
    def look(history: History) -> None:
        nonlocal tried
        if rule.late:
            return
        tried += 1
        bound = judge_history(rule, check, history)
        if bound is not None and not bound.holds:
            failing.append((bound, history))
            raise _BrokenHistory

    with contextlib.suppress(Exception):  # our Violation, OutOfTime; or Hypothesis's Flaky, where the rule changes its mind
        look()
    worst = replace(worst, tried=worst.tried + tried)
    return (replace(worst, bound=failing[-1][0]), failing[-1][1]) if failing else (worst, where)


class _BrokenHistory(Exception):  # noqa: N818  # tells Hypothesis to shrink
    pass


def shrunk(rule: Rule, check: HistoryCheck, history: History, bound: Bound) -> tuple[History, Bound]:
    """A history with fewer rounds, clients and coordinates that still fails in the same way."""
    kind, until, tries = _kind(bound), time.monotonic() + SHRINKING_SECONDS, SHRINKING
    progress = not rule.hung
    while progress:
        progress = False
        for smaller in _smaller(history):
            tries -= 1
            if tries < 0 or time.monotonic() > until:
                return history, bound
            if not rule.takes(smaller.n, smaller.f):
                continue
            try:
                found = judge_history(rule, check, smaller)
            except OutOfTime:
                return history, bound
            if found is not None and not found.holds and _kind(found) == kind:
                history, bound, progress = smaller, found, True
                break
    return history, bound


def _kind(bound: Bound) -> str:
    """An exception, or a value: what shrinking keeps to."""
    return "value" if bound.limit > 0 or bound.value < float("inf") else re.sub(r"\d+", "", bound.reason)[:40]


def _smaller(history: History) -> Iterator[History]:
    for number in sorted({len(history) // 2, 3 * len(history) // 4, len(history) - 1} - {0}):
        yield history.until(number - 1)
    for number in range(len(history)):
        if len(history) > 1:
            yield replace(history, updates=np.delete(history.updates, number, axis=0))
    if history.d > 1:
        for size in (1, history.d - 1):
            yield replace(history, updates=np.ascontiguousarray(history.updates[:, :, :size]))
    honest = [row for row in range(history.n) if row not in history.byzantine]
    if len(honest) > 2 and len(history.byzantine) > 1:
        yield _without(history, {history.byzantine[-1], honest[-1]})
    if len(honest) > 2:
        yield _without(history, {honest[-1]})


def _without(history: History, rows: set[int]) -> History:
    kept = [row for row in range(history.n) if row not in rows]
    byzantine = tuple(kept.index(row) for row in history.byzantine if row in kept)
    fewer = history.f - (len(history.byzantine) - len(byzantine))
    return replace(history, updates=history.updates[:, kept], byzantine=byzantine, f=fewer)


def counterexample(rule: Rule, check: HistoryCheck, history: History) -> dict[str, Any]:
    """What a row keeps of the history: its last round, and the file that holds all of them."""
    output: object = None
    with contextlib.suppress(OutOfTime):
        try:
            output = None if rule.hung else told(rule, history)[-1]
        except Misbehaved as finding:
            output = str(finding)
    shown = {**facts(history.round(len(history) - 1), output), "rounds": len(history)}
    try:
        file = _save(rule, check, history)
    except OSError as error:
        return {**shown, "file": f"not saved: {error}"}
    return {**shown, "file": str(file)}


def _save(rule: Rule, check: HistoryCheck, history: History) -> Path:
    digest = hashlib.sha256(
        np.ascontiguousarray(history.updates).tobytes() + bytes(str((history.f, history.byzantine)), "utf8")
    )
    name = re.sub(r"[^\w.|()=-]+", "_", rule.subject.name).replace("|", "-")[:60]
    path = current.storage() / f"{name}-{check.name}-{digest.hexdigest()[:8]}.npz"
    history.save(path, check=check.name, subject=rule.subject.name)
    return path
