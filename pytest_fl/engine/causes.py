"""What kind of failure it is, and its cause: found by asking the rule again on rounds that differ in one thing.

A *defect* happens at values that a training run meets. A *range* fault is gone once the same round has ordinary sizes, or is
one of the arithmetic alone: float64 answered in float32, float16 that overflows. *By contract*: nothing is wrong with the
answer, as where a rule prints. A rule that states its own limits, as ours do, is held to all of them: a defect.
"""

from __future__ import annotations

import math
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pytest_fl.engine.identities import identity
from pytest_fl.inputs.precision import off_the_line
from pytest_fl.oracles.variants import variants
from pytest_fl.subjects.guard import Misbehaved, OutOfTime, Rule
from pytest_fl.subjects.round import Round
from pytest_fl.subjects.subject import Subject

if TYPE_CHECKING:
    import numpy.typing as npt

    from pytest_fl.checks import Bound, Check
    from pytest_fl.reporting.results import Kind
    from pytest_fl.subjects.round import Updates

LARGEST: Final = 1e6
SMALLEST: Final = 1e-6
"""Sizes of honest updates that a training run meets, and how many times as large an outlier is that is an ordinary one."""
NEAR: Final = 1e-4
"""Of the largest entry: a definition that is missed by less than this is still the one that is meant."""
SECONDS: Final = 2.0
"""What looking for a cause may take."""
SCALES: Final = (2.0**7, 2.0**-7)
SAYS_NOTHING: Final = re.compile(r"NaN or infinity|returned (NaN|infinity)")
RAISED: Final = re.compile(r"raised (\w+)")
LINE: Final = re.compile(r"\(([^()]*, line \d+, in [^:]*)")


@dataclass(frozen=True)
class Cause:
    """Why a check fails, in a few words that all failures of the same cause share, and what kind of failure it is."""

    kind: Kind
    text: str = ""
    """Empty where nothing was seen that another check could share."""


def diagnosed(rule: Rule, check: Check, bound: Bound, round_: Round | None) -> Cause:
    """The cause of this failure; calls the rule a few more times, unless it hangs."""
    if round_ is None or rule.hung or "did not return" in bound.reason:
        return Cause("defect", _said(bound.reason))
    rule.deadline, rule.stop = math.inf, max(rule.stop, time.monotonic() + SECONDS)
    try:
        kind = _kind(rule, check, bound, round_)
        text = _said(bound.reason) or _by_check(rule, check, bound.reason, round_) or _seen(rule, check, round_, kind)
        if text.startswith("comes only near"):  # a tolerance that does not scale
            kind = "range"
    except (Misbehaved, OutOfTime):
        return Cause("defect", _said(bound.reason))
    return Cause(kind, text)


def _kind(rule: Rule, check: Check, bound: Bound, round_: Round) -> Kind:
    if rule.subject.strict_dtype:
        return "defect"
    if check.name == "leaves_no_trace":
        return "by contract" if bound.reason.startswith("printed ") and ", changed " not in bound.reason else "defect"
    return "range" if _out_of_range(rule, check, bound.reason, round_) else "defect"


def _out_of_range(rule: Rule, check: Check, reason: str, round_: Round) -> bool:
    """Whether it is the arithmetic's alone, or gone at ordinary sizes."""
    if check.name == "keeps_dtype":
        return "float" in reason and "raised" not in reason
    if check.name == "scale":
        return all(_scales(rule, round_, factor) for factor in SCALES)
    if check.name == "any_form" and "float16" in reason:
        return True
    usual = ordinary(round_)
    return usual is not round_ and check.name != "non_finite" and _holds(rule, check, usual)


def ordinary(round_: Round) -> Round:
    """The round with honest updates and outliers of the sizes that a training run meets; itself where it has them."""
    x = round_.updates.astype(np.float64)
    with np.errstate(all="ignore"):
        size = float(np.abs(round_.honest.astype(np.float64)).max(initial=0.0))
        others = np.abs(x[np.isfinite(x)])
        reference = size or float(others.max(initial=0.0))
        fits = SMALLEST <= reference <= LARGEST
        scale = 1.0 if fits or not reference or not math.isfinite(reference) else 2.0 ** math.floor(math.log2(reference))
        largest = LARGEST * max(reference / scale, 1.0)
        y = np.where(np.isfinite(x), np.clip(x / scale, -largest, largest), x)
        small = (np.abs(y) < SMALLEST**2 * min(reference / scale, 1.0)) & (y != 0)
        y = np.where(small, 0.0, y)
    if scale == 1.0 and np.array_equal(y, x, equal_nan=True):
        return round_
    return round_.with_updates(y.astype(round_.updates.dtype))


def _holds(rule: Rule, check: Check, round_: Round) -> bool:
    try:
        bound = check.judge(rule, round_)
    except Misbehaved:
        return False
    return bound is not None and bound.holds


