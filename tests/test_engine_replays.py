"""Every printed replay line reproduces its failure or says why it cannot; what is no saved round is told in one sentence."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pytest_fl
from pytest_fl.__main__ import main
from pytest_fl.engine.replays import line
from pytest_fl.engine.targets import target

RULES = """
    import functools
    import os

    import numpy as np
    import pytest_fl

    def mean(updates, f):
        return updates.mean(0)

    short = lambda updates, f: updates.mean(0)

    class Scaled:
        def __init__(self, by):
            self.by = by

        def __call__(self, updates, f):
            return self.by * np.median(updates, axis=0)

        def other(self, updates, f):
            return updates.mean(0)

    scaled = Scaled(2.0)

    class Fresh:
        def __init__(self, n_byzantine):
            self.f = n_byzantine

        def aggregate(self, updates):
            return updates.mean(0)

    def clipped(updates, f, tau="it's"):
        return updates.mean(0)

    def made():
        def inner(updates, f):
            return updates.mean(0)
        return inner

    def told(grads, strange):
        return np.mean(grads, axis=0)

    def exits(updates, f):
        if len(updates) == 5:
            os._exit(0)
        return np.median(updates, axis=0)

    class Counting:
        calls = 0

        def __call__(self, updates, f):
            self.calls += 1
            return updates.mean(0) if self.calls > 60 else np.median(updates, axis=0)

    counting = Counting()

    def median(updates, f):
        return np.median(updates, axis=0)

    NAMED = (mean, short, scaled, scaled.other, Fresh, functools.partial(clipped, tau="it's"), exits, counting)
    UNNAMED = (Scaled(3.0), made(), lambda u, f: u.mean(0), Counting())
