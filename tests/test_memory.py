"""Rules with memory: sound ones pass, broken ones fail the check that they were written for, and failures replay."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from remembering import BROKEN, SOUND, CenteredClipping, MedianWithMomentum

import pytest_fl
from pytest_fl import verify
from pytest_fl.checks.histories import history_checks
from pytest_fl.inputs import histories
from pytest_fl.reporting import current
from pytest_fl.subjects.guard import Rule
from pytest_fl.subjects.histories import History, told
from pytest_fl.subjects.profiles import PROFILES


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    token = current.item.set(None)
    yield
    current.item.reset(token)


def failures(thing, profile="quick", seed=0, checks=None, **claims):
    rows = verify(thing, stateful=True, profile=profile, seed=seed, checks=checks, **claims).rows
    return {row.check: row.reason for row in rows if row.outcome == "failed"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_with_memory_is_caught_by_the_check_it_was_written_for(name):
    thing, check, claims = BROKEN[name]
    assert check in failures(thing, checks=[check], **claims)


def test_each_check_has_a_broken_rule_and_there_are_enough():
    assert {check for _, check, _ in BROKEN.values()} == set(history_checks())
    assert len(BROKEN) >= 15


FIRST = ("MedianWithMomentum", "CenteredClipping", "ReputationWithinTheTrimmed", "a factory", "our centered_clipping")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in SOUND])
def test_a_sound_rule_with_memory_passes(name):
    thing, claims = SOUND[name]
    assert failures(thing, **claims) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_a_sound_rule_with_memory_passes_under_fifty_seeds(name):
    thing, claims = SOUND[name]
    for seed in range(1, 51):
        assert failures(thing, seed=seed, **claims) == {}, f"seed {seed}"


@pytest.mark.parametrize(
    ("one", "other"), [("CenteredClipping", "CenteredClippingByLoops"), ("ReputationWithinTheTrimmed", "ReputationByClient")]
)
def test_two_that_were_written_against_each_other_agree(one, other):
    rules = [Rule(pytest_fl.as_subject(SOUND[name][0], stateful=True)) for name in (one, other)]
    for history in histories.scattering(rules[0], PROFILES["quick"]):
        mine, theirs = (told(rule, history) for rule in rules)
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_our_centered_clipping_is_the_one_written_against_it():
    ours, theirs = (Rule(pytest_fl.as_subject(thing, stateful=True)) for thing in ("centered_clipping", CenteredClipping))
    for history in histories.scattering(ours, PROFILES["quick"]):
        np.testing.assert_allclose(told(ours, history), told(theirs, history), rtol=1e-7, atol=1e-7)


def test_a_failing_history_is_short_and_its_line_replays_it(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "class Trusting:\n"
        "    rounds = 0\n"
        "    def aggregate(self, updates, f):\n"
        "        self.rounds += 1\n"
        "        return updates.mean(0) if self.rounds > 3 else np.median(updates, axis=0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from mine import Trusting  # written above

    (row,) = verify(Trusting, stateful=True, profile="quick", checks=["bounded_in_every_round"]).rows
    assert row.counterexample["rounds"] == 4
    assert row.counterexample["n"] == 3
    words = shlex.split(row.counterexample["replay"])
    again = subprocess.run([sys.executable, *words[words.index("-m") :]], capture_output=True, text=True, check=False)
    assert again.returncode == 1, again.stderr
    assert "Trusting fails bounded_in_every_round: in round 4 of 4" in again.stdout


def test_claims_over_rounds_are_validated():
    with pytest.raises(ValueError, match="expected stateful=True beside warm_up"):
        verify(MedianWithMomentum, warm_up=3)
    with pytest.raises(ValueError, match="expected warm_up to be a number of rounds from 0, got -1"):
        verify(MedianWithMomentum, stateful=True, warm_up=-1)
    with pytest.raises(ValueError, match="of which no new one can be made for each history"):
        verify(lambda updates, f: updates[0], stateful=True)


def test_a_history_survives_its_file(tmp_path):
    history = History(np.arange(24.0).reshape(3, 4, 2), (1,), "three rounds")
    history.save(tmp_path / "h.npz", check="forgets_an_attack")
    loaded, facts = History.load(tmp_path / "h.npz")
    assert (loaded.updates == history.updates).all()
    assert (loaded.byzantine, loaded.f, loaded.origin, facts) == ((1,), 1, "three rounds", {"check": "forgets_an_attack"})


def test_what_a_history_says_of_itself():
    updates = np.zeros((4, 3, 1))
    updates[1:, 0] = updates[1:, 1] = 5.0
    updates[:3, 2] = 9.0
    updates[3, 2] = 5.0
    history = History(updates, (2,))
    assert history.agreed().tolist() == [1, 1, 2, 3]
    assert history.attacked_last() == 2
    assert history.sizes().tolist() == [0, 5, 5, 5]
    assert (history.calm().updates[:, 2] == history.updates[:, 0]).all()


def test_conformance_takes_rules_with_memory(run, pytester):
    pytester.makepyfile(
        """
        import numpy as np
        import pytest_fl

        class Momentum:
            def __init__(self):
                self.m = None
            def aggregate(self, updates, f):
                g = np.median(np.where(np.isnan(updates), np.inf, updates), axis=0)
                self.m = g if self.m is None else 0.5 * (self.m + g)
                return self.m.copy()

        @pytest_fl.conformance(Momentum, stateful=True, warm_up=20, within=1e-4)
        def test_byzantine_momentum(check):
            check()
        """
    )
    found = run("--fl-profile=quick").parseoutcomes()
    assert found == {"passed": 8, "skipped": 3}


def test_the_example_of_the_docs_passes(run, pytester):
    page = (Path(pytest_fl.__file__).parents[1] / "docs" / "stateful.md").read_text(encoding="utf-8")
    pytester.makepyfile(test_docs=page.split("```python\n")[1].split("```")[0])
    found = run("--fl-profile=quick").parseoutcomes()
    assert found == {"passed": 9, "skipped": 2}
