"""The report and the failure text are functions of the rows alone."""

import json
import math
import pickle
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from pytest_fl import Report, Round, Row
from pytest_fl.reporting.failures import READABLE, CheckFailed, describe, facts
from pytest_fl.reporting.plot import Mark, worst_cases
from pytest_fl.reporting.runs import Run
from pytest_fl.reporting.tables import closest, lines

CLAIMS = {
    "exactness": "n - f equal rows come back as that row.",
    "boundedness": "f outliers of any size move the result no further than the honest clients spread.",
    "coefficient": "||F(x) - mean_S||^2 <= kappa * var_S for every S of n - f clients.",
    "scale": "F(a x) = a F(x), a > 0.",
}
SMALL = Round(np.vstack([np.ones((4, 2)), [1e10, -1e10]]), 1, (4,), "unanimous, one outlier at 1e+10, last position")
LARGE = Round(np.vstack([np.full((8, 100), 2.0), np.full((2, 100), 1e20)]), 2, (8, 9), "two outliers at 1e+20")
REPLAY = "python -m pytest_fl replay .pytest_fl/mine.npz 'mine:rule'"


def row(subject, check, outcome="passed", value=0.5, limit=1.0, **figures):
    return Row(subject, check, CLAIMS[check], outcome, value, limit, seconds=0.5, **figures)


def saved(round_, output=None):
    return {**facts(round_, output), "file": ".pytest_fl/mine.npz", "replay": REPLAY}


def run(aggregator, attack, accuracy, outcome="passed", setting=""):
    return Run(aggregator, attack, 20, 10, 2, accuracy, 0.5, 1.0, setting or aggregator, "test_it", outcome)


MEASURED = {"coefficient": 1.96, "kappa": 2.0, "lower_bound": 0.5}
BROKEN = row(
    "mine", "exactness", "failed", 2e9, 0.0, reason="4 of 5 clients agree on a row, and the result is another",
    counterexample=saved(SMALL, np.array([2e9, -2e9])),
)  # fmt: skip
UNBOUNDED = row("mine", "boundedness", "failed", 6.0, 2.0, counterexample=saved(LARGE, np.zeros(100)))
REPORT = Report(
    rows=(
        row("krum", "exactness", value=0.0),
        row("krum", "boundedness"),
        row("krum", "coefficient", value=1.96, limit=2.0, measured=MEASURED),
        row("krum", "scale", "expected_failure", 3.0, reason="known, issue 7"),
        BROKEN,
        UNBOUNDED,
        row("mine", "coefficient", "not_claimed", 0.0, 0.0, reason="no kappa is claimed"),
        row("mine", "scale", value=math.nan, limit=math.inf),
    ),
    runs=(
        run("mean", "none", 0.95),
        run("mean", "sign_flip", 0.31, "failed"),
        run("krum", "none", 0.93),
        run("krum", "sign_flip", 0.91),
        run("median", "none", 0.9, setting="nobody attacks"),
        run("regression", "sign_flip", math.nan),
    ),
)


def test_passed_means_that_nothing_failed():
    assert not REPORT.passed
    assert REPORT.failures == (BROKEN, UNBOUNDED)
    assert Report().passed
    assert Report(tuple(found for found in REPORT.rows if found.outcome != "failed")).passed


def test_table():
    shown = [line for line, _ in lines(REPORT.rows, REPORT.runs)]
    assert shown == [
        "aggregator  passed  failed  xfailed  unclaimed  closest  check        measured  kappa  f/(n-2f)  seconds",
        "krum             3       0        1          0     0.98  coefficient      1.96      2       0.5      2.0",
        "mine             1       2        0          1      inf  exactness                                   2.0",
        "",
        "federations",
        "aggregator  attack     rounds  clients  f  clean  attacked  test",
        "krum        sign_flip      20       10  2  93.0%     91.0%  passed",
        "mean        sign_flip      20       10  2  95.0%     31.0%  failed",
        "median      none           20       10  2  90.0%            passed",
        "regression  sign_flip      20       10  2                   passed",
        "2 aggregators: 4 passed, 2 failed, 1 failed as expected, 1 not claimed; 6 federations",
    ]
    assert [line.split()[0] for line, bad in lines(REPORT.rows, REPORT.runs) if bad] == ["mine", "mean", "2"]


def test_a_rule_far_from_every_limit_is_close_to_none():
    near, far = row("mine", "scale", value=0.01), row("mine", "boundedness", value=1e-9)
    assert closest([near, far]) == near
    assert closest([far]) is None
    assert closest([near, row("mine", "exactness", "failed", 0.0, 0.0)]).check == "exactness"


def test_the_order_of_rows_does_not_matter():
    assert lines(REPORT.rows[::-1], REPORT.runs[::-1]) == lines(REPORT.rows, REPORT.runs)


def test_str_is_the_table_and_each_failure():
    assert str(REPORT).startswith("aggregator  passed")
    assert str(REPORT).endswith(f"\n\n{describe(BROKEN)}\n\n{describe(UNBOUNDED)}")


def test_json_is_strict_and_complete():
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(REPORT.to_json(), parse_constant=refuse)
    assert content["passed"] is False
    assert [found["outcome"] for found in content["rows"]] == [found.outcome for found in REPORT.rows]
    assert content["rows"][2]["closeness"] == pytest.approx(0.98)
    assert content["rows"][4]["closeness"] == "inf"
    assert (content["rows"][7]["value"], content["rows"][7]["limit"]) == ("nan", "inf")
    assert content["rows"][4]["counterexample"]["updates"] == SMALL.updates.tolist()
    assert content["federations"][1]["accuracy"] == 0.31


