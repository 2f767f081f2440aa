"""README.md tells the truth: its tables are generated, its examples run, its commands are those of CI."""

import importlib.util
import re
from pathlib import Path

import pytest

from pytest_fl.plugin.knobs import KNOBS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "scripts" / "readme_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_up_to_date(tables):
    assert tables.written(TEXT) == TEXT, "run: python scripts/readme_tables.py --write"


def test_commands_are_those_of_ci():
    main, tests = re.findall(r"^python3 -m venv .*$", TEXT, re.MULTILINE)
    steps = (ROOT / ".ci" / "run").read_text()
    install = main.split(" && ")[1].removeprefix(".venv/bin/")
    assert install in steps
    assert tests.split(" && ")[1] == main.split(" && ")[1]
    assert steps.splitlines()[-1] == tests.split(" && ")[2].removeprefix(".venv/bin/")


def test_every_option_is_in_the_readme():
    for name in [*KNOBS, "report", "list", "bench-compare"]:
        assert f"--fl-{name}" in TEXT


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert targets
    assert not [target for target in targets if not target.startswith("http") and not (ROOT / target).exists()]


def test_the_federation_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(from fl_impl import.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} >= {"fl_run_latest.json", "fl_run_latest.png"}
