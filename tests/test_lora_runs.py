"""Fits that sample clients, are stopped and go on, and base weights that take nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from fl_impl import ClientUpdate, FLMetrics
from fl_impl.lora import LoRAFLAdapter, TextClient, bases, make_text_clients
from fl_impl.lora.bases import Base, given
from fl_impl.rounds.quorum import QuorumError

QUICK = {"local_steps": 2, "batch_size": 2, "context": 16, "judged": 64}
PRIVATE = {"aggregation": "ffa", "dp_epsilon": 8.0, "dp_delta": 1e-5, "dp_seed": 3}


def new(**options):
    return LoRAFLAdapter(base_model="tiny", **{"rank": 2, "alpha": 4, "seed": 1, **options})


def clients(n=6):
    return make_text_clients(n)


class Pusher:
    """A client whose update depends on where it starts, its number and the round."""

    def __init__(self, number, asked):
        self.number, self.asked = number, asked

    def fit(self, parameters, round):
        self.asked.append((round, self.number))
        rng = np.random.default_rng([self.number, round])
        return ClientUpdate(0.1 * rng.normal(size=parameters.shape).astype(np.float32) - 0.1 * parameters, 10, 1.0)


def pushers(n, asked=None):
    return [Pusher(number, [] if asked is None else asked) for number in range(n)]


def test_a_share_of_the_clients_is_asked_as_in_the_federation():
    asked = []
    metrics = new().federated_fit(pushers(8, asked), 3, fraction_fit=0.5)
    by_round = {number: [client for at, client in asked if at == number] for number in (1, 2, 3)}
    assert [len(who) for who in by_round.values()] == [4, 4, 4]
    assert len({tuple(who) for who in by_round.values()}) > 1
    assert [result.num_clients for result in metrics.rounds] == [4, 4, 4]
    full = new().federated_fit(pushers(8), 1)
    assert metrics.rounds[0].bytes_down * 2 == full.final.bytes_down
    tolerant = new().federated_fit(
        pushers(8), 1, fraction_fit=0.75, byzantine_fraction=0.25, sample_tolerance=0, aggregation="geometric_median"
    )
    assert tolerant.final.f == 2


def test_the_quorum_is_of_those_asked():
    with pytest.raises(ValueError, match="min_clients must be from 1 to 4"):
        new().federated_fit(pushers(8), 1, fraction_fit=0.5, min_clients=5)
    broken = pushers(8)
    for client in broken[:5]:
        client.fit = lambda *_: None
    with pytest.raises(QuorumError, match=r"sound updates, but 4 are needed of the 4 clients asked"):
        new().federated_fit(broken, 1, fraction_fit=0.5, min_clients=4)
    with pytest.raises(ValueError, match="fraction_fit is the share"):
        new().federated_fit(broken, 1, fraction_fit=0)


@pytest.mark.parametrize(
    "options",
    [
        {"aggregation": "fedex|geometric_median", "byzantine_fraction": 0.2, "attack": "sign_flip"},
        {"aggregation": "flora"},
        {"aggregation": "fedit", "compression": "ef21|top_k(0.1)"},
        PRIVATE,
    ],
    ids=["fedex", "flora", "ef21", "private"],
)
def test_a_stopped_fit_goes_on_to_the_same_bits(options, tmp_path):
    options = {"fraction_fit": 0.8, **options}

    class Stop(Exception):  # noqa: N818  # it is no error
        pass

    def stop(result):
        if result.round == 2:
            raise Stop

    whole = new()
    whole.federated_fit(pushers(6), 4, output=tmp_path / "whole.json", **options)
    with pytest.raises(Stop):
        new().federated_fit(pushers(6), 4, output=tmp_path / "run.json", on_round=stop, **options)
    asked, again = [], new()
    again.federated_fit(pushers(6, asked), 4, output=tmp_path / "run.json", resume=True, **options)
    assert {number for number, _ in asked} == {3, 4}
    assert [r.text for r in again.metrics.rounds] == [r.text for r in whole.metrics.rounds]
    for one, two in zip(again.adapter.modules, whole.adapter.modules, strict=True):
        np.testing.assert_array_equal(one.up, two.up)
        np.testing.assert_array_equal(one.down, two.down)
    assert again.ledger is None or [e.round for e in again.ledger.entries] == [1, 2, 3, 4]


def test_a_fit_of_another_configuration_is_not_taken_up(tmp_path):
    new().federated_fit(pushers(4), 1, output=tmp_path / "run.json")
    with pytest.raises(ValueError, match="fraction_fit is 1.0 there and 0.5 here"):
        new().federated_fit(pushers(4), 2, output=tmp_path / "run.json", resume=True, fraction_fit=0.5)


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_where_an_unbroken_fit_does(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from fl_impl.lora import LoRAFLAdapter, make_text_clients
        quick = {"local_steps": 2, "batch_size": 2, "context": 16, "judged": 64}
        def kill(result):
            if result.round == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        LoRAFLAdapter("tiny", 2, 4, seed=1).federated_fit(
            make_text_clients(6), 3, fraction_fit=0.5, aggregation="fedex", output=sys.argv[1], on_round=kill, **quick)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run.json")], check=False, env=os.environ.copy())
    assert done.returncode == -signal.SIGKILL
    options = {"fraction_fit": 0.5, "aggregation": "fedex", **QUICK}
    again, whole = new(), new()
    again.federated_fit(clients(), 3, output=tmp_path / "run.json", resume=True, **options)
    whole.federated_fit(clients(), 3, output=tmp_path / "whole.json", **options)
    assert again.metrics.clients == whole.metrics.clients
    assert [r.text for r in FLMetrics.load(tmp_path / "run.json").rounds] == [r.text for r in whole.metrics.rounds]


def test_epsilon_is_that_of_the_ledger_and_sampling_makes_it_cheaper():
    sampled, full = new(), new()
    half = sampled.federated_fit(pushers(40), 2, fraction_fit=0.5, **PRIVATE)
    whole = full.federated_fit(pushers(40), 2, **PRIVATE)
    assert sampled.ledger.entries[-1].noise_multiplier < full.ledger.entries[-1].noise_multiplier
    assert half.final.epsilon == pytest.approx(sampled.ledger.epsilon(1e-5), rel=1e-6)
    assert whole.final.epsilon <= 8
    assert half.final.num_clients == 20  # the expected number: who was drawn is private


def test_text_is_tokenised_once():
    seen = []

    def tokenizer(text):
        seen.append(text)
        return list(text.encode())

    base = bases.load_base("tiny").model
    adapter = LoRAFLAdapter(base, rank=2, tokenizer=tokenizer)
    for _ in range(2):
        adapter.federated_fit(clients(2), 2, **QUICK)
    assert len(seen) == len(set(seen)) == 4


def test_a_model_loaded_in_4_bits_is_recognised():
    model = bases.load_base("tiny").model
    assert not given(model, None).quantized
    model.is_loaded_in_4bit = True
    assert given(model, None).quantized
    assert given(model, list).quantized


def test_four_bits_are_nf4_with_bfloat16(monkeypatch):
    monkeypatch.setattr(bases, "import_module", lambda name: None)
    monkeypatch.setattr("transformers.BitsAndBytesConfig.post_init", lambda self: None)
    config = bases.four_bits("cpu")["quantization_config"]
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)


@pytest.mark.parametrize("mode", ["fedex", "flora"])
def test_a_bfloat16_base_loses_nothing_of_the_residual(mode, tmp_path):
    """Added to bfloat16 weights, a fifth of it was rounded away, and save() wrote another model than the one trained."""
    adapter = new(torch_dtype=torch.bfloat16)
    weight = adapter._adapted.layers[0].base_layer.weight
    before = weight.clone()
    adapter.federated_fit(pushers(3), 2, aggregation=mode)
    assert torch.equal(weight, before)
    x = torch.randn(5, weight.shape[1])
    layer = adapter._adapted.layers[0].float()
    up, down = (torch.from_numpy(side[0]).float() for side in adapter.adapter.modules[0])
    with torch.no_grad():
        torch.testing.assert_close(layer(x) - x @ layer.base_layer.weight.T, x @ down.T @ up, rtol=1e-3, atol=1e-4)


def test_a_packed_base_takes_fedex_and_is_not_merged():
    adapter = new()
    object.__setattr__(adapter._adapted, "base", Base("packed", adapter.model, list, quantized=True))
    adapter.federated_fit(pushers(3), 1, aggregation="fedex")
    with pytest.raises(ValueError, match="packed into 4 bits"):
        adapter.merge()


def test_a_fit_of_ones_own_texts_needs_no_files():
    own = [TextClient(str(i), "to be or not " * 40, "to be or not " * 10) for i in range(3)]
    assert np.isfinite(new().federated_fit(own, 1, **QUICK).final.global_loss)


@pytest.mark.slow
def test_sampled_rounds_under_sign_flips_end_within_two_per_cent_of_the_clean_loss_and_the_mean_does_not():
    settings = {"local_steps": 5, "batch_size": 8, "context": 48, "judged": 384, "fraction_fit": 0.5, "sample_tolerance": 0}

    def ended(rule, fraction=0.0, **attack):
        adapter = LoRAFLAdapter("tiny", rank=8, alpha=16)
        options = {**settings, **attack, "aggregation": rule, "byzantine_fraction": fraction}
        return adapter.federated_fit(clients(10), 6, **options).final.global_loss

    attack = {"attack": "sign_flip(scale=5)", "attack_fraction": 0.2}
    clean = ended("mean")
    found = {rule: ended(rule, 0.2, **attack) for rule in ("nnm|geometric_median", "minimum_diameter")}
    undefended = ended("mean", **attack)
    print(f"held-out loss: clean {clean:.4f}, the mean under attack {undefended:.4f}, {found}")
    assert all(loss < 1.02 * clean for loss in found.values())
    assert undefended > 1.5 * clean
