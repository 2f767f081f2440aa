"""The three lines, in an empty folder, as a third party writes them."""

import json
import re
import shlex
import subprocess
import sys

import pytest

import pytest_fl

MINE = """
    import numpy as np
    import pytest_fl

    def sound(updates, f):
        x = np.sort(updates, axis=0)
        return x[f : len(x) - f].mean(0)

    def one_sided(updates, f):
        return np.sort(updates, axis=0)[: len(updates) - f].mean(0)

    def my_rule(updates, f):
        return updates.mean(0)

    @pytest_fl.conformance(sound, one_sided, my_rule)
    def test_it(check):
        check()
"""


@pytest.fixture
def mine(pytester):
    pytester.makepyfile(mine=MINE)
    pytester.makepyfile(test_mine="from mine import test_it")


def outcomes(pytester):
    content = json.loads((pytester.path / "r.json").read_text())
    return {(row["subject"], row["check"]): row["outcome"] for row in content["rows"]}


@pytest.mark.usefixtures("mine")
def test_sound_passes_and_broken_fails_with_what_replays_it(run, pytester):
    result = run("--fl-profile=quick", "--fl-report=r.json")
    found = outcomes(pytester)
    assert {subject for (subject, _), outcome in found.items() if outcome == "failed"} == {"one_sided", "my_rule"}
    assert len(found) == sum(result.parseoutcomes()[outcome] for outcome in ("passed", "failed", "skipped"))

    shown = result.stdout.str()
    assert "cases.py" not in re.sub(r"(?m)^SKIPPED.*$", "", shown), "only the user's own lines are shown"
    (line,) = re.findall(r"replay +python (-m pytest_fl replay .*my_rule-exactness.*)", shown)
    again = subprocess.run([sys.executable, *shlex.split(line)], capture_output=True, text=True, check=False)
    assert again.returncode == 1, again.stderr
    assert "my_rule fails exactness: " in again.stdout


@pytest.mark.usefixtures("mine")
def test_byzantine_selects_by_keyword_and_by_marker(run):
    plain = run("--collect-only", "-q").stdout.str().count("test_it[")
    assert plain > 3 * 10
    for option in ("-k", "-m"):
        assert run("--collect-only", "-q", option, "byzantine").stdout.str().count("test_it[") == plain
    assert run("--collect-only", "-q", "-k", "byzantine and my_rule-exactness").stdout.str().count("test_it[") == 1


@pytest.mark.usefixtures("mine")
def test_verify_gives_the_same_verdicts_without_pytest(run, pytester, monkeypatch):
    run("--fl-profile=quick", "--fl-report=r.json")
    monkeypatch.syspath_prepend(pytester.path)
    for name in ("sound", "one_sided", "my_rule"):
        report = pytest_fl.verify(f"mine:{name}", profile="quick")
        alone = {row.check: row.outcome for row in report.rows}
        assert alone == {check: outcome for (subject, check), outcome in outcomes(pytester).items() if subject == name}


def test_expected_failures_are_xfail_and_one_that_passes_is_a_failure(run, pytester):
    known = '@pytest_fl.conformance(my_rule, expected_failures={"exactness": "a mean", "keeps_dtype": "so it is said"})'
    pytester.makepyfile(test_mine=MINE.replace("@pytest_fl.conformance(sound, one_sided, my_rule)", known))
    result = run("--fl-profile=quick", "-k", "exactness or keeps_dtype", "-rx")
    result.assert_outcomes(xfailed=1, failed=1, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines(["XFAIL *exactness* - a mean"])
    assert "my_rule fails keeps_dtype: passes, but was expected to fail (so it is said)" in result.stdout.str()


def test_one_decorator_takes_rules_and_other_parts(run, pytester):
    pytester.makepyfile(test_both=MINE.replace("(sound, one_sided, my_rule)", "('trimmed_mean', 'top_k(0.1)')"))
    result = run("--fl-profile=quick", "--fl-report=r.json", "-k", "exactness or top_k")
    assert {subject for subject, _ in outcomes(pytester)} == {"trimmed_mean", "top_k"}
    assert result.ret == 0


def test_a_claim_for_a_part_that_is_no_rule_is_refused():
    with pytest.raises(ValueError, match=r"expected claims for an aggregator only; top_k is a Compressor"):
        pytest_fl.verify("top_k(0.1)", claims="krum")


def test_the_names_for_parts_are_aliases():
    assert pytest_fl.audit is pytest_fl.conformance
    assert pytest_fl.audit_report is pytest_fl.verify


def test_a_decorator_without_brackets_is_an_error(run, pytester):
    pytester.makepyfile("import pytest_fl\n\n@pytest_fl.conformance\ndef test_it(check):\n    check()\n")
    result = run("--fl-profile=quick")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*expected what is judged in brackets, @pytest_fl.conformance(my_rule), got the test itself*"])


def test_a_test_that_forgets_to_call_its_check_fails(run, pytester):
    pytester.makepyfile(
        "import pytest_fl\n\n@pytest_fl.conformance('trimmed_mean', checks=['exactness'])\ndef test_it(check):\n    check\n"
    )
    result = run("--fl-profile=quick")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*expected the test to call its check*"])


def test_two_rules_of_one_name_stay_two(run, pytester):
    for module, factor in (("one", 1), ("other", 2)):
        pytester.makepyfile(
            **{module: f"import numpy as np\ndef aggregate(updates, f):\n    return {factor} * np.median(updates, axis=0)\n"}
        )
    pytester.makepyfile(
        test_two="""
        import numpy as np, pytest_fl, one, other

        class Clip:
            def __init__(self, tau):
                self.tau = tau
            def __call__(self, updates, f):
                return np.median(np.clip(updates, -self.tau, self.tau), axis=0)

        @pytest_fl.conformance(one.aggregate, other.aggregate, Clip(1.0), Clip(1e6), checks=["exactness"])
        def test_it(check):
            check()

        @pytest_fl.conformance(one.aggregate, Clip(5.0), ids=["the median", "clipped"], checks=["exactness"])
        def test_named(check):
            check()
        """
    )
    run("--fl-profile=quick", "--fl-report=r.json")
    found = {subject: outcome for (subject, _), outcome in outcomes(pytester).items()}
    assert found == {
        "aggregate": "passed", "other.aggregate": "failed", "Clip()": "failed", "Clip(tau=1000000.0)": "passed",
        "the median": "passed", "clipped": "failed",
    }  # fmt: skip


def test_ids_are_as_many_as_the_rules():
    with pytest.raises(ValueError, match="expected 1 different ids, one for each thing to judge, got"):
        pytest_fl.conformance("krum", ids=["a", "b"])
