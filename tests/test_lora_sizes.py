"""The bytes of a fine-tune, counted from a configuration, against what there is."""

from __future__ import annotations

import tracemalloc

import pytest
from typer.testing import CliRunner

from fl_impl.experiment.commands import app
from fl_impl.lora import LoRAFLAdapter, aggregate_folders
from fl_impl.lora.factors import length
from fl_impl.lora.sizes import sizes, working


def test_llama_7b_needs_less_than_a_gigabyte_on_the_server():
    found = sizes("llama-7b", 16, ["q_proj", "v_proj"], 100)
    adapter = 32 * 2 * 16 * (4096 + 4096)
    by_place = {size.place: size.bytes for size in found if size.place != "client memory"}
    assert by_place["network"] == 4 * adapter
    assert by_place["server disk"] == 101 * 4 * adapter
    assert by_place["server memory"] < 1e9
    assert 2 * 6_738_415_616 in [size.bytes for size in found]  # the parameters of LLaMA-7B, in bfloat16


def test_what_is_counted_is_what_there_is(tmp_path):
    adapter = LoRAFLAdapter("tiny", rank=4)
    shapes = adapter._adapted.shapes
    found = sizes("tiny", 4, ["q_proj", "v_proj"], 40, fraction_fit=0.5)
    assert found[-1].bytes == 4 * length(shapes, 4)
    assert found[2].bytes == 2 * sum(p.numel() for name, p in adapter.model.named_parameters() if "lora" not in name)
    folder = adapter.save(tmp_path / "one")
    aggregate_folders([folder] * 2, tmp_path / "out", "nnm|krum")  # what is imported on first use
    tracemalloc.start()
    try:
        aggregate_folders([folder] * 20, tmp_path / "out", "nnm|krum", f=4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < working(shapes, 4, 20) + 2**18  # and the Python objects


def test_the_command_prints_them():
    result = CliRunner().invoke(
        app,
        [
            "lora",
            "--plan",
            "--base-model",
            "llama-7b",
            "--rank",
            "16",
            "--target-modules",
            "q_proj,v_proj",
            "--num-clients",
            "100",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "server memory" in result.output
    assert "3.39 GB" in result.output
    wrong = CliRunner().invoke(app, ["lora", "--plan", "--base-model", "no-such-model"])
    assert wrong.exit_code != 0


def test_a_model_without_a_configuration_is_refused():
    with pytest.raises(ValueError, match="config.json of a model; got 'gpt-9'"):
        sizes("gpt-9", 8, ["q_proj"], 10)
    with pytest.raises(ValueError, match="no linear module 'q_prj'"):
        sizes("llama-7b", 8, ["q_prj"], 10)
