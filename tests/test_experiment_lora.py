"""`fl-experiment lora`: a run with its files, and what is refused."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fl_impl.experiment.commands import app
from fl_impl.lora import LoRAFLAdapter
from fl_impl.lora.adapter import HELD_OUT

QUICK = ("--local-steps=1", "--batch-size=4", "--rank=2", "--alpha=4")


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["lora", *arguments])


def test_a_run_saves_adapter_metrics_and_picture(command, tmp_path):
    done = command("--num-clients=3", "--num-rounds=1", "--output=run", *QUICK)
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "adapter",
        "metrics.json",
        "metrics.safetensors",
        "held_out.png",
    }
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(metrics["clients"][HELD_OUT + "Hamlet"]) == 2
    assert LoRAFLAdapter.load(tmp_path / "run" / "adapter").adapter.rank == 2


def test_texts_of_ones_own(command, tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("ann", "bob"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"I am {name}, and I say so. " * 60)
    assert command("--texts=texts", "--num-rounds=1", "--output=run", *QUICK).exit_code == 0
    assert HELD_OUT + "bob" in json.loads((tmp_path / "run" / "metrics.json").read_text())["clients"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--base-model=llama-7b"], 2, "What can be loaded"),
        (["--texts=."], 2, "expected .txt files"),
        (["--num-clients=2", "--aggregation=krun"], 1, "did you mean 'krum'"),
    ],
)
def test_what_is_refused_leaves_with_a_code_and_the_reason(arguments, code, said, command):
    done = command(*arguments)
    assert done.exit_code == code
    assert said in done.stderr
