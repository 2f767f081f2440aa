"""Under coverage a rule is judged in a child as without it, and its lines are counted; under a debugger it stays here."""

import json
import sys

import pytest

from pytest_fl.engine import isolation, tracing

RULES = """
import os
import numpy as np

def median(updates):
    return np.median(np.asarray(updates), axis=0)

def leaves(updates, f):
    if len(updates) > 4:
        os._exit(0)
    return np.mean(updates, axis=0)

def never_called(updates):
    return updates[0]
"""
TESTS = """
import pytest_fl
import rules

@pytest_fl.conformance(rules.median, rules.leaves, profile="quick", checks=["exactness"])
def test_rules(check):
    check()
"""


def test_a_rule_that_ends_its_process_is_failed_under_coverage_and_the_lines_of_rules_are_counted(pytester):
    pytest.importorskip("pytest_cov")
    pytester.makepyfile(rules=RULES, test_rules=TESTS)
    result = pytester.runpytest_subprocess("--cov=rules", "--cov-report=json:cov.json", "-q")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (1, 1)
    lines = json.loads((pytester.path / "cov.json").read_text())["files"]["rules.py"]
    assert lines["missing_lines"] == [8, 9, 10, 13], "the lines of a process that ends itself are lost with it"


def test_a_debugger_keeps_the_rule_in_this_process():
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        assert tracing.debugged()
        assert not isolation.can_fork()
    finally:
        sys.settrace(before)
    assert not tracing.debugged()
