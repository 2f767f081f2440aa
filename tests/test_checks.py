"""The harness is tested by broken rules that it must fail, and by sound ones that it must not."""

import os
from dataclasses import replace

import numpy as np
import pytest
from broken import BROKEN, SOLE
from sound import SOUND

from fl_impl.aggregators import ALL
from pytest_fl import verify
from pytest_fl.adapters import containers
from pytest_fl.checks import CHECKS, Bound, all_checks, check
from pytest_fl.reporting import current
from pytest_fl.reporting.results import Row
from pytest_fl.subjects.profiles import PROFILES

IMPATIENT = replace(PROFILES["default"], call_seconds=0.3, warm_up_seconds=0.3)
PIPES = ("nnm|trimmed_mean", "nnm|krum", "bucketing(size=2)|krum", "arc|geometric_median")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Counterexamples of broken rules are not the repository's, their rows not this run's, and nobody waits for them long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(containers, "SECONDS", 0.1)
    token = current.item.set(None)
    yield
    current.item.reset(token)


def judged(name, checks=None, profile=IMPATIENT):
    rule, _, claims = BROKEN[name]
    subject = rule() if isinstance(rule, type) else rule
    subject = subject.subject() if hasattr(subject, "subject") else subject
    report = verify(subject, profile=profile, checks=checks, **claims)
    return [row for row in report.rows if row.outcome == "failed"]


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_rule_is_caught(name, record_property):
    failures = judged(name, checks=BROKEN[name][1])
    assert failures, f"{name} passes {BROKEN[name][1]}"
    record_property("caught_by", failures[0].check)
    found = failures[0].counterexample
    assert found is not None or failures[0].reason
    print(f"{name}: caught by {failures[0].check}: {failures[0].reason or failures[0].closeness}")


def test_there_are_at_least_sixty_broken_rules():
    assert len(BROKEN) >= 60


def test_every_check_has_a_broken_rule_that_no_other_check_catches():
    assert set(all_checks()) - set(SOLE) == set()


SWEEPS = {"any_size", "every_placement"}
"""Checks that ask what others ask, at sizes and placements where those did not look: what fails one may fail them too."""


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["quick", "default"])
@pytest.mark.parametrize("name", all_checks())
def test_without_this_check_a_broken_rule_would_pass(name, profile):
    assert {row.check for row in judged(SOLE[name], profile=profile)} - (SWEEPS - {name}) == {name}


def false_alarms(rule, profile, seed, **claims):
    rows = verify(rule, profile=profile, seed=seed, **claims).rows
    return [(row.check, row.reason, row.value, row.limit, row.counterexample) for row in rows if row.outcome == "failed"]


