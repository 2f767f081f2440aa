"""Whatever a subject does, `verify` and pytest end with a report and the right exit code, and the process as it was."""

import time
from dataclasses import replace

import pytest
from misbehaving import MISBEHAVING

import pytest_fl
from pytest_fl.engine import isolation
from pytest_fl.reporting import current
from pytest_fl.subjects import traces
from pytest_fl.subjects.profiles import PROFILES

SHORT = replace(PROFILES["quick"], call_seconds=0.4, warm_up_seconds=1, rounds=40, examples=3, evaluations=20)
CHECKS = ("returns_a_vector", "leaves_no_trace", "exactness", "many_clients", "non_finite")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Counterexamples are not the repository's, rows not this run's; a child is late after half a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(isolation, "GRACE", 0.5)
    token = current.item.set(None)
    yield
    current.item.reset(token)


def test_there_are_at_least_sixty_ways():
    assert len(MISBEHAVING) >= 60
    assert set(MISBEHAVING) > FIRST


FIRST = {
    "abort", "changes_numpys_error_state", "changes_the_folder", "closes_all_descriptors", "closes_stdout",
    "crashes_in_large_cohorts", "exits_with_success", "hangs_in_c", "kills_its_group", "prints_much",
    "leaves_a_child_that_holds_the_pipes_and_dies", "raises_a_base_exception", "raises_keyboard_interrupt",
    "raises_system_exit", "raises_what_has_no_text", "removes_its_folder", "returns_itself", "returns_what_has_no_shape",
    "seeds_random", "segfault", "skips_the_test", "spins_with_the_alarm_masked",
}  # fmt: skip
"""One of each kind, for every run; the others come with the slow tests."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in MISBEHAVING])
def test_whatever_a_rule_does_there_is_a_report_and_the_process_is_as_it_was(name, capfd):
    rule, expected, says = MISBEHAVING[name]
    before, began = traces.snapshot(), time.monotonic()
    hangs = says == "did not return"  # whoever hangs is waited for: not for long; whoever raises is tried in every form
    patience = SHORT if hangs else replace(SHORT, warm_up_seconds=15, call_seconds=5)
    report = pytest_fl.verify(rule, profile=patience, checks=CHECKS)
    assert time.monotonic() - began < 60
    after = traces.snapshot()
    assert set(traces.changed(before, after)) <= {"open descriptors"}
    assert len(after["open descriptors"]) <= len(before["open descriptors"])
    assert capfd.readouterr() == ("", "")
    assert len(report.rows) == len(CHECKS)
    if expected != "ends":
        assert report.passed == (expected == "passed"), [row.reason for row in report.rows]
    assert says in " ".join(row.reason for row in report.rows)
    str(report), report.to_json(), report.to_html()
