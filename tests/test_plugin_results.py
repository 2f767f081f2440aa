"""How rows travel from a test to the table, the reports and the job summary; with and without workers."""

import json
import re
from textwrap import dedent

import pytest

LEAVE = """
    import pytest
    from pytest_fl.reporting import current
    from pytest_fl.reporting.results import Row
    from pytest_fl.reporting.runs import Run

    def leave(**figures):
        row = Row(claim="It holds.", seconds=0.25, **figures)
        current.item.get().record(row.to_json())
        return row

    def test_holds():
        leave(subject="krum", check="coefficient", outcome="passed", value=1.5, limit=2.0,
              measured={"coefficient": 1.5, "kappa": 2.0, "lower_bound": 0.5})

    def test_breaks():
        leave(subject="mine", check="exactness", outcome="failed", value=3.0, limit=0.0)
        assert False, "told"

    def test_breaks_as_expected():
        pytest.xfail(leave(subject="mine", check="scale", outcome="expected_failure", value=2, limit=1).check)

    def test_is_not_claimed():
        pytest.skip(leave(subject="krum", check="mean", outcome="not_claimed").check)
"""
TABLE = """
    aggregator  passed  failed  xfailed  unclaimed  closest  check        measured  kappa  f/(n-2f)  seconds
    krum             1       0        0          1     0.75  coefficient       1.5      2       0.5      0.5
    mine             0       1        1          0      inf  exactness                                   0.5
    2 aggregators: 1 passed, 1 failed, 1 failed as expected, 1 not claimed
"""


@pytest.fixture
def rows(pytester):
    pytester.makepyfile(test_rows=LEAVE)


def table(result):
    text = result.stdout.str()
    return re.search(r"=+ federated learning under attack =+\n(.*?)\n=", text, re.DOTALL)[1]


@pytest.mark.usefixtures("rows")
def test_table(run):
    result = run()
    result.assert_outcomes(passed=1, failed=1, xfailed=1, skipped=1)
    assert table(result) == dedent(TABLE).strip()


@pytest.mark.usefixtures("rows")
def test_table_follows_its_title_at_once_where_nothing_failed(run):
    assert table(run("-k", "holds")).startswith("aggregator")


@pytest.mark.usefixtures("rows")
def test_workers_give_the_same_table(run):
    alone, apart = run(), run("-p", "xdist.plugin", "-n", "2")
    assert "2 workers" in apart.stdout.str()
    assert table(apart) == table(alone) == dedent(TABLE).strip()


def test_a_dead_worker_loses_only_its_own_rows(run, pytester):
    pytester.makepyfile(test_rows=LEAVE, test_dies="import os\ndef test_dies(): os._exit(1)")
    result = run("-p", "xdist.plugin", "-n", "2", "--dist=loadfile")
    assert "crashed while running 'test_dies.py::test_dies'" in result.stdout.str()
    assert table(result) == dedent(TABLE).strip()


def test_no_table_where_nothing_was_found(run, pytester):
    pytester.makepyfile("def test_it(): pass")
    assert "federated learning" not in run("-v").stdout.str()


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("workers", [[], ["-p", "xdist.plugin", "-n", "2"]], ids=["alone", "workers"])
def test_reports_are_written_once_each(run, pytester, workers):
    result = run(*workers, "--fl-report=out/r.json", "--fl-report=r.md", "--fl-report=r.html")
    result.stdout.fnmatch_lines(["wrote */out/r.json", "wrote */r.md", "wrote */r.html"])
    content = json.loads((pytester.path / "out" / "r.json").read_text())
    assert content["passed"] is False
    assert {(row["subject"], row["outcome"]) for row in content["rows"]} == {
        ("krum", "passed"), ("mine", "failed"), ("mine", "expected_failure"), ("krum", "not_claimed"),
    }  # fmt: skip
    assert "| krum | 1 | 0 |" in (pytester.path / "r.md").read_text()
    assert "<h1>Claims broken: 1</h1>" in (pytester.path / "r.html").read_text()


@pytest.mark.usefixtures("rows")
def test_a_report_that_cannot_be_written_is_told_and_fails_nothing(run, pytester):
    pytester.makefile("", blocked="a file, no folder")
    result = run("-k", "holds", "--fl-report=blocked/r.json")
    result.assert_outcomes(passed=1, deselected=3)
    result.stdout.fnmatch_lines(["--fl-report: cannot write */blocked/r.json: *"])
    assert result.ret == 0


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("workers", [[], ["-p", "xdist.plugin", "-n", "2"]], ids=["alone", "workers"])
def test_job_summary_is_appended_by_the_controller(run, pytester, monkeypatch, workers):
    summary = pytester.path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run(*workers)
    assert summary.read_text().startswith("before\n## 2 aggregators: 1 passed, 1 failed")
    assert summary.read_text().count("| krum | 1 | 0 |") == 1


@pytest.mark.usefixtures("rows")
def test_rows_are_in_junit(run, pytester):
    run("--junit-xml=junit.xml")
    assert (pytester.path / "junit.xml").read_text().count('<property name="fl_row"') == 4


def test_of_a_test_that_is_run_again_only_the_last_row_counts(run, pytester):
    pytester.makepyfile(test_rows=LEAVE)
    pytester.makeconftest("""
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):  # as pytest-rerunfailures does
            first = runtestprotocol(item, nextitem=nextitem, log=False)
            for report in first:
                if report.when == "call":
                    report.outcome = "rerun"
                    item.ihook.pytest_runtest_logreport(report=report)
            item.user_properties.clear()
            item._initrequest()
            runtestprotocol(item, nextitem=nextitem)
            return True

        def pytest_report_teststatus(report):
            if report.outcome == "rerun":
                return "rerun", "R", "RERUN"
    """)
    assert table(run("-k", "holds")).splitlines()[1].split()[:3] == ["krum", "1", "0"]


@pytest.mark.usefixtures("run")
def test_no_item_outside_a_test(pytester):
    pytester.makepyfile("""
        from pytest_fl.reporting import current

        assert current.item.get() is None

        def test_it(request):
            running = current.item.get()
            assert (running.profile, running.seed) == ("quick", 3)
            assert running.rootdir == request.config.rootpath
    """)
    arguments = ("-p", "pytest_fl.plugin", "--fl-profile=quick", "--fl-seed=3")
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=1)


def test_storage_is_ignored_by_git(run, pytester):
    pytester.makepyfile("""
        from pytest_fl.reporting import current

        def test_it():
            (current.storage() / "round.npz").write_bytes(b"")
    """)
    run().assert_outcomes(passed=1)
    assert (pytester.path / ".pytest_fl" / ".gitignore").read_text().endswith("*\n")
    assert (pytester.path / ".pytest_fl" / "round.npz").exists()
