"""What .ci/run relies on: slow tests that no longer fit are skipped with the reason, never counted as passed."""

from pathlib import Path


def test_slow_tests_that_would_start_too_late_are_listed(pytester):
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile("import pytest\n@pytest.mark.slow\ndef test_long(): pass\ndef test_short(): pass\n")
    result = pytester.runpytest_subprocess("-ra", "--slow-seconds=-1")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*not run: the -1 seconds for slow tests are used up"])