"""
SETUP = """
    @pytest_fl.conformance(*NAMED, *UNNAMED, checks=["exactness"])
    def test_it(check):
        check()

    @pytest_fl.conformance(median, claims="krum", min_clients=lambda f: 2 * f + 3, checks=["definition"])
    @pytest.mark.fl(seed=1)
    def test_claims(check):
        check()

    @pytest_fl.conformance(mean, kappa=lambda n, f: f / (n - f), checks=["coefficient"])
    def test_kappa(check):
        check()

    @pytest_fl.conformance(told, f="strange", form="list of arrays", checks=["exactness"])
    def test_told(check):
        check()
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """A tests folder with a conftest, as most projects have one, and nothing on the path that would not be there."""
    folder = pytester.mkdir("tests")
    rules = "\n".join(line.removeprefix("    ") for line in RULES.splitlines())
    setup = "\n".join(line.removeprefix("    ") for line in SETUP.splitlines())
    (folder / "test_mine.py").write_text(f"import pytest\n{rules}\n{setup}")
    (folder / "conftest.py").write_text("import pytest\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(pytest_fl.__file__).parents[1]))
    for inherited in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(inherited, raising=False)
    return pytester


def shell(line, project):
    """What a user sees who pastes the line into a shell, where `python` is this one."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    if line.startswith("PYTHONPATH="):  # the package under test stands beside what the line puts there
        line = line.replace("PYTHONPATH=", f"PYTHONPATH={os.environ['PYTHONPATH']}:", 1)
    done = subprocess.run(
        line, shell=True, cwd=project.path, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def failures(project, *arguments):
    options = "-q -p no:cacheprovider -p no:randomly --fl-profile=quick --fl-report=r.json"
    code, said = shell(f"python -m pytest {options} {' '.join(arguments)}", project)
    assert code == 1, said
    return [row for row in json.loads((project.path / "r.json").read_text())["rows"] if row["outcome"] == "failed"]


def test_the_line_of_a_rule_in_a_tests_folder_fails_again_in_a_shell(project):
    (row,) = failures(project, "-k", "clipped")
    found = row["counterexample"]
    assert found["replay"].startswith("PYTHONPATH=tests python -m pytest_fl replay '.pytest_fl/clipped(tau=")
    code, said = shell(found["replay"], project)
    assert (code, "fails exactness" in said) == (1, True), said
    assert found["rerun"].startswith("python -m pytest 'tests/test_mine.py::test_it[clipped(tau=")


@pytest.mark.slow
def test_every_line_fails_again_or_says_why_it_cannot(project):
    rows = failures(project)
    assert len(rows) == 8 + 4 + 3
    tests = {row["counterexample"]["rerun"].removeprefix("python -m pytest ") for row in rows}
    code, said = shell(f"python -m pytest -p no:cacheprovider {' '.join(sorted(tests))}", project)  # one run: each takes 2 s
    assert code == 1
    for row in rows:
        assert f"{row['subject']} fails {row['check']}: " in said
    reasons = []
    for row in rows:
        found = row["counterexample"]
        if "in Python: " in found["replay"]:
            reasons.append(found["replay"].rpartition("in Python: ")[2])
            continue
        line = found["replay"].rpartition("all of it again: ")[2]
        code, said = shell(line, project)
        assert (code, f"fails {row['check']}" in said) == (1, True), (line, said)
    assert sorted(reasons) == [
        "a lambda that no module has a name for cannot be imported",
        "an object of Counting that no module has a name for cannot be imported",
        "an object of Scaled that no module has a name for cannot be imported",
        "kappa is no text that could stand on a command line",
        "made.<locals>.inner is made inside a function and cannot be imported",
    ]


def test_what_has_no_name_is_not_given_one(tmp_path):
    def local(updates, f):
        return updates.mean(0)

    command = pytest_fl.command(["my rule", "{input}", "{output}"])
    for thing, reason in (
        (local, "is made inside a function and cannot be imported"),
        (command, "the command 'my rule' '{input}' '{output}' is no name of a module's"),
        (functools.partial(line, "file", target=tmp_path), "what target= binds in it is no literal"),
        ((np.median, local), "is made inside a function"),
    ):
        said = line("a file.npz", target(thing, f=1, claims="krum"))
        assert said.startswith("pytest_fl.replay('a file.npz', the rule, f=..., claims=...) in Python: ")
        assert reason in said
    assert line("a file.npz", target("nnm|krum", f="byz", root=True, symmetries=["sign"], result=0)) == (
        "python -m pytest_fl replay --f=byz --root=True --symmetries=sign --result=0 'a file.npz' 'nnm|krum'"
    )


class Waits:
    """The mean once it has been called so often, the median before."""

    def __init__(self):
        self.calls = 0

    def __call__(self, updates, f):
        self.calls += 1
        return updates.mean(0) if self.calls > 60 else np.median(updates, axis=0)


def test_a_round_that_does_not_fail_by_itself_is_not_promised_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (row,) = pytest_fl.verify(Waits(), profile="quick", checks=["exactness"]).failures
    assert "depends on the calls before it; all of it again: pytest_fl.verify(the rule, " in row.counterexample["replay"]


def test_a_rule_that_ends_the_process_is_replayed_in_a_child(tmp_path, monkeypatch):
    def ends(updates, f):
        if len(updates) == 5:
            os._exit(0)
        return np.median(updates, axis=0)

    monkeypatch.chdir(tmp_path)
    (row,) = pytest_fl.verify(ends, profile="quick", checks=["returns_a_vector"]).failures
    (again,) = pytest_fl.replay(row.counterexample["file"], ends).failures
    assert "ended the process with exit status 0" in again.reason


def saved(folder):
    """Files that are no saved rounds."""
    np.save(folder / "updates.npy", np.ones((5, 2)))
    np.savez(folder / "plain.npz", np.ones((5, 2)))
    np.savez(folder / "objects.npz", updates=np.array([{}, []], dtype=object), f=1, byzantine=[0], origin="")
    np.savez(folder / "flat.npz", updates=np.ones(5), f=1, byzantine=[0], origin="")
    np.savez(folder / "counts.npz", updates=np.ones((5, 2)), f=[1, 2], byzantine=[0], origin="")
    np.savez(folder / "rows.npz", updates=np.ones((5, 2)), f=1, byzantine=[7], origin="")
    (folder / "updates.csv").write_text("1,2\n3,4\n")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "cut.npz").write_bytes((folder / "rows.npz").read_bytes()[:200])
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_what_is_no_saved_round_is_told_in_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in saved(tmp_path):
        assert main(["replay", path.name, "krum"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"expected a round saved by pytest-fl (.npz), got {path.name}: it ")
        assert "pickle" not in line
    assert main(["replay", "gone.npz", "krum"]) == 2
    assert "gone.npz" in capsys.readouterr().err


def test_what_is_no_saved_round_in_tests_rounds_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "tests" / "rounds"
    folder.mkdir(parents=True)
    saved(folder)
    (row,) = pytest_fl.verify("trimmed_mean", profile="quick", checks=["nobody_attacks"]).rows
    assert row.outcome == "passed"


def test_a_round_of_another_kind_of_part_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (row,) = pytest_fl.verify("mean", profile="quick", kappa=lambda n, f: 1.0, checks=["exactness"]).failures
    with pytest.raises(ValueError, match="expected an aggregator to replay"):
        pytest_fl.replay(row.counterexample["file"], "top_k(0.1)")