FIRST = (
    "trimmed_mean_by_sort",
    "median_of_sorted",
    "lower_median",
    "krum_of_blanchard",
    "geometric_median",
    "bulyan",
    "nanmedian",
)
"""One of each kind, for every run; the others come with the slow tests."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in SOUND])
def test_no_sound_rule_is_failed(name):
    rule, claims = SOUND[name]
    assert false_alarms(rule, "quick", 0, **claims) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_no_sound_rule_is_failed_under_fifty_seeds(name):
    rule, claims = SOUND[name]
    for seed in range(1, 51):
        assert false_alarms(rule, "quick", seed, **claims) == [], f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALL, *PIPES])
def test_no_rule_of_ours_is_failed_under_fifty_seeds(name):
    for seed in range(1, 51):
        assert false_alarms(name, "quick", seed) == [], f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_no_sound_rule_is_failed_by_the_thorough_profile(name):
    rule, claims = SOUND[name]
    assert false_alarms(rule, "thorough", 0, **claims) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALL, *PIPES])
def test_no_rule_of_ours_is_failed_by_the_thorough_profile(name):
    assert false_alarms(name, "thorough", 0) == []


@pytest.mark.slow
def test_which_check_catches_what():
    for name in BROKEN:
        caught = [row.check for row in judged(name)]
        print(f"{name}: {', '.join(caught)}")
        assert caught


def test_a_failure_is_shrunk_to_the_fewest_clients_and_coordinates():
    (row,) = verify(lambda updates, f: updates.mean(0), checks=["many_coordinates"]).rows
    assert (row.counterexample["n"], row.counterexample["d"]) == (3, 1)


def test_a_stored_counterexample_is_tried_first():
    def mean(updates, f):
        calls.append(updates.shape)
        return updates.mean(0)

    calls = []
    (row,) = verify(mean, checks=["exactness"]).rows
    calls.clear()
    (again,) = verify(mean, checks=["exactness"]).rows
    assert again.rounds == 1
    assert again.counterexample["file"] == row.counterexample["file"]


def test_an_expected_failure_is_not_a_failure_and_an_unexpected_pass_is():
    rule = BROKEN["numpy_median"][0]
    report = verify(rule, checks=["non_finite", "exactness"], expected_failures={"non_finite": "screened before"})
    assert [row.outcome for row in report.rows] == ["expected_failure", "passed"]
    report = verify(rule, checks=["exactness"], expected_failures={"exactness": "not true"})
    assert not report.passed
    assert "expected to fail" in report.rows[0].reason


def test_what_hangs_is_not_called_again():
    report = verify(BROKEN["hangs"][0], profile=IMPATIENT)
    outcomes = [row.outcome for row in report.rows]
    assert outcomes.count("failed") == 1
    assert outcomes.count("not_claimed") + outcomes.count("not_run") == len(outcomes) - 1
    assert "did not return within 0.3 s" in report.failures[0].reason


def test_a_rule_that_swallows_the_time_limit_is_interrupted_again():
    def stubborn(updates, f):
        for _ in range(3):
            try:
                while True:
                    pass
            except BaseException:
                pass
        return updates[0]

    (row,) = verify(stubborn, profile=IMPATIENT, checks=["returns_a_vector"]).rows
    assert "did not return" in row.reason


def test_the_same_seed_gives_the_same_report():
    def figures(seed):
        checks = ("exactness", "boundedness", "huge_outliers")
        rows = verify(SOUND["phocas"][0], profile="quick", seed=seed, checks=checks).rows
        return [replace(row, seconds=0) for row in rows]

    assert figures(3) == figures(3)
    assert figures(3) != figures(4)


def test_a_check_of_ones_own():
    def stays_small(rule, round_):
        """No result is longer than the longest update."""
        longest = np.linalg.norm(round_.updates.astype(float), axis=1).max()
        return Bound(float(np.linalg.norm(rule(round_.updates, round_.f))), float(longest) * (1 + 1e-6))

    with CHECKS.scoped():
        check(stays_small)
        (row,) = verify(SOUND["krum_first_of_ties"][0], checks=["stays_small"], profile="quick").rows
        assert row.outcome == "passed"
        assert row.claim == "No result is longer than the longest update."
        (row,) = verify(lambda updates, f: 2 * updates[0], checks=["stays_small"], profile="quick").rows
        assert row.outcome == "failed"


def test_a_check_needs_a_claim():
    with pytest.raises(ValueError, match="needs a docstring"):

        @check
        def silent(rule, round_):
            return Bound(0, 0)


def test_an_unknown_check_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'exactness'"):
        verify(lambda updates, f: updates[0], checks=["exactnes"])


def test_a_row_survives_json():
    (row,) = verify(lambda updates, f: updates.mean(0), checks=["exactness"]).rows
    assert Row.from_json(row.to_json()) == row


def test_a_child_process_of_a_rule_does_not_come_back():
    before = os.getpid()
    (row,) = verify(
        BROKEN["forks"][0], profile=replace(IMPATIENT, call_seconds=5, warm_up_seconds=15), checks=["returns_a_vector"]
    ).rows
    assert os.getpid() == before
    assert "forked" in row.reason
