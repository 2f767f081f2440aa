"""Each failure is a defect, a range fault or by contract, and its cause is what was seen."""

import json
import sys

import numpy as np
import pytest

import pytest_fl
from pytest_fl.engine.causes import ordinary
from pytest_fl.subjects.round import Round


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trimmed(updates, f):
    x = np.sort(updates, axis=0)
    return x[f : len(x) - f].mean(0)


def in_float32(updates, f):
    return trimmed(updates.astype(np.float32), f).astype(np.float64)


def prints(updates, f):
    sys.stdout.write("round done\n")
    return trimmed(updates, f)


def seeds(updates, f):
    np.random.seed(0)
    return trimmed(updates, f)


def truncates(updates, f):
    return trimmed(updates, int(f / len(updates) * len(updates)))


def trims_one_less(updates, f):
    return trimmed(updates, f - 1)


def krum(updates, f, neighbours=2):
    distances = ((updates[:, None] - updates[None]) ** 2).sum(-1)
    scores = np.sort(distances, axis=1)[:, 1 : len(updates) - f - neighbours + 1].sum(1)
    return updates[np.argmin(np.where(np.isnan(scores), np.inf, scores))]


def gram(updates, f):
    if len(updates) < 2 * f + 3:
        raise ValueError("Krum needs n >= 2f + 3")
    products = updates @ updates.T
    squares = np.diag(products)
    scores = np.sort(squares[:, None] + squares - 2 * products, axis=1)[:, 1 : len(updates) - f - 1].sum(1)
    return updates[np.argmin(scores)]


def stumbles(updates, f):
    if len(updates) == 8:
        return {}["layer"]
    return trimmed(updates, f)


def squeezes(updates, f):
    return trimmed(updates, f).squeeze()


def farthest(updates, f):
    away = np.linalg.norm(updates - np.median(updates, axis=0), axis=1)
    return updates[np.argmax(away)]


def overflows(updates, f):
    with np.errstate(all="ignore"):
        squares = (updates**2).sum(1)
    return trimmed(updates, f) if np.isfinite(squares).all() else np.full(updates.shape[1], np.nan)


def weiszfeld(updates, f):
    point = np.median(updates, axis=0)
    for _ in range(200):
        weights = 1 / np.maximum(np.linalg.norm(updates - point, axis=1), 1e-6)
        point = weights @ updates / weights.sum()
    return point


def clips(updates, f):
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    return trimmed(updates * np.minimum(1, 3 / np.maximum(norms, 1e-300)), f)


SEEN = [
    (weiszfeld, "exactness", "range", "comes only near geometric median"),
    (clips, "exactness", "defect", "the attackers move the result"),
    (in_float32, "keeps_dtype", "range", "computes in float32"),
    (prints, "leaves_no_trace", "by contract", ""),
    (truncates, "many_clients", "defect", "f truncated: int(f / n * n) is f - 1"),
    (trims_one_less, "exactness", "defect", "it is trimmed mean that trims f - 1 a side"),
    (farthest, "boundedness", "defect", "the attackers' row was chosen"),
    (overflows, "huge_outliers", "range", "not a number came out"),
    (gram, "exactness", "defect", "distances cancel far from the origin"),
    (squeezes, "returns_a_vector", "defect", "at d = 1 alone it returned shape ()"),
    (stumbles, "exactness", "defect", "raises KeyError (test_engine_causes.py, line "),
]


@pytest.mark.parametrize(("rule", "check", "kind", "cause"), SEEN)
def test_the_kind_and_the_cause_are_what_was_seen(rule, check, kind, cause):
    (row,) = pytest_fl.verify(rule, profile="quick", checks=[check]).failures
    assert (row.kind, row.cause[: len(cause)]) == (kind, cause), row


def test_state_that_is_changed_is_a_defect():
    (row,) = pytest_fl.verify(seeds, profile="quick", checks=["leaves_no_trace"]).failures
    assert row.kind == "defect"


