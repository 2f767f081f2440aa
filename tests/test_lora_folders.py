"""Folders that peft wrote, aggregated on disk: peft loads the result, with the logits of the aggregate."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from fl_impl.lora import LoRAFLAdapter, aggregate_folders, aggregate_states
from fl_impl.lora.keys import with_ranks
from fl_impl.lora.stored import open_folder, product_gram

SIZES = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
TOKENS = torch.arange(1, 13)[None]
KINDS = {
    "plain": {},
    "seq_cls": {"task_type": "SEQ_CLS"},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 5}, "use_rslora": True},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "saved": {"modules_to_save": ["lm_head"]},
    "bias": {"bias": "lora_only", "target_modules": "all-linear"},
}


def base(task):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if task == "SEQ_CLS":
            return LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=3))
        return LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True))


def written(tmp_path, client, kind, spread=0.3, **changed):
    """A folder by peft whose trained numbers are those of a common start and a client's own."""
    options = {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        **KINDS[kind],
        **changed,
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(base(options["task_type"]), LoraConfig(**options))
        torch.manual_seed(100 + client)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(spread * torch.randn_like(parameter))
    model.save_pretrained(str(tmp_path / f"client{client}"))
    return tmp_path / f"client{client}"


def loaded(folder, kind):
    return PeftModel.from_pretrained(base(KINDS[kind].get("task_type", "CAUSAL_LM")), str(folder)).eval()


def effective(model):
    """What the model computes with: every merged weight, bias and module, by name."""
    return {key: value.double() for key, value in model.merge_and_unload().state_dict().items()}


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("mode", [pytest.param("flora", marks=pytest.mark.slow), "flexlora"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dora"])
def test_what_peft_wrote_is_averaged_and_loads_back(kind, mode, tmp_path):
    folders = [written(tmp_path, client, kind) for client in range(3)]
    found = aggregate_folders(folders, tmp_path / "global", mode, rank=9)
    result = loaded(tmp_path / "global", kind)
    out = logits(result)
    got, each = effective(result), [effective(loaded(folder, kind)) for folder in folders]
    for key, value in got.items():
        torch.testing.assert_close(value, sum(one[key] for one in each) / 3, rtol=1e-4, atol=1e-5)
    mean = base(KINDS[kind].get("task_type", "CAUSAL_LM")).eval()
    mean.load_state_dict({key: (sum(one[key] for one in each) / 3).float() for key in got})
    torch.testing.assert_close(out, logits(mean), rtol=1e-3, atol=1e-4)
    assert found.error < 1e-6


def test_magnitudes_of_dora_are_averaged_apart_from_the_products(tmp_path):
    folders = [written(tmp_path, client, "dora") for client in range(3)]
    aggregate_folders(folders, tmp_path / "global", "flora")
    result = loaded(tmp_path / "global", "dora")
    clients = [loaded(folder, "dora") for folder in folders]
    for name, layer in result.named_modules():
        if hasattr(layer, "lora_magnitude_vector") and "default" in layer.lora_magnitude_vector:
            theirs = [client.get_submodule(name) for client in clients]
            delta = sum(one.get_delta_weight("default") for one in theirs) / 3
            magnitude = sum(one.lora_magnitude_vector["default"].weight for one in theirs) / 3
            torch.testing.assert_close(layer.get_delta_weight("default"), delta, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight, magnitude)
    with torch.no_grad():
        for name, layer in clients[0].named_modules():  # a model with that sum and those magnitudes, made by hand
            if hasattr(layer, "lora_magnitude_vector") and "default" in layer.lora_magnitude_vector:
                weight = layer.base_layer.weight + result.get_submodule(name).get_delta_weight("default")
                magnitude = result.get_submodule(name).lora_magnitude_vector["default"].weight
                layer.base_layer.weight.copy_(magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True))
    torch.testing.assert_close(logits(result), logits(clients[0].unload()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["fedit", "ffa", "rolora"])
def test_means_of_factors_keep_the_configuration(mode, tmp_path):
    folders = [written(tmp_path, client, "patterns") for client in range(3)]
    aggregate_folders(folders, tmp_path / "global", mode)
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "global", *folders)]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, sum(one[key] for one in weights[1:]) / 3)
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (tmp_path / "global", folders[0])]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("rule", "kind"), [("nnm|krum", "seq_cls"), ("geometric_median", "dora"), ("caf", "saved"), ("monna", "saved")]
)
def test_robust_rules_hold_products_and_saved_modules_against_an_attacker(rule, kind, tmp_path):
    folders = [written(tmp_path, client, kind, spread=0.1) for client in range(6)] + [written(tmp_path, 6, kind, spread=30.0)]
    found = aggregate_folders(folders, tmp_path / "global", rule, f=1)
    assert abs(found.weights[6]) < 1e-2
    got, honest = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "global", folders[0]))
    for key in got.keys() - {k for k in got if "lora_A" in k or "lora_B" in k}:
        assert (got[key] - honest[key]).norm() < 0.5 * honest[key].norm() + 2


