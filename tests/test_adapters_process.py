"""A rule in another process: a real one, and one for each way of failing."""

import sys

import numpy as np
import pytest

from pytest_fl.adapters import as_subject, command

X = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)
MEDIAN = """
import sys, numpy
given = numpy.load(sys.argv[1])
assert int(given["f"]) == 2
numpy.savez(sys.argv[2], aggregate=numpy.median(given["updates"], axis=0))
"""


def script(folder, text):
    path = folder / "my rule.py"
    path.write_text(text)
    return [sys.executable, str(path), "{input}", "{output}"]


def test_the_round_goes_out_and_the_aggregate_comes_back(tmp_path):
    subject = as_subject(command(script(tmp_path, MEDIAN)))
    result = subject.call(X, 2)
    np.testing.assert_array_equal(result, np.median(X, axis=0))
    assert result.dtype == np.float32
    assert "my rule.py" in subject.name
    assert "{input}" in subject.details["path"]


def test_other_braces_are_left_alone(tmp_path):
    rule = command([*script(tmp_path, MEDIAN), "{print}"])
    np.testing.assert_array_equal(rule(X, 2), np.median(X, axis=0))


def test_a_line_is_split_as_a_shell_would(tmp_path):
    executable, path, *places = script(tmp_path, MEDIAN)
    rule = command(f"{executable} '{path}' " + " ".join(places))
    np.testing.assert_array_equal(rule(X, 2), np.median(X, axis=0))


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("import time; time.sleep(60)", TimeoutError, "within 0.5 s"),
        ("raise SystemExit('too few clients')", RuntimeError, "status 1: too few clients"),
        ("", RuntimeError, "wrote no"),
        ("import sys, numpy; numpy.savez(sys.argv[2], mean=1)", RuntimeError, "expected 'aggregate'"),
    ],
    ids=["hangs", "fails", "writes nothing", "writes something else"],
)
def test_what_goes_wrong_is_said(tmp_path, text, error, said):
    with pytest.raises(error, match=said):
        command(script(tmp_path, text), seconds=0.5 if error is TimeoutError else 60)(X, 2)


@pytest.mark.parametrize("line", ["", "my-rule", "my-rule {input}", "my-rule {output}"])
def test_a_command_without_both_places_is_refused(line):
    with pytest.raises(ValueError, match="with both places"):
        command(line)


def test_seconds_must_be_positive():
    with pytest.raises(ValueError, match="above 0"):
        command("my-rule {input} {output}", seconds=0)