def test_only_defects_count_unless_more_is_asked_for():
    asked = {"profile": "quick", "checks": ["keeps_dtype"]}
    reports = {strict: pytest_fl.verify(in_float32, strict=strict, **asked) for strict in ("defects", "range")}
    assert [report.passed for report in reports.values()] == [True, False]
    assert str(reports["range"]).splitlines()[0].endswith(": 1 check fails (1 range fault)")
    with pytest.raises(ValueError, match="expected strict to be one of"):
        pytest_fl.verify(in_float32, strict="everything")


def test_a_krum_that_refuses_nothing_is_told_so_once_and_judged_where_it_promises_something():
    report = pytest_fl.verify(krum, profile="quick", checks=["exactness", "every_placement", "boundedness", "many_clients"])
    (row,) = report.failures
    assert (row.check, row.kind) == ("exactness", "by contract")
    assert "takes n < 2f + 3, where Krum with n-f-2 neighbours promises nothing" in row.cause
    assert report.passed


def test_what_fails_on_a_line_alone_does_not_stop_the_rest():
    rows = pytest_fl.verify(squeezes, profile="quick", checks=["returns_a_vector", "exactness", "boundedness"]).rows
    assert [row.outcome for row in rows] == ["failed", "passed", "passed"]


def test_failures_of_one_cause_stand_under_the_first():
    text = str(pytest_fl.verify(trims_one_less, profile="quick", checks=["exactness", "many_clients", "every_placement"]))
    assert "trims_one_less: 3 checks fail; 3 have this cause: it is trimmed mean that trims f - 1 a side" in text
    assert text.count("  round  ") == 1
    assert "trims_one_less fails many_clients, as exactness does: " in text


@pytest.mark.parametrize("size", [1e-31, 1e-12, 1e12, 1e200])
def test_an_ordinary_round_has_ordinary_sizes_and_the_same_shape(size):
    x = size * np.array([[1.0, 1.0], [1.0, 1.0], [3.0, -2.0]])
    usual = ordinary(Round(x, 1, (2,)))
    assert 0.4 < np.abs(usual.updates).max() < 8
    assert np.allclose(usual.updates / usual.updates[0, 0], x / x[0, 0])
    fits = Round(x / size, 1, (2,))
    assert ordinary(fits) is fits
    outlier = ordinary(Round(np.vstack([x[:2] / size, [[1e300, 1e-300]]]), 1, (2,)))
    assert outlier.updates[2].tolist() == [1e6, 0.0]


GATED = """
    import numpy as np
    import pytest_fl

    def none(updates, f):
        return None if len(updates) % 2 == 0 else np.median(updates, axis=0)

    def in_float32(updates, f):
        return np.nanmedian(updates.astype(np.float32), axis=0).astype(np.float64)

    @pytest_fl.conformance(none, in_float32, checks=["returns_a_vector", "keeps_dtype", "exactness", "many_clients"])
    def test_it(check):
        check()
"""


def test_a_broken_rule_is_not_green_where_its_gate_is_not_selected(run, pytester):
    pytester.makepyfile(GATED)
    result = run("--fl-profile=quick", "-k", "none-exactness", "-p", "no:randomly")
    assert result.ret == 1
    assert "none fails returns_a_vector: not run: returns_a_vector fails: returned None" in result.stdout.str()


def test_a_range_fault_is_shown_and_fails_only_where_that_is_asked_for(run, pytester):
    pytester.makepyfile(GATED)
    result = run("--fl-profile=quick", "-k", "in_float32", "-rx", "--fl-report=r.json")
    result.assert_outcomes(xfailed=1, passed=3, deselected=4)
    assert "range: computes in float32 (--fl-strict=range fails for it)" in result.stdout.str()
    assert "3 passed, 1 failed (1 range fault)" in result.stdout.str()
    assert json.loads((pytester.path / "r.json").read_text())["passed"] is True
    assert run("--fl-profile=quick", "-k", "in_float32 and keeps", "--fl-strict=range").ret == 1
