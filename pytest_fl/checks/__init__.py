"""A check is a function from a rule and a round to a bound; registering it is all that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, overload

from fl_impl.common.registry import Registry

if TYPE_CHECKING:
    from pytest_fl.subjects.guard import Rule
    from pytest_fl.subjects.profiles import Profile
    from pytest_fl.subjects.round import Round
    from pytest_fl.subjects.subject import Subject


@dataclass(frozen=True)
class Bound:
    """A value and the limit that it must not exceed. `reason` is the sentence of a failure, where numbers do not say it."""

    value: float
    limit: float
    reason: str = ""

    @property
    def holds(self) -> bool:
        """value <= limit; a NaN on either side does not hold."""
        return self.value <= self.limit


def verdict(reason: str) -> Bound:
    """A yes-or-no finding as a bound: it holds where there is no reason against."""
    return Bound(float(bool(reason)), 0.0, reason)


Judge = Callable[["Rule", "Round"], Bound | None]
"""(rule, round) -> the bound, or None where the claim says nothing of this round."""
Rounds = Callable[["Rule", "Profile"], Iterable["Round"]]


@dataclass(frozen=True)
class Check:
    """A claim about a rule, and the rounds on which it is tried."""

    name: str
    claim: str
    """The first line of the judge's docstring."""
    judge: Judge
    rounds: Rounds
    needs: Callable[[Subject], str]
    """Why the subject does not claim this; empty where it does."""
    search: str = ""
    """What looks for worse rounds after the corpus: "" or the name of a Hypothesis strategy of `inputs.strategies`."""
    adversary: bool = False
    """Whether `pytest_fl.inputs.adversary` looks for a worst case too, and its coefficient is reported."""
    gate: bool = False
    """Whether nothing else is worth trying where this fails."""


CHECKS: Final[Registry[Check]] = Registry("the name of a check", package="pytest_fl.checks", group="pytest_fl.checks")
"""All checks by name, in the order in which they run."""


def everybody(subject: Subject) -> str:
    """Nobody may break it."""
    del subject
    return ""


@overload
def check(judge: Judge, /) -> Judge: ...
@overload
def check(
    *,
    rounds: Rounds | None = None,
    needs: Callable[[Subject], str] = ...,
    search: str = "",
    adversary: bool = False,
    gate: bool = False,
) -> Callable[[Judge], Judge]: ...
def check(
    judge: Judge | None = None,
    *,
    rounds: Rounds | None = None,
    needs: Callable[[Subject], str] = everybody,
    search: str = "",
    adversary: bool = False,
    gate: bool = False,
) -> Callable[[Judge], Judge] | Judge:
    """Register `judge(rule, round) -> Bound | None` as a check of that name, tried on every rule from now on.

    The first line of its docstring is the claim. `rounds(rule, profile)` gives the rounds (the general corpus where not
    given), `needs(subject)` a reason why the claim does not apply. Raises ValueError for a name that is taken, or a judge
    with no docstring.
    """

    def register(judge: Judge) -> Judge:
        name = judge.__name__
        claim = (inspect.getdoc(judge) or "").split("\n")[0]
        if not claim:
            raise ValueError(f"check {name!r} needs a docstring: its first line is the claim that a failure prints")
        CHECKS.enter(name, Check(name, claim, judge, rounds or _general, needs, search, adversary, gate), judge)
        return judge

    return register if judge is None else register(judge)


def _general(rule: Rule, profile: Profile) -> Iterator[Round]:
    from pytest_fl.inputs import corpus  # noqa: PLC0415  # the corpus is not needed to register a check

    yield from corpus.clouds_and_colluders(rule, profile)


def all_checks() -> Mapping[str, Check]:
    """Every check of rules by name, those of other distributions included, in the order in which they run."""
    return CHECKS
