"""Accountants at the corners: every kind of false account is caught, and sound accountants are not."""

from __future__ import annotations

import pytest

import pytest_fl
from pytest_fl.adapters.parts import accountant

CORNERS = (
    "never_below_exact_costs", "not_far_above_exact_costs", "more_costs_more_everywhere", "nonsense_is_refused",
    "calibrates_in_every_cell",
)  # fmt: skip


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(name, marks=pytest.mark.xfail(strict=name != "more_costs_more_everywhere", reason="P7: one grid for all"))
        for name in CORNERS
    ],
)
def test_our_accountant_holds_at_the_corners(check):
    report = pytest_fl.verify(accountant(), checks=[check])
    assert report.passed, str(report)