def _scales(rule: Rule, round_: Round, factor: float) -> bool:
    moved = rule((round_.updates * factor).astype(round_.updates.dtype), round_.f) / factor
    return bool(np.allclose(moved, rule(round_.updates, round_.f), rtol=1e-5, atol=1e-6 * float(np.ptp(round_.updates))))


def _said(reason: str) -> str:
    """What its own reason says: an exception and its line, how the process ended, that no number came out."""
    if raised := RAISED.match(reason):
        line = LINE.search(reason)
        return f"raises {raised[1]} ({line[1]})" if line else reason[:120]
    for words in ("did not return", "ended the process", "closed ", "forked"):
        if reason.startswith(words):
            return reason.partition(" at n=")[0].partition(";")[0]
    return "not a number came out" if SAYS_NOTHING.search(reason) else ""


def _by_check(rule: Rule, check: Check, reason: str, round_: Round) -> str:
    if check.name == "keeps_dtype":
        return "computes in float32" if "float32" in reason else reason
    if reason.startswith("returned "):
        alone = round_.d == 1 and _holds(rule, check, off_the_line(round_))
        return ("at d = 1 alone it " * alone + reason.partition(";")[0])[:80]
    if check.name in {"same_answer_twice", "keeps_no_state", "answers_as_when_new"}:
        return "the answer depends on more than the updates"
    return ""


def _seen(rule: Rule, check: Check, round_: Round, kind: Kind) -> str:
    """What the answer shows: a cause is one without which the same check holds, or what the answer is equal to."""
    if check.rounds.__module__ == "pytest_fl.checks.contract":
        return ""
    if kind == "range":
        return "leaves the range of its arithmetic"
    if _truncated(rule, check, round_):
        return "f truncated: int(f / n * n) is f - 1"
    if _cancels(rule, check, round_):
        return "distances cancel far from the origin"
    return _of_the_answer(rule, check, round_)


def _of_the_answer(rule: Rule, check: Check, round_: Round) -> str:
    answer = rule(round_.updates, round_.f)
    if mistake := _mistake(rule, check, round_, answer):
        return mistake
    if round_.d == 1 and _holds(rule, check, off_the_line(round_)):
        return "at d = 1 alone"
    if _chosen(round_, answer):
        return "the attackers' row was chosen"
    return "the attackers move the result" if round_.byzantine else ""


def _truncated(rule: Rule, check: Check, round_: Round) -> bool:
    n, f = round_.n, round_.f
    if not f or int(f / n * n) == f or not len(round_.honest):
        return False
    more = np.vstack([round_.updates, round_.honest[-1:]])
    return int(f / (n + 1) * (n + 1)) == f and _holds(rule, check, replace(round_, updates=more))


def _cancels(rule: Rule, check: Check, round_: Round) -> bool:
    """Whether it holds around the origin, by whole steps that no rounding enters."""
    honest = round_.honest.astype(np.float64)
    spread = float(np.abs(round_.updates.astype(np.float64) - honest[0]).max()) if len(honest) else 0.0
    far = len(honest) > 1 and float(np.abs(honest[0]).max()) >= 100 * spread
    if not far or _holds(rule, check, round_.with_updates(round_.updates * round_.updates.dtype.type(2.0**-20))):
        return False  # what clips or stops at a size of its own holds where all is smaller; a cancellation does not
    moved = (round_.updates.astype(np.float64) - honest[0]).astype(round_.updates.dtype)
    return _holds(rule, check, round_.with_updates(moved))


def _mistake(rule: Rule, check: Check, round_: Round, answer: Updates) -> str:
    """The rule that it is seen to be, where the definition of that one fails here too, or holds and is missed by little."""
    answers = _defined(rule, round_)
    if not len(answers):
        return ""
    errors = np.abs(answers - answer).max(1)
    nearest, size = answers[int(errors.argmin())], float(np.abs(round_.updates).max())
    if float(errors.min()) > NEAR * size:
        return ""
    name, exact = identity(rule).name, Subject("its definition", lambda _updates, _f: nearest)
    return f"comes only near {name}" if _holds(Rule(exact), check, round_) else f"it is {name}"


def _defined(rule: Rule, round_: Round) -> npt.NDArray[np.float64]:
    """What the definition of the rule that it is seen to be gives for this round; nothing where it is none."""
    seen = identity(rule)
    if seen.known and np.isfinite(round_.updates).all():
        with suppress(IndexError, ValueError):
            define = next(variant for variant in variants() if variant.name == seen.name)
            return define.answers(round_.updates.astype(np.float64), round_.f)
    return np.empty((0, round_.d))


def _chosen(round_: Round, answer: Any) -> bool:
    x = round_.updates.astype(np.float64)
    equal = [row for row in range(round_.n) if np.allclose(x[row], answer, rtol=1e-6, atol=0)]
    return bool(equal) and set(equal) <= set(round_.byzantine)
