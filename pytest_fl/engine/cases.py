"""`conformance`: a test for every (aggregator, check) pair, from one decorator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import pytest

from pytest_fl.adapters import as_subject
from pytest_fl.checks import Check
from pytest_fl.engine.runner import chosen_checks, run_check
from pytest_fl.reporting import current
from pytest_fl.reporting.failures import CheckFailed
from pytest_fl.reporting.results import Row
from pytest_fl.subjects.guard import Rule
from pytest_fl.subjects.profiles import profile_named
from pytest_fl.subjects.subject import Subject


def conformance(
    *aggregators: object,
    min_clients: Callable[[int], int] | None = None,
    kappa: Callable[[int, int], float] | None = None,
    symmetries: Iterable[str] | None = None,
    claims: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> pytest.MarkDecorator:
    """Parametrise `def test_byzantine_mine(check): check()` over every check of each aggregator.

    `aggregators`: whatever `pytest_fl.adapters.as_subject` takes. `min_clients`: f -> the smallest n (2f + 1 where not
    given). `kappa`: (n, f) -> the robustness coefficient that is claimed; without it the rule must still be exact where
    the honest agree, and bounded. `symmetries`: names of `fl_impl.aggregators.base.SYMMETRIES`. `claims="krum"`: it is
    that rule, with its constants. `expected_failures`: name of a check -> why it is known to fail.

    Raises ValueError for no aggregator, for one that cannot be called, and for the name of a check that does not exist.
    """
    if not aggregators:
        raise ValueError("conformance needs at least one aggregator: @pytest_fl.conformance(my_rule)")
    known = dict(expected_failures or {})
    chosen_checks(known)
    cases = []
    for aggregator in aggregators:
        subject = as_subject(aggregator, min_clients=min_clients, kappa=kappa, symmetries=symmetries, claims=claims)
        for check in chosen_checks():
            case = Case(subject, check, known.get(check.name))
            cases.append(pytest.param(case, id=f"{subject.name}-{check.name}", marks=(pytest.mark.fl, pytest.mark.byzantine)))
    return pytest.mark.parametrize("check", cases)


@dataclass(frozen=True, eq=False)
class Case:
    """One check of one aggregator; calling it runs it, and fails, skips or expects as pytest understands."""

    subject: Subject
    check: Check
    expected: str | None = None

    def __call__(self) -> Row:
        """Run the check under the profile and seed of the command line; leave the row with the running test.

        Raises CheckFailed with the counterexample; skips where the claim is not made, xfails where failure is expected.
        """
        __tracebackhide__ = True  # a failure shows the user's test and the counterexample, not this function
        running = current.item.get()
        profile = profile_named(running.profile if running else "default")
        profile = replace(profile, seed=running.seed if running else 0)
        expected = {} if self.expected is None else {self.check.name: self.expected}
        row = run_check(_rule(self.subject, profile.call_seconds), self.check, profile, expected)
        if running:
            running.record(row.to_json())
        if row.outcome == "failed":
            raise CheckFailed(row)
        if row.outcome == "not_claimed":
            pytest.skip(f"not claimed: {row.reason}")
        if row.outcome == "expected_failure":
            pytest.xfail(row.reason)
        return row

    def __repr__(self) -> str:
        return f"<{self.subject.name} {self.check.name}>"


@lru_cache(maxsize=256)
def _rule(subject: Subject, call_seconds: float) -> Rule:
    """One guarded rule for all checks of a subject, so that what is found out about it once is found out once."""
    return Rule(subject, call_seconds)