def test_markdown_is_a_table_whatever_the_names():
    text = Report((row("nnm|trimmed_mean", "scale"), BROKEN)).to_markdown()
    header, rule, *body = [line for line in text.splitlines() if line.startswith("|")]
    assert len(body) == 2
    assert {line.replace("\\|", "").count("|") for line in (header, rule, *body)} == {12}
    assert "nnm\\|trimmed_mean" in text
    assert describe(BROKEN) in text


def test_failure_of_a_small_round_shows_every_number():
    assert describe(BROKEN).splitlines() == [
        "mine fails exactness: 4 of 5 clients agree on a row, and the result is another",
        "",
        "  claim    n - f equal rows come back as that row.",
        "  found    2e+09, where at most 0 is allowed",
        "  round    n=5, f=1, d=2, dtype=float64",
        "  origin   unanimous, one outlier at 1e+10, last position",
        "  updates  client 0       1       1",
        "           client 1       1       1",
        "           client 2       1       1",
        "           client 3       1       1",
        "           client 4   1e+10  -1e+10  <- Byzantine",
        "           returned   2e+09  -2e+09",
        "  saved    .pytest_fl/mine.npz",
        f"  replay   {REPLAY}",
    ]


def test_failure_of_a_large_round_shows_who_and_how_large():
    assert LARGE.updates.size > READABLE
    assert describe(UNBOUNDED).splitlines() == [
        "mine fails boundedness: 6, where at most 2 is allowed, 3 times the limit",
        "",
        "  claim    f outliers of any size move the result no further than the honest clients spread.",
        "  round    n=10, f=2, d=100, dtype=float64",
        "  origin   two outliers at 1e+20",
        "  updates  honest     8 clients (0, 1, 2, 3, 4, 5, 6, 7): largest entry 2",
        "           Byzantine  2 clients (8, 9): largest entry 1e+20",
        "           returned   a vector, largest entry 0",
        "  saved    .pytest_fl/mine.npz",
        f"  replay   {REPLAY}",
    ]


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (np.array([np.nan, np.inf]), "returned     nan     inf"),
        ("a string instead of a vector", "returned  a string instead of a vector"),
        (np.array([[1.0, 2.0]]), "returned  array([[1., 2.]])"),
    ],
)
def test_failure_shows_whatever_the_rule_returned(output, shown):
    assert f"\n           {shown}" in describe(replace(BROKEN, counterexample=saved(SMALL, output)))


def test_a_failure_with_no_round_is_still_one():
    assert describe(row("mine", "scale", "failed", 0.0, 0.0, reason="it hangs")).startswith("mine fails scale: it hangs\n")


def test_check_failed_is_an_assertion_that_carries_its_row_and_pickles():
    error = CheckFailed(BROKEN)
    assert isinstance(error, AssertionError)
    assert str(error) == describe(BROKEN)
    again = pickle.loads(pickle.dumps(error))
    assert (again.row, str(again)) == (BROKEN, str(error))


@pytest.mark.parametrize("found", REPORT.rows[:7])
def test_rows_travel_as_json(found):
    assert Row.from_json(found.to_json()) == found
    assert describe(Row.from_json(found.to_json())) == describe(found)


def test_runs_travel_as_json():
    assert [repr(Run.from_json(found.to_json())) for found in REPORT.runs] == [repr(found) for found in REPORT.runs]


def test_page_is_self_contained_and_escapes():
    evil = row("<script>alert(1)</script>", "scale", "failed", 2.0, reason='"&<b>')
    text = Report((*REPORT.rows, evil), REPORT.runs).to_html()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not [word for word in ("http:", "https:", "src=", "@import", "url(") if word in text]
    assert text.count('<td class="failed"') == 3
    assert text.count("<details open>") == 3


def test_page_of_nothing_says_so():
    assert "no checks ran" in Report().to_html()


@pytest.mark.parametrize("measured", [0.0, 1e-9, 1.0, 2.0 + 1e-12, 3.0, 1e300, math.inf])
@pytest.mark.parametrize("kappa", [None, 2.0, math.inf])
def test_plot_stays_inside_its_frame(measured, kappa):
    drawing = worst_cases([Mark("mine", measured, kappa, 0.5), Mark("other", 1.0)])
    places = [float(part.split('"')[0]) for part in drawing.split(' cx="')[1:]]
    assert len(places) == 2
    assert all(190 <= place <= 810 for place in places)
    assert ('class="broken"' in drawing) == (kappa is not None and measured > kappa + 0.5)


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium (.ci/run does)")
def test_page_in_a_browser(tmp_path):
    (tmp_path / "report.html").write_text(REPORT.to_html(), encoding="utf-8")

    def browse(*arguments):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [BROWSER, *flags, *arguments, (tmp_path / "report.html").as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    built = browse("--dump-dom").stdout
    assert built.count("<tr>") == built.count("</tr>") > 4
    assert built.count("<circle") == 1
    browse(f"--screenshot={tmp_path / 'page.png'}", "--window-size=1200,1400")
    picture = pytest.importorskip("matplotlib.image").imread(tmp_path / "page.png")[:, :, :3]
    assert picture.shape[:2] == (1400, 1200)
    red = (abs(picture - [0xB3 / 255, 0x26 / 255, 0x1E / 255]).max(2) < 0.02).sum()
    assert red > 2 * 30 * 20, "two broken cells are painted"
