"""`audit`: a test for every claim of a privacy mechanism, an accountant, a compressor or secure aggregation."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pytest

from pytest_fl.adapters.parts import as_part
from pytest_fl.checks import Bound
from pytest_fl.checks.parts import Audit, audits_of
from pytest_fl.reporting import current
from pytest_fl.reporting.failures import CheckFailed
from pytest_fl.reporting.report import Report
from pytest_fl.reporting.results import Row
from pytest_fl.subjects.guard import Misbehaved, within
from pytest_fl.subjects.parts import Part

SECONDS: Final = 60.0
"""After which one check of a part counts as hung."""


def audit_report(part: object, *, expected_failures: Mapping[str, str] | None = None, seed: int = 0) -> Report:
    """Run every check on a part, without pytest: `print(audit_report(my_codec))`."""
    subject, expected = as_part(part), expected_failures or {}
    return Report(tuple(run_audit(subject, audit, seed, expected.get(audit.name)) for audit in audits_of(subject)))


def audit(*parts: object, expected_failures: Mapping[str, str] | None = None) -> pytest.MarkDecorator:
    """Parametrise `def test_mine(check): check()` over every check of each part.

    `parts`: a `Mechanism`, `Accountant`, `Compressor` or `SecureAggregation` of `pytest_fl.subjects.parts`, or what `as_part`
    takes. Raises ValueError for none, and for the name of an expected failure that is no check of theirs.
    """
    subjects = [as_part(part) for part in parts]
    if not subjects:
        raise ValueError("audit needs at least one part: @pytest_fl.audit(my_codec)")
    known = dict(expected_failures or {})
    cases = [AuditCase(subject, check, known.get(check.name)) for subject in subjects for check in audits_of(subject)]
    _refuse_unknown(known, {case.check.name for case in cases})
    marked = [pytest.param(case, id=f"{case.part.name}-{case.check.name}", marks=pytest.mark.fl) for case in cases]
    return pytest.mark.parametrize("check", marked)


@dataclass(frozen=True, eq=False)
class AuditCase:
    """One check of one part; calling it runs it, and fails, skips or expects as pytest understands."""

    part: Part
    check: Audit
    expected: str | None = None

    def __call__(self) -> Row:
        """Run the check with the seed of the command line; leave the row with the running test."""
        __tracebackhide__ = True  # a failure shows the user's test and the claim, not this function
        running = current.item.get()
        row = run_audit(self.part, self.check, running.seed if running else 0, self.expected)
        if running:
            running.record(row.to_json())
        if row.outcome == "failed":
            raise CheckFailed(row)
        if row.outcome == "not_claimed":
            pytest.skip(f"not claimed: {row.reason}")
        if row.outcome == "expected_failure":
            pytest.xfail(row.reason)
        return row


def run_audit(part: Part, check: Audit, seed: int, expected: str | None = None) -> Row:
    """The row of one (part, check) pair: its worst bound."""
    started = time.perf_counter()
    reason = check.needs(part)
    if reason:
        return Row(part.name, check.name, check.claim, "not_claimed", reason=reason)
    bounds = _bounds(part, check, seed)
    worst = max(bounds, key=_closeness)
    row = Row(
        part.name,
        check.name,
        check.claim,
        "passed" if worst.holds else "failed",
        value=worst.value,
        limit=worst.limit,
        rounds=len(bounds),
        seconds=time.perf_counter() - started,
        reason="" if worst.holds else f"{worst.reason or 'beyond the limit'} (seed {seed})",
    )
    if expected is None:
        return row
    if row.outcome == "failed":
        return replace(row, outcome="expected_failure", reason=expected)
    return replace(row, outcome="failed", reason=f"passes, but was expected to fail ({expected}): remove the expectation")


def _bounds(part: Part, check: Audit, seed: int) -> list[Bound]:
    """All bounds of a check; one that nothing meets where the part raises, or does not come back."""
    rng = np.random.default_rng([seed, zlib.crc32(check.name.encode())])
    try:
        with np.errstate(all="ignore"):
            return within(SECONDS, lambda: list(check.judge(part, rng)))
    except Misbehaved as finding:
        return [Bound(math.inf, 0.0, str(finding))]
    except Exception as error:  # noqa: BLE001  # whatever foreign code raises is what was found
        return [Bound(math.inf, 0.0, f"raised {type(error).__name__}: {error}"[:400])]


def _closeness(bound: Bound) -> float:
    if not bound.holds:
        return math.inf
    return bound.value / bound.limit if bound.limit > 0 else 0.0


def _refuse_unknown(names: Iterable[str], known: Iterable[str]) -> None:
    from fl_impl.common.specs import nearest  # noqa: PLC0415  # fl_impl is loaded when a check is chosen

    for name in names:
        if name not in set(known):
            raise ValueError(f"expected the name of a check of these parts, got {name!r}{nearest(name, known)}")
