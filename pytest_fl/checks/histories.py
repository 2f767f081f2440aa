"""A check of a rule with memory: a claim, and the histories on which it is tried."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fl_impl.common.registry import Registry
from pytest_fl.checks import Bound, everybody

if TYPE_CHECKING:
    from pytest_fl.subjects.guard import Rule
    from pytest_fl.subjects.histories import History
    from pytest_fl.subjects.profiles import Profile
    from pytest_fl.subjects.subject import Subject

Judge = Callable[["Rule", "History"], Bound | None]
"""(rule, history) -> the worst bound of its rounds, or None where the claim says nothing of this history."""
Histories = Callable[["Rule", "Profile"], Iterable["History"]]


@dataclass(frozen=True)
class HistoryCheck:
    """A claim about a rule with memory."""

    name: str
    claim: str
    """The first line of the judge's docstring."""
    judge: Judge
    histories: Histories
    needs: Callable[[Subject], str]
    """Why the subject does not claim this; empty where it does."""
    search: bool = False
    """Whether Hypothesis looks for worse histories after the corpus."""
    gate: bool = False
    """Whether nothing else is worth trying where this fails."""


HISTORY_CHECKS: Final[Registry[HistoryCheck]] = Registry(
    "a check of rules with memory", package="pytest_fl.checks", group="pytest_fl.history_checks"
)
"""All of them by name, in the order in which they run."""


def over_rounds(
    *, histories: Histories, needs: Callable[[Subject], str] = everybody, search: bool = False, gate: bool = False
) -> Callable[[Judge], Judge]:
    """Register `judge(rule, history) -> Bound | None` as a check of every rule with memory from now on.

    The first line of its docstring is the claim. Raises ValueError for a judge without one, or a name that is taken.
    """

    def register(judge: Judge) -> Judge:
        name, claim = judge.__name__, (inspect.getdoc(judge) or "").split("\n")[0]
        if not claim:
            raise ValueError(f"check {name!r} needs a docstring: its first line is the claim that a failure prints")
        HISTORY_CHECKS.enter(name, HistoryCheck(name, claim, judge, histories, needs, search, gate), judge)
        return judge

    return register


def history_checks() -> Mapping[str, HistoryCheck]:
    """Every check of rules with memory by name, those of other distributions included."""
    return HISTORY_CHECKS
