"""`conformance`: a test for every (subject, check) pair, from one decorator."""

from __future__ import annotations

import atexit
import inspect
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Unpack

import pytest

from pytest_fl.adapters.options import Options
from pytest_fl.checks import Check
from pytest_fl.checks.histories import HistoryCheck
from pytest_fl.checks.parts import Audit
from pytest_fl.engine.isolation import Examiner, Isolation, examiner
from pytest_fl.engine.targets import Target, distinct, target
from pytest_fl.reporting import current
from pytest_fl.reporting.failures import CheckFailed
from pytest_fl.reporting.results import Row
from pytest_fl.subjects.profiles import Profile, profile_named


def conformance(
    *things: object,
    expected_failures: Mapping[str, str] | None = None,
    checks: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    ids: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> pytest.MarkDecorator:
    """Parametrise `def test_byzantine_mine(check): check()` over every check of each aggregator, or of each other part.

    `things`: whatever `pytest_fl.adapters.as_subject` takes, or `as_part`: a mechanism, an accountant, a compressor, a
    secure sum, a LoRA merge. `min_clients`: f -> the smallest n (2f + 1 where not given). `kappa`: (n, f) -> the robustness
    coefficient that is claimed; without it the rule must still be exact where the honest agree, and bounded. `symmetries`:
    names of `fl_impl.aggregators.base.SYMMETRIES`. `claims="krum"`: it is that rule, with its constants.
    `form`, `result`, `root`, `f`: how it is called, where that is not found by trying (`pytest_fl.adapters.options`).
    `expected_failures`: name of a check -> why it is known to fail. `checks`: only these; `skip`: all but these.
    `ids`: a name for each thing; where none are given and two have one name, their modules or their settings tell them apart.

    Raises ValueError for nothing to judge, for what is neither, and for the name of a check that does not exist.
    """
    if not things:
        raise ValueError("conformance needs at least one thing to judge: @pytest_fl.conformance(my_rule)")
    if len(things) == 1 and _is_the_test(things[0]):
        raise ValueError("expected what is judged in brackets, @pytest_fl.conformance(my_rule), got the test itself")
    targets = distinct([target(thing, **options) for thing in things], ids)
    known = dict(expected_failures or {})
    pairs = [(judged, check) for judged in targets for check in judged.checks(checks, skip)]
    _refuse_unknown(known, {check.name for _, check in pairs})
    return pytest.mark.parametrize("check", [_parameter(judged, check, known.get(check.name)) for judged, check in pairs])


def _is_the_test(thing: object) -> bool:
    return inspect.isfunction(thing) and thing.__name__.startswith("test") and "check" in inspect.signature(thing).parameters


audit = conformance
"""The name that `conformance` has where parts other than aggregators are judged."""


def _refuse_unknown(names: Iterable[str], known: Iterable[str]) -> None:
    from fl_impl.common.specs import lookup  # noqa: PLC0415  # fl_impl is loaded when a check is chosen

    for name in names:
        lookup(name, dict.fromkeys(known), "the name of a check")


def _parameter(judged: Target, check: Check | Audit | HistoryCheck, expected: str | None) -> object:
    marks = (pytest.mark.fl, pytest.mark.byzantine) if judged.part is None else (pytest.mark.fl,)
    return pytest.param(Case(judged, check, expected), id=f"{judged.name}-{check.name}", marks=marks)


@dataclass(frozen=True, eq=False)
class Case:
    """One check of one subject; calling it runs it, and fails, skips or expects as pytest understands."""

    target: Target
    check: Check | Audit | HistoryCheck
    expected: str | None = None

    def __call__(self) -> Row:
        """Run the check under the profile and seed of the command line; leave the row with the running test.

        Raises CheckFailed with the counterexample; skips where the claim is not made or cannot be looked at, xfails where
        failure is expected.
        """
        __tracebackhide__ = True  # a failure shows the user's test and the counterexample, not this function
        running = current.item.get()
        profile = profile_named(running.profile if running else "default")
        profile = replace(profile, seed=running.seed if running else 0)
        row = _examiner(self.target, profile, running.isolation if running else "process").examine(self.check, self.expected)
        if running:
            running.record(row.to_json())
        if row.outcome == "failed":
            raise CheckFailed(row)
        if row.outcome == "not_claimed":
            pytest.skip(f"not claimed: {row.reason}")
        if row.outcome == "not_run":
            pytest.skip(row.reason)
        if row.outcome == "expected_failure":
            pytest.xfail(row.reason)
        return row

    def __repr__(self) -> str:
        return f"<{self.target.name} {self.check.name}>"


WARM: Final = 4
"""Subjects whose children are kept while others are judged."""
_warm: OrderedDict[tuple[Target, Profile, Isolation], Examiner] = OrderedDict()


def _examiner(judged: Target, profile: Profile, isolation: Isolation) -> Examiner:
    """One examiner for all checks of a subject, so that what is found out about it once is found out once."""
    key = judged, profile, isolation
    if key not in _warm:
        _warm[key] = examiner(judged, profile, isolation)
    _warm.move_to_end(key)
    for cold in list(_warm.values())[:-WARM]:
        cold.close()
    return _warm[key]


@atexit.register
def close_all() -> None:
    """End the children of all subjects; they are started again where they are needed again."""
    for one in _warm.values():
        one.close()