def test_weights_are_those_of_aggregate_states(tmp_path):
    folders = [written(tmp_path, client, "plain") for client in range(5)]
    states = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    aggregate_folders(folders, tmp_path / "global", "krum", f=1, rank=3)
    merged = aggregate_states(states, "krum", f=1, scales=2.0, rank=3)
    for module, (up, down) in zip(sorted(open_folder(tmp_path / "global").modules), merged.adapter.modules, strict=True):
        got_up, got_down = open_folder(tmp_path / "global").factors(module)
        np.testing.assert_allclose(got_up.T @ got_down, up[0].T @ down[0], atol=1e-5)


def test_tiles_give_the_inner_products_of_products(tmp_path, monkeypatch):
    adapters = [open_folder(written(tmp_path, client, "patterns", r=3 - client % 2)) for client in range(5)]
    products = np.stack(
        [np.concatenate([np.ravel(up.T @ down) for up, down in map(one.factors, sorted(one.modules))]) for one in adapters]
    )
    for rows in (1, 6, 512):
        monkeypatch.setattr("fl_impl.lora.stored.ROWS", rows)
        np.testing.assert_allclose(product_gram(adapters), products @ products.T, rtol=1e-10)


def test_the_error_of_a_lower_rank_is_that_of_the_best_one(tmp_path):
    folders = [written(tmp_path, client, "plain") for client in range(4)]
    found = aggregate_folders(folders, tmp_path / "global", "flora", rank=2)
    whole, cut = 0.0, 0.0
    for module in open_folder(folders[0]).modules:
        total = sum(up.T @ down for up, down in (open_folder(folder).factors(module) for folder in folders)) / 4
        s = np.linalg.svd(total)[1]
        whole, cut = whole + (s**2).sum(), cut + (s[2:] ** 2).sum()
    assert found.error == pytest.approx(np.sqrt(cut / whole), rel=1e-3)


def test_adapters_with_nan_count_against_f(tmp_path):
    folders = [written(tmp_path, client, "plain") for client in range(5)]
    path = folders[2] / "adapter_model.safetensors"
    save_file({key: value * float("nan") for key, value in load_file(path).items()}, path)
    found = aggregate_folders(folders, tmp_path / "global", "geometric_median", f=1)
    assert list(found.rejected) == [2]
    assert found.weights[2] == 0
    with pytest.raises(ValueError, match=r"mean with f=0.*client2 holds NaN"):
        aggregate_folders(folders, tmp_path / "global", "mean")


def test_folders_that_do_not_fit_together_are_refused(tmp_path):
    plain, other = written(tmp_path, 0, "plain"), written(tmp_path, 1, "saved")
    with pytest.raises(ValueError, match=r"only .*client1 has base_model.model.lm_head.weight"):
        aggregate_folders([plain, other], tmp_path / "global")
    with pytest.raises(ValueError, match="is no adapter folder"):
        aggregate_folders([tmp_path], tmp_path / "global")
    with pytest.raises(ValueError, match=r"take flora or\s+flexlora for mixed ones"):
        aggregate_folders([plain, written(tmp_path, 2, "plain", r=2)], tmp_path / "global", "fedit")
    with pytest.raises(ValueError, match=r"give start="):
        aggregate_folders([other] * 3, tmp_path / "global", "centered_clipping")
    assert aggregate_folders([other] * 3, tmp_path / "global", "centered_clipping", start=other).weights
    config = plain / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "LOHA"}))
    with pytest.raises(ValueError, match="LOHA"):
        aggregate_folders([plain], tmp_path / "global")


def test_modules_of_several_ranks_are_named_exactly():
    config = {"r": 2, "lora_alpha": 4, "rank_pattern": {}, "alpha_pattern": {}}
    names = {"base_model.model.a.fc": 2, "base_model.model.fc": 5}
    changed = with_ranks(config, names, dict.fromkeys(names, 2.0))
    assert changed["rank_pattern"] == {"^a\\.fc": 2}
    assert (changed["r"], changed["lora_alpha"], changed["alpha_pattern"]) == (5, 10, {"^a\\.fc": 4})


@pytest.mark.parametrize("kind", ["dora", "embeddings", "seq_cls"])
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_states_with_magnitudes_embeddings_and_heads_are_aggregated_as_folders_are(kind, tmp_path):
    folders = [written(tmp_path, client, kind) for client in range(5)]
    states = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    merged = aggregate_states(states, "krum", f=1, scales=2.0, rank=3)
    aggregate_folders(folders, tmp_path / "global", "krum", f=1, rank=3)
    got = load_file(tmp_path / "global" / "adapter_model.safetensors")
    assert set(merged.whole) == {key for key in got if "lora_A" not in key and "lora_B" not in key and "embedding_" not in key}
    for key, value in merged.whole.items():
        np.testing.assert_allclose(value, got[key].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "reason"), [("seq_cls", "modules_to_save"), ("bias", "bias"), ("dora", "use_dora")])
def test_what_cannot_be_trained_here_is_refused_for_what_it_is(kind, reason, tmp_path):
    with pytest.raises(ValueError, match=rf"it has {reason}.*aggregate_folders"):
        LoRAFLAdapter.load(written(tmp_path, 0, kind))
