"""The rounds of a check tried on a rule: those stored, the corpus, the adversary, then Hypothesis; the worst is kept."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path

from pytest_fl.checks import Bound, Check
from pytest_fl.engine.rows import Finding, closeness
from pytest_fl.engine.shrink import shrink
from pytest_fl.inputs.adversary import WorstCase, hunt
from pytest_fl.inputs.precision import in_its_precision
from pytest_fl.inputs.strategies import SEARCHES
from pytest_fl.reporting import current
from pytest_fl.subjects.grid import grid
from pytest_fl.subjects.guard import Misbehaved, OutOfTime, Rule
from pytest_fl.subjects.profiles import Profile
from pytest_fl.subjects.round import Round


def judge(rule: Rule, check: Check, round_: Round) -> Bound | None:
    """The bound of one round; a rule that does anything but return a vector is infinitely far from its limit."""
    rule.begins(round_)
    try:
        return check.judge(rule, round_)
    except Misbehaved as finding:
        return Bound(float("inf"), 0.0, str(finding))


def search(rule: Rule, check: Check, profile: Profile) -> Finding:
    """The corpus, then the adversary, then Hypothesis, until something does not hold."""
    try:
        worst = _corpus(rule, check, profile)
        slow = bool(worst.note)
        if check.adversary and worst.bound.holds and not slow:
            with contextlib.suppress(OutOfTime):
                worst = _attacked(rule, check, profile, worst)
    except Misbehaved as finding:  # not even an ordinary round is taken
        return Finding(Bound(float("inf"), 0.0, str(finding)), None, 0)
    except OutOfTime:
        return Finding(Bound(0.0, 0.0), None, 0, "not run: its first round takes longer than all the time for this check")
    if check.search and worst.bound.holds and not slow:
        worst = _fuzz(rule, check, profile, worst)
    return worst if worst.note or not worst.bound.holds else replace(worst, note=_note(rule, check))


def _note(rule: Rule, check: Check) -> str:
    """What was left out of the rounds; on the gate's row also what the rule refuses though its claims admit it."""
    found = grid(rule)
    if not check.gate:
        return found.note
    notes = [f"tried at {found.tried}", found.note]
    if found.refused and rule.subject.rule is not None:
        pair = next(iter(found.refused))
        notes.append(f"it refuses {len(found.refused)} pairs (n, f) that its claims admit, such as {pair}: state min_clients=")
    return "; ".join(filter(None, notes))


def _corpus(rule: Rule, check: Check, profile: Profile) -> Finding:
    worst = Finding(Bound(0.0, 0.0), None, 0)
    for round_ in _rounds(rule, check, profile):
        try:
            bound = judge(rule, check, round_)
        except OutOfTime:
            if not worst.tried:
                raise
            return replace(worst, note=_stopped(worst))
        if bound is None:
            if rule.late and not check.gate:
                return replace(worst, note=_stopped(worst))
            continue
        tried = worst.tried + 1
        if worst.round is None or closeness(bound) > closeness(worst.bound):
            worst = Finding(bound, round_, tried)
        worst = replace(worst, tried=tried)
        if not bound.holds:
            return _shrunk(rule, check, worst)
        if rule.late and not check.gate:
            return replace(worst, note=_stopped(worst))
    return worst


def _stopped(worst: Finding) -> str:
    return f"stopped after {worst.tried} rounds: a call of this rule is slow"


def _attacked(rule: Rule, check: Check, profile: Profile, worst: Finding) -> Finding:
    """The adversary's worst case at one (n, f), judged as any round; its coefficient is reported, claimed or not."""
    pairs = [(n, f) for n, f in grid(rule).small if n <= 9]
    if not pairs:
        return worst
    n, f = (7, 2) if (7, 2) in pairs else pairs[-1]
    case = _worst_case(rule, n, f, profile)
    measured = {"n": n, "f": f, "coefficient": case.ratio, "lower_bound": case.lower_bound}
    if case.kappa is not None:
        measured["kappa"] = case.kappa
    round_ = in_its_precision(rule, Round(case.updates, f, case.byzantine, "the worst case that the adversary found"))
    bound = judge(rule, check, round_)
    worst = replace(worst, measured=measured, tried=worst.tried + case.evaluations)
    if bound is None or closeness(bound) <= closeness(worst.bound):
        return worst
    worst = replace(worst, bound=bound, round=round_)
    return worst if bound.holds else _shrunk(rule, check, worst)


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
            with contextlib.suppress(OSError):  # gone in the meantime
                found = path.stat()
                subject, wanted = _saved_for(path, found.st_mtime_ns, found.st_size)
                mine = subject == rule.subject.name or folder.name == "rounds"
                if mine and wanted == check.name:
                    round_, _ = Round.load(path)
                    if rule.takes(round_.n, round_.f):
                        yield round_


@lru_cache(maxsize=4096)
def _saved_for(path: Path, changed: int, size: int) -> tuple[str, str]:
    """The subject and the check of a file, read once as long as it does not change; empty where it is none of ours."""
    del changed, size
    try:
        _, known = Round.load(path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return "", ""  # not ours, or half written by a run that was killed
    return known.get("subject", ""), known.get("check", "")


def _shrunk(rule: Rule, check: Check, worst: Finding) -> Finding:
    if rule.hung or worst.round is None:
        return worst
    kind = _kind(worst.bound)

    def still_fails(round_: Round) -> bool:
        bound = judge(rule, check, round_)
        return bound is not None and not bound.holds and _kind(bound) == kind

    try:
        small = shrink(worst.round, still_fails, rule.takes)
        bound = judge(rule, check, small)
    except OutOfTime:
        return worst
    if bound is None or bound.holds:  # the rule changes its mind: show what was seen first
        return worst
    return replace(worst, bound=bound, round=small)


def _kind(bound: Bound) -> str:
    """What sort of failure it is: an exception of this type, a result of this shape, or a value. Shrinking keeps to it."""
    return " ".join(bound.reason.split(":")[0].split()[:2]) if bound.reason.startswith(("raised", "returned")) else "value"


def _fuzz(rule: Rule, check: Check, profile: Profile, worst: Finding) -> Finding:
    """What Hypothesis finds, shrunk by it; the same as before where it finds nothing."""
    from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: PLC0415  # 0.2 s, only where it is used

    pairs = tuple(pair for pair in grid(rule).small if pair[0] <= 8)
    if not pairs:
        return worst
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
    def look(round_: Round) -> None:
        nonlocal tried
        tried += 1
        round_ = in_its_precision(rule, round_)
        bound = judge(rule, check, round_)
        if bound is not None and not bound.holds:
            failing.append((bound, round_))
            raise _Violation

    with contextlib.suppress(Exception):  # our Violation; or Hypothesis's Flaky, where the rule changes its mind
        look()
    worst = replace(worst, tried=worst.tried + tried)
    return replace(worst, bound=failing[-1][0], round=failing[-1][1]) if failing else worst


class _Violation(Exception):  # noqa: N818  # tells Hypothesis to shrink
    pass
