"""`fl-experiment lora`: a run with its files, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fl_impl.lora import LoRAFLAdapter
from fl_impl.lora.adapter import HELD_OUT

QUICK = ("--local-steps=1", "--batch-size=4", "--rank=2", "--alpha=4")


def command(*arguments, folder):
    line = [sys.executable, "-c", "from fl_impl.cli import main; main()", "lora", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_run_saves_adapter_metrics_and_picture(tmp_path):
    done = command("--num-clients=3", "--num-rounds=1", "--output=run", *QUICK, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "held-out loss" in done.stdout
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"adapter", "metrics.json", "held_out.png"}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(metrics["clients"][HELD_OUT + "Hamlet"]) == 2
    assert LoRAFLAdapter.load(tmp_path / "run" / "adapter").adapter.rank == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--base-model=llama-7b"], 2, "What can be loaded"),
        (["--texts=."], 2, "expected .txt files"),
        (["--num-clients=2", "--aggregation=krun"], 1, "did you mean 'krum'"),
    ],
)
def test_what_is_refused_leaves_with_one_line_and_a_code(arguments, code, said, tmp_path):
    done = command(*arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
