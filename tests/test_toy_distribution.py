"""Another distribution adds a rule, an attack, a check and an adapter, and they are there after `pip install` alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import things_to_add
import wheel_backend

from fl_impl.aggregators import ALL
from pytest_fl import verify

ROOT = Path(__file__).parents[1]
PROJECT = """
[build-system]
requires = []
build-backend = "wheel_backend"
backend-path = ["."]

[project]
name = "toy-fl-plugins"
version = "1.0"

[project.entry-points."pytest_fl.aggregators"]
toy_rule = "toy_rule:toy_rule"

[project.entry-points."pytest_fl.attacks"]
toy_attack = "toy_attack:toy_attack"

[project.entry-points."pytest_fl.checks"]
toy_check = "toy_check"

[project.entry-points."pytest_fl.adapters"]
toy_adapter = "toy_adapter:toy_library"
"""
TESTS = """
import numpy as np
import pytest
import pytest_fl

def test_the_fixtures(fl_aggregator, fl_attack, fl_round):
    assert (fl_aggregator.name, fl_attack.name, fl_round.origin) == ("toy_rule", "toy_attack", "toy_attack")
    np.testing.assert_allclose(fl_round.updates[fl_round.byzantine[0]], 3 * fl_round.honest.mean(0))
    assert fl_aggregator(fl_round.updates, f=fl_round.f).shape == (64,)

def test_verify_runs_the_check_on_the_rule():
    (row,) = pytest_fl.verify("nnm|toy_rule", profile="quick", checks=["toy_check"]).rows
    assert (row.subject, row.check, row.outcome) == ("nnm|toy_rule", "toy_check", "passed")

def test_verify_takes_what_the_adapter_knows():
    import toy_adapter
    (row,) = pytest_fl.verify(toy_adapter.Toy(), profile="quick", checks=["toy_check"]).rows
    assert (row.subject, row.outcome) == ("toy library", "passed")

@pytest_fl.conformance("toy_rule")
def test_conformance_has_the_check(check):
    assert check.check.name == "toy_check"
    check()
"""
SETTINGS = [
    "--aggregation", "toy_rule", "--attack", "toy_attack", "--byzantine-fraction", "0.2", "--num-clients", "5",
    "--num-rounds", "1", "--dataset", "wine",
]  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The sources of the distribution."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    shutil.copy(wheel_backend.__file__, folder)
    for kind in ("rule", "attack", "check", "adapter"):
        (folder / f"toy_{kind}.py").write_text(getattr(things_to_add, kind.upper()))
    monkeypatch.chdir(folder)
    return folder


def python(folder, *arguments):
    """What a fresh Python says that sees the distribution installed in that folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "COLUMNS": "200"}
    for inherited in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "GITHUB_STEP_SUMMARY", "CI"):
        environment.pop(inherited, None)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fl_experiment(folder, *arguments):
    pytest.importorskip("typer", reason="the cli extra is not installed")
    return python(folder, "-W", "error::UserWarning", "-c", "from fl_impl.experiment.cli import main; main()", *arguments)


def pytest_of(folder, *arguments):
    (folder / "test_toys.py").write_text(TESTS)
    environment_free = ["-p", "no:cacheprovider", "-p", "no:randomly", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return python(folder, "-m", "pytest", "-q", *environment_free, *arguments)


def test_the_page_on_plug_ins_is_true():
    page = (ROOT / "docs" / "plug_ins.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with ALL.scoped():
        exec(code, {"__name__": "my_package.rules"})  # the page's own example
        (row,) = verify("nnm|my_rule", profile="quick", checks=["permutation"]).rows
        assert row.outcome == "passed"
        assert ALL.home("my_rule") == "my_package.rules:my_rule"
    assert f'[project.entry-points."{ALL.group}"]' in page


def in_pytest(folder):
    """The rule, the attack, the check and the adapter, as a test sees them."""
    asked = ["--fl-attack=toy_attack", "--fl-aggregator=toy_rule", "--fl-profile=quick"]
    assert "4 passed" in pytest_of(folder, *asked, "-k", "not conformance or toy_check")
    listed = pytest_of(folder, "--fl-list")
    assert all(name in listed for name in ("toy_rule", "toy_attack", "toy_check"))


def test_four_plug_ins_of_a_wheel(project, tmp_path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(project / wheel_backend.build_wheel(project)) as wheel:
        wheel.extractall(installed)  # what installing a wheel of plain modules is
    in_pytest(installed)
    assert "toy_rule" in fl_experiment(installed, "run", *SETTINGS, "--dry-run")


@pytest.mark.slow
def test_four_plug_ins_after_pip_install(project, tmp_path):
    installed = tmp_path / "installed"
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(installed)]
    python(project, *pip, str(project))
    assert (installed / "toy_fl_plugins-1.0.dist-info" / "entry_points.txt").exists()
    in_pytest(installed)
    said = fl_experiment(installed, "run", *SETTINGS, "--output", "run.json")
    assert "round 1: accuracy" in said
    assert "toy_rule" in fl_experiment(installed, "list", "aggregators")
    assert '"attack": "toy_attack"' in (installed / "run.json").read_text()
