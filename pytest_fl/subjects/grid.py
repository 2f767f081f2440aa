"""Which (n, f) a rule is tried at: n even and odd, f at 1 and at its maximum, as far as the rule admits and can afford."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from pytest_fl.subjects.guard import Hung, Misbehaved
from pytest_fl.subjects.round import Round

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_fl.subjects.guard import Rule
    from pytest_fl.subjects.subject import Subject

SMALL: Final = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
LARGE: Final = (15, 16, 20, 25, 26, 31, 40)
TRUNCATED: Final = ((49, 1), (47, 3), (55, 7), (49, 8), (45, 13), (47, 12), (100, 29))
"""(n, f) at which int(f / n * n) or int(0.29 * n) is f - 1 in float arithmetic."""
MOST: Final = 1000
"""Clients beyond which a rule that needs as many is not tried."""
EXPLORING: Final = 5.0
"""Seconds after which no further (n, f) is tried, once ENOUGH are known."""
ENOUGH: Final = 4
SLOW: Final = 0.05
"""Seconds for one call beyond which a larger (n, f) of a combinatorial rule is left out."""


@dataclass(frozen=True)
class Grid:
    """The admissible (n, f) with f >= 1, small n first, and what was left out and why."""

    small: tuple[tuple[int, int], ...]
    large: tuple[tuple[int, int], ...]
    truncated: tuple[tuple[int, int], ...]
    note: str = ""
    broken: tuple[tuple[int, int], ...] = ()
    """(n, f) that the rule raises at though it takes a smaller n with the same f: no refusal, a failure."""
    refused: Mapping[tuple[int, int], str] = field(default_factory=lambda: dict[tuple[int, int], str]())
    """(n, f) that it refuses, and what it said."""

    @property
    def tried(self) -> str:
        """Which (n, f) are tried, in words."""
        pairs = (*self.small, *self.large, *self.truncated)
        if not pairs:
            return "no (n, f)"
        ns, fs = [n for n, _ in pairs], [f for _, f in pairs]
        return f"{len(pairs)} pairs (n, f), n from {min(ns)} to {max(ns)}, f from {min(fs)} to {max(fs)}"


def grid(rule: Rule) -> Grid:
    """The grid of a rule, found once by calling it on one ordinary round at each (n, f).

    Where nobody said how many clients the rule needs, a ValueError (or AssertionError) on an ordinary round means that it
    refuses this (n, f), if it takes no smaller n with that f: a bulyan with n = 5 is right to. Refusing all is a failure.
    """
    if "grid" not in rule.cache:
        rule.cache["grid"] = _explore(rule)
    return rule.cache["grid"]


def _explore(rule: Rule) -> Grid:
    admissible: list[tuple[int, int]] = []
    refused: dict[tuple[int, int], str] = {}
    cost, until = _Cost(), time.monotonic() + EXPLORING
    candidates = chain(_pairs(rule.subject, SMALL), _pairs(rule.subject, LARGE), TRUNCATED, _beyond(rule.subject))
    for n, f in dict.fromkeys(candidates):
        if time.monotonic() > until and not 0 < len(admissible) < ENOUGH:
            cost.late = True
            break
        if not (rule.subject.takes(n, f) and cost.affordable(n, f)):
            continue
        try:
            if _taken(rule, n, f, cost):
                admissible.append((n, f))
        except _Refused as refusal:
            refused[n, f] = str(refusal)
    return _grid(rule, admissible, refused, cost)


def _grid(rule: Rule, admissible: list[tuple[int, int]], refused: dict[tuple[int, int], str], cost: _Cost) -> Grid:
    """A refusal is one where no smaller n was taken with that f; elsewhere the rule fails there, and is called again."""
    smallest = {f: min(n for n, known in admissible if known == f) for _, f in admissible}
    broken = tuple(pair for pair in refused if pair[0] > smallest.get(pair[1], math.inf))
    rule.least.update({f: n for f, n in smallest.items() if any(known == f and m < n for m, known in refused)})
    kept = [pair for pair in admissible if pair not in TRUNCATED]
    beyond = tuple(pair for pair in kept if pair[0] > max(LARGE))
    return Grid(
        tuple(pair for pair in kept if pair[0] <= max(SMALL)) or beyond,
        tuple(pair for pair in kept if pair[0] > max(SMALL)),
        tuple(pair for pair in TRUNCATED if pair in admissible),
        cost.note(kept),
        broken,
        {pair: reason for pair, reason in refused.items() if pair not in broken},
    )


class _Refused(Exception):  # noqa: N818  # it is the rule's good right
    pass


def _taken(rule: Rule, n: int, f: int, cost: _Cost) -> bool:
    """Whether the rule takes (n, f), in a time that is worth spending again; the time is recorded."""
    started = time.process_time()
    try:
        _admits(rule, n, f)
    except Hung:
        if not cost.foreseen(n, f):
            raise
        rule.hung = False
        cost.record(n, f, rule.call_seconds)
        return False
    seconds = time.process_time() - started
    if cost.surprising(seconds):  # a first call that loads things, or a busy machine
        started = time.process_time()
        _admits(rule, n, f)
        seconds = min(seconds, time.process_time() - started)
    cost.record(n, f, seconds)
    return not cost.hopeless(seconds)


def _pairs(subject: Subject, ns: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    if subject.fixed_f is not None:
        yield from ((n, subject.fixed_f) for n in ns if n > 2 * subject.fixed_f and subject.fixed_f > 0)
        return
    for n in ns:
        fs = [f for f in range(1, (n - 1) // 2 + 1) if subject.takes(n, f)]
        yield from ((n, f) for f in sorted({1, fs[len(fs) // 2], fs[-1]} if fs else ()))


def _beyond(subject: Subject) -> Iterator[tuple[int, int]]:
    """For a rule that needs more clients than all of those: the fewest that it takes, and a few more."""
    if subject.fixed_f is None and max(LARGE) < (fewest := subject.min_clients(1)) < MOST:
        yield from _pairs(subject, (fewest, fewest + 1, fewest + 6))


def _admits(rule: Rule, n: int, f: int) -> None:
    """Call it on ordinary updates. Raises _Refused where it raises what may be a refusal, Hung where it does not return."""
    updates = np.random.default_rng([n, f]).standard_normal((n, 2))
    rule.begins(Round(updates, f, (), "normal updates, to see whether it takes this (n, f)"))
    try:
        rule(updates, f)
    except Hung:
        raise
    except Misbehaved as finding:
        if rule.may_refuse and isinstance(finding.__cause__, ValueError | AssertionError):
            raise _Refused(str(finding)) from finding


class _Cost:
    """Tells a combinatorial rule (time grows with the number of f-subsets) from a slow one."""

    def __init__(self) -> None:
        self.measured: list[tuple[int, float]] = []
        self.left_out = self.late = False

    def note(self, kept: Sequence[tuple[int, int]]) -> str:
        """What was left out and why, of pairs of which these were kept."""
        if self.late:
            return f"only {len(kept)} pairs (n, f) were tried, up to n={max((n for n, _ in kept), default=0)}: a call is slow"
        most = max((math.comb(n, f) for n, f in kept), default=0)
        return f"only (n, f) with up to {most} subsets of f: a call takes over {SLOW:g} s beyond" if self.left_out else ""

    def record(self, n: int, f: int, seconds: float) -> None:
        self.measured.append((math.comb(n, f), seconds))

    def surprising(self, seconds: float) -> bool:
        """Whether a time is so much above the others that it is worth a second look."""
        return seconds > 0.01 and seconds > 3 * min((time for _, time in self.measured), default=0.0)

    def hopeless(self, seconds: float) -> bool:
        """Whether a call took so long that neither this number of subsets nor a larger one is worth another."""
        return seconds > 10 * SLOW and seconds > 10 * min(time for _, time in self.measured)

    def foreseen(self, n: int, f: int) -> bool:
        """Whether it is no wonder that a call did not return: in proportion to the subsets it would take long."""
        most, seconds = max(self.measured, default=(1, 0.0))
        return seconds * math.comb(n, f) / most > 2 * SLOW

    def affordable(self, n: int, f: int) -> bool:
        """Whether a call is expected to take less than SLOW, where time grows with the root of the subsets or faster."""
        if not self.measured:
            return True
        subsets = math.comb(n, f)
        if any(self.hopeless(seconds) and known <= subsets for known, seconds in self.measured):
            self.left_out = True
            return False
        most, seconds = max(self.measured)
        fewest, fastest = min(self.measured, key=lambda measured: measured[1])
        growing = seconds > 0.01 and seconds > fastest * math.sqrt(most / fewest) and most > fewest
        too_slow = growing and seconds * subsets / most > SLOW
        self.left_out |= too_slow
        return not too_slow
