"""`fl-experiment`: run, compare, report; what they write and how they exit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fl_impl import FLMetrics
from fl_impl.experiment.comparison import Comparison
from fl_impl.experiment.grid import TrialGrid, run_grid

pytest.importorskip("typer", reason="the cli extra is not installed")
from typer.testing import CliRunner

from fl_impl.experiment.commands import app

SMALL = ["--num-rounds", "2", "--num-clients", "4"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_run_writes_metrics_checkpoint_and_picture() -> None:
    code, output = invoke("run", *SMALL, "--aggregation", "krum", "--byzantine-fraction", "0.25", "--attack", "sign_flip")
    assert code == 0, output
    assert "round 2: accuracy" in output
    assert [result.round for result in FLMetrics.load().rounds] == [1, 2]
    assert {path.name for path in Path().iterdir()} == {f"fl_run_latest.{kind}" for kind in ("json", "safetensors", "png")}


def test_run_reads_a_file_and_the_command_line_wins() -> None:
    Path("a.toml").write_text('num_rounds = 1\nnum_clients = 4\nattack = "zero"\nattack_fraction = 0.25\n')
    code, output = invoke("run", "a.toml", "--num-rounds", "3", "--output", "b.json")
    assert code == 0, output
    assert FLMetrics.load("b.json").config["attack"] == "zero"
    assert len(FLMetrics.load("b.json").rounds) == 3
    code, output = invoke("run", "a.toml", "--attack", "none", "--attack-fraction", "none", "--output", "c.json")
    assert code == 0, output
    assert FLMetrics.load("c.json").config["attack"] is None


def test_resume_goes_on() -> None:
    invoke("run", *SMALL)
    code, output = invoke("run", "--num-rounds", "4", "--num-clients", "4", "--resume")
    assert code == 0, output
    assert [result.round for result in FLMetrics.load().rounds] == [1, 2, 3, 4]


def test_a_dry_run_shows_the_plan_and_writes_nothing() -> None:
    code, output = invoke("run", *SMALL, "--aggregation", "trimmed_mean", "--byzantine-fraction", "0.25", "--dry-run")
    assert code == 0
    assert "f that the aggregator is told" in output
    code, output = invoke("compare", *SMALL, "--aggregators", "mean,krum", "--attacks", "zero", "--seeds", "0,1", "--dry-run")
    assert code == 0
    assert "8 federations, 0 of them done" in output
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--aggregation", "krumm"], 2, "did you mean 'krum'"),
        (["run", "--agregation", "krum"], 2, "No such option"),
        (["run", "--num-rounds", "many"], 2, "num_rounds: Input should be a valid integer"),
        (["run", *SMALL, "--attack", "drop_out", "--attack-fraction", "1.0"], 1, "0 sound updates, but 1 are needed"),
        (["compare", "--fractions", "0.2,x"], 2, "got 'x'"),
        (["compare", "--aggregators", "krum", "--fractions", "0.5"], 2, "krum needs n >= 21"),
        (["report", "nothing.json"], 2, "does not exist"),
    ],
)
def test_exit_codes_and_reasons(arguments: list[str], code: int, message: str) -> None:
    got, output = invoke(*arguments)
    assert got == code
    assert message in " ".join(output.replace("│", " ").split())


def test_compare_writes_table_pictures_and_page_and_resumes() -> None:
    command = [
        "compare",
        *SMALL,
        "--aggregators",
        "mean,nnm|trimmed_mean",
        "--attacks",
        "sign_flip,zero",
        "--fractions",
        "0.25,0.3",
        "--workers",
        "1",
        "--seeds",
        "0",
        "--strongest",
        "0",
    ]
    code, output = invoke(*command)
    assert code == 0, output
    assert "25% Byzantine" in output
    page = Path("fl_compare/comparison.html").read_text()
    for needed in ("nnm|trimmed_mean", "sign_flip", "<svg", "</html>"):
        assert needed in page
    assert "http" not in page.replace("http-equiv", "")  # it carries everything itself
    assert all(Path("fl_compare", name).stat().st_size > 1000 for name in ("heatmap_25.png", "heatmap_30.png", "fractions.png"))
    assert len(Path("fl_compare/comparison.csv").read_text().splitlines()) == 1 + 12
    before = {path: path.stat().st_mtime_ns for path in Path("fl_compare/runs").iterdir()}
    code, output = invoke(*command)
    assert "12 of them done" in output
    assert {path: path.stat().st_mtime_ns for path in Path("fl_compare/runs").iterdir()} == before
    code, output = invoke("report", "fl_compare", "--output", "again.html")
    assert code == 0
    assert "sign_flip" in Path("again.html").read_text()


def test_compare_takes_its_grid_from_a_file_too() -> None:
    Path("grid.yaml").write_text(
        "num_rounds: 1\nnum_clients: 4\naggregators: [mean]\nattacks: [zero]\nfractions: [0.25]\nseeds: [3, 4]\n"
    )
    code, output = invoke("compare", "grid.yaml", "--dry-run")
    assert code == 0, output
    assert "mean zero 0.25 seed 4" in " ".join(output.split())


def test_report_of_a_run() -> None:
    invoke("run", *SMALL, "--attack", "non_finite", "--attack-fraction", "0.25")
    code, output = invoke("report", "fl_run_latest.json")
    assert code == 0, output
    page = Path("fl_run_latest.html").read_text()
    assert "non-finite numbers" in page
    assert "Configuration" in page


def test_a_grid_on_two_processes_gives_what_one_gives(tmp_path: Path) -> None:
    grid = TrialGrid(("mean", "krum"), ("sign_flip",), (0.25,), (0,), {"num_rounds": 1, "num_clients": 4})
    two, one = (run_grid(grid, tmp_path / str(workers), workers=workers) for workers in (2, 1))
    assert list(two) == list(one)
    assert all(two[trial].rounds == one[trial].rounds for trial in one)


def test_a_federation_that_breaks_down_is_a_result_with_its_reason(tmp_path: Path) -> None:
    grid = TrialGrid(("mean",), ("drop_out",), (0.75,), (0,), {"num_rounds": 2, "num_clients": 4, "min_clients": 2})
    comparison = Comparison(run_grid(grid, tmp_path, workers=1))
    assert "1 sound updates" in comparison.runs("mean", "drop_out", 0.75)[0].error
    assert comparison.accuracy("mean", "drop_out", 0.75) != comparison.accuracy("mean", "drop_out", 0.75)  # NaN
    from fl_impl.experiment.page import comparison_page

    assert "ended early" in comparison_page(comparison)


def test_ctrl_c_keeps_what_was_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from fl_impl.experiment.cli import main; main()",
        "run",
        "--num-rounds",
        "100000",
        "--num-clients",
        "4",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        path = tmp_path / "fl_run_latest.json"
        while not path.exists() or len(FLMetrics.load(path).rounds) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130
    assert "--resume goes on from fl_run_latest.json" in said
    assert len(FLMetrics.load(path).rounds) >= 3


def test_without_typer_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['typer'] = None; from fl_impl.experiment.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    assert 'pip install "pytest-fl[cli]"' in ended.stderr


def test_aggregate_writes_the_rule_of_the_files() -> None:
    paths = [f"client-{i}.safetensors" for i in range(5)]
    for i, path in enumerate(paths):
        save_file({"w": np.full(3, 1000 if i == 4 else i, np.float32)}, path)
    code, output = invoke(
        "aggregate", *paths, "--rule", "coordinate_median", "--byzantine", "1", "--output", "global.safetensors"
    )
    assert code == 0, output
    assert load_file("global.safetensors")["w"].tolist() == [2, 2, 2]
    code, output = invoke("aggregate", *paths, "--rule", "signguard", "--byzantine", "1", "--output", "other.safetensors")
    assert (code, Path("other.safetensors").exists()) == (2, False), output


def test_yes_and_no_are_flags_and_fractions_are_written_as_such() -> None:
    """R12: `--differential-privacy --dp-epsilon 3` was read as a file named 3."""
    private = ("run", "--differential-privacy", "--dp-epsilon", "3", "--dp-delta", "1e-5", "--byzantine-fraction", "1/3")
    code, said = invoke(*private, "--aggregation", "mean", "--num-clients", "3", "--dry-run")
    assert code == 0, said
    assert re.search(r"differential_privacy\W+True", said)
    assert re.search(r"f that the aggregator is told\W+1\b", said)
    code, said = invoke("run", "--no-differential-privacy", "--secure-aggregation", "--dry-run")
    assert code == 0, said
    assert re.search(r"secure_aggregation\W+True", said)
    assert re.search(r"differential_privacy\W+False", said)


def test_the_fractions_of_a_comparison_are_written_as_such(tmp_path: Path) -> None:
    rest = ("--aggregators", "median", "--num-clients", "3", "--output", str(tmp_path), "--dry-run")
    code, said = invoke("compare", "--fractions", "1/3, 0.2", *rest)
    assert code == 0, said
    assert "0.333333" in said
    code, said = invoke("compare", "--fractions", "a third", *rest)
    assert code == 2
    code, said = invoke("lora", "--byzantine-fraction", "a third")
    assert code == 2
    assert "expected a number such as 0.3, or 1/3" in " ".join(said.replace("│", " ").split())


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("num_rounds: 3\n  seed: 1\n")
    code, said = invoke("run", str(tmp_path / "a.yaml"))
    assert code == 2
    assert "a.yaml, line 2, column 7: mapping values are not allowed here" in said.replace("\n", " ")


def test_the_folder_of_the_output_is_made_before_the_first_round(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "a.json"
    code, said = invoke("run", "--num-rounds", "1", "--num-clients", "2", "--output", str(output))
    assert code == 0, said
    assert output.exists()


def test_a_mistake_in_a_comparison_is_an_exit_code_and_is_not_kept() -> None:
    arguments = ["compare", *SMALL, "--aggregators", "fedavg", "--attacks", "drop_out(probability=1)", "--fractions", "0.25"]
    arguments += ["--min-clients", "4", "--workers", "1", "--seeds", "0", "--strongest", "0"]
    code, output = invoke(*arguments)
    assert code == 1, output
    assert "1 of 2 federations broke down; fedavg, drop_out(probability=1), 25%, seed 0: " in output
    code, output = invoke(*arguments, "--dry-run")
    assert "2 federations, 1 of them done already" in output


def test_a_comparison_searches_the_strongest_attack_and_writes_what_papers_want() -> None:
    small = ("--dataset", "wine", "--num-rounds", "3", "--num-clients", "5", "--workers", "1")
    arguments = ("--aggregators", "mean,coordinate_median", "--attacks", "zero", "--seeds", "0,1", "--strongest", "8")
    code, output = invoke("compare", *small, *arguments)
    assert code == 0, output
    assert "Under the strongest attack found" in output
    names = {path.name for path in Path("fl_compare").iterdir()}
    assert {
        "comparison.md",
        "comparison.tex",
        "comparison.csv",
        "strongest_20.pdf",
        "strongest_20.png",
        "heatmap_20.pdf",
    } <= names
    lines = Path("fl_compare/comparison.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * 2 + 2 * 2  # a header, the grid, and each rule under what was found for it
    assert "the strongest attack found" in Path("fl_compare/comparison.html").read_text()
    code, again = invoke("compare", *small, *arguments)
    assert code == 0, again
    assert Path("fl_compare/comparison.csv").read_text().splitlines() == lines
    code, output = invoke("compare", "--strongest", "3", "--dry-run")
    assert (code, "8 at least; got 3" in output) == (2, True)


def test_the_users_own_files_in_the_current_folder_are_found(tmp_path: Path) -> None:
    """U9: as a script, not as `python -m`, the folder is not on the path by itself."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def rule(updates, f):\n    return updates.mean(axis=0)\n"
        "def data():\n    return np.eye(40, dtype=np.float32), np.arange(40) % 2\n"
        "pair = data()\nname = 'digits'\n"
    )
    code = "from fl_impl.experiment.cli import main; main()"
    script = tmp_path / "bin" / "fl-experiment"
    script.parent.mkdir()
    script.write_text(code)
    root = str(Path(__file__).parents[1])
    for data, said in (("mine:data", "round 1"), ("mine:pair", "round 1"), ("mine:name", "is the text 'digits'")):
        command = [sys.executable, str(script), "run", "--aggregation", "mine:rule", "--dataset", data, "--num-rounds", "1"]
        environment = {**os.environ, "PYTHONPATH": root}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert said in done.stdout + done.stderr, done.stderr
