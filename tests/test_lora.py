"""Federated fine-tuning on real speakers: every mode learns, the mean falls to an attack, rules on products do not."""

from __future__ import annotations

import hashlib
import lzma
from importlib import resources

import numpy as np
import pytest

from fl_impl import ClientUpdate, FLMetrics
from fl_impl.lora import MODES, LoRAFLAdapter, aggregate_states, make_text_clients
from fl_impl.lora.adapter import HELD_OUT
from fl_impl.lora.text import hamlet

QUICK = {"local_steps": 3, "batch_size": 4, "context": 48, "judged": 384}


def new(**options):
    return LoRAFLAdapter(base_model="tiny", **{"rank": 8, "alpha": 16, "target_modules": ["q_proj", "v_proj"], **options})


FIRST = ("ffa", "flexlora")
"""Modes that every run trains; the others come with the slow tests."""


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=() if mode in FIRST else pytest.mark.slow) for mode in MODES])
def test_every_mode_lowers_the_held_out_loss_of_real_speakers(mode):
    adapter, clients = new(), make_text_clients(num_clients=3)
    judged = {"context": 48, "judged": 1024}
    before = adapter.evaluate(clients, **judged)
    metrics = adapter.federated_fit(clients, rounds=5, aggregation=mode, local_steps=4, batch_size=8, **judged)
    after = adapter.evaluate(clients, **judged)
    print(f"{mode}: held-out loss {before.loss:.3f} -> {after.loss:.3f}, perplexity {after.perplexity:.2f}")
    assert after.loss < before.loss - 0.1
    assert all(after.clients[name] < before.clients[name] for name in before.clients)
    assert metrics.final.global_loss == after.loss
    assert metrics.clients[HELD_OUT + "Hamlet"][::5] == [before.clients["Hamlet"], after.clients["Hamlet"]]


def attacked(rule, rounds=3):
    adapter, clients = new(), make_text_clients(num_clients=10)
    options = {"attack": "sign_flip(scale=5)", "byzantine_fraction": 0.2, "aggregation": rule}
    metrics = adapter.federated_fit(clients, rounds, **options, **QUICK)
    honest = [name for i, name in enumerate(c.name for c in clients) if i not in metrics.final.byzantine]
    losses = np.mean([metrics.clients[HELD_OUT + name] for name in honest], axis=0)
    print(f"{rule}: held-out loss of the honest {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert len(metrics.final.byzantine) == 2
    return losses


def test_the_mean_falls_to_two_sign_flipping_clients_of_ten():
    losses = attacked("mean")
    assert losses[-1] > losses[0] + 0.3


@pytest.mark.parametrize("rule", ["nnm|krum", "geometric_median"])
def test_rules_on_products_hold_against_them(rule):
    losses = attacked(rule)
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["multi_krum", "minimum_diameter", "caf", "fedex|nnm|krum", "ffa|nnm|krum", "flora|nnm|krum"])
def test_more_rules_on_products_and_other_modes_hold_against_them(rule):
    losses = attacked(rule)
    assert losses[-1] < losses[0] - 0.02


class Echo:
    """A client of the user's own, with text to be judged by."""

    def __init__(self, answer, text):
        self.answer, self.held_out, self.name = answer, text.held_out, text.name

    def fit(self, parameters, round):
        return self.answer(parameters)


def steady(parameters, push=1e-3):
    return ClientUpdate(np.full_like(parameters, push), 10, 1.0)


def with_nan(parameters):
    return steady(parameters, np.nan)


def faulty(parameters):
    raise RuntimeError("out of memory")


def echoes(*answers):
    return [Echo(answer, text) for answer, text in zip(answers, make_text_clients(len(answers)), strict=True)]


def test_faulty_adapters_are_rejected_with_their_reasons():
    short = lambda parameters: ClientUpdate(parameters[1:], 10, 1.0)  # noqa: E731
    adapter = new(rank=2)
    metrics = adapter.federated_fit(echoes(steady, with_nan, faulty, short), 1, judged=128)
    reasons = metrics.final.rejected
    assert metrics.final.num_clients == 1
    assert "non-finite" in reasons[1]
    assert "out of memory" in reasons[2]
    assert "wrong shape" in reasons[3]
    with pytest.raises(ValueError, match=r"2 sound updates, but 3 are needed .*krum with f=1.*out of memory"):
        adapter.federated_fit(echoes(steady, steady, faulty), 1, aggregation="krum", byzantine_fraction=0.5, judged=128)


@pytest.mark.parametrize("mode", ["ffa", "rolora"])
def test_what_is_not_trained_is_not_sent(mode):
    adapter = new(rank=2)
    before = [module.down.copy() for module in adapter.adapter.modules]
    noisy = {"attack": "noise_injection", "attack_fraction": 0.4, "byzantine_fraction": 0.0}
    metrics = adapter.federated_fit(make_text_clients(5), 1, aggregation=mode, **noisy, **{**QUICK, "local_steps": 1})
    for old, module in zip(before, adapter.adapter.modules, strict=True):
        np.testing.assert_allclose(module.down, old, atol=1e-7)
    assert metrics.final.bytes_up == pytest.approx(metrics.final.bytes_down / 2, rel=0.01)  # but for the header


def test_mixed_ranks_stay_within_their_ranks():
    seen = []

    def look(parameters):
        seen.append(np.count_nonzero(np.abs(parameters[128 * 4 :][: 4 * 128].reshape(4, 128)).sum(axis=1)))
        return ClientUpdate(np.zeros_like(parameters), 10, 1.0)

    new(rank=4).federated_fit(echoes(look, look, look), 1, ranks=[1, 4, 2], judged=128)
    assert seen == [1, 4, 2]
    clients = make_text_clients(3)
    metrics = new(rank=4).federated_fit(clients, 1, aggregation="flora", ranks=[1, 4, 2], **QUICK)
    assert np.isfinite(metrics.final.global_loss)
    with pytest.raises(ValueError, match="ranks must be 3 numbers from 1 to 4"):
        new(rank=4).federated_fit(clients, 1, ranks=[1, 5, 2])
    with pytest.raises(ValueError, match="take flora or flexlora"):
        new(rank=4).federated_fit(clients, 1, aggregation="fedit", ranks=[1, 4, 2])


def test_rules_on_factors_run_and_warn():
    with pytest.warns(UserWarning, match="another result"):
        metrics = new(rank=2).federated_fit(
            echoes(steady, steady, steady), 1, aggregation="median", space="factors", judged=128
        )
    assert metrics.final.deviation == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="random A of its own"):
        new(rank=2).federated_fit(echoes(steady), 1, aggregation="flora|median", space="factors")
    with pytest.raises(ValueError, match="space must be one of"):
        new(rank=2).federated_fit(echoes(steady), 1, space="product space")


def test_the_same_seed_gives_the_same_run():
    runs = [new(rank=2, seed=3).federated_fit(make_text_clients(2), 2, **QUICK) for _ in range(2)]
    assert runs[0].rounds == runs[1].rounds
    assert runs[0].rounds != new(rank=2, seed=4).federated_fit(make_text_clients(2), 2, **QUICK).rounds


def test_metrics_are_saved_with_the_losses_of_each_client(tmp_path):
    metrics = new(rank=2).federated_fit(make_text_clients(2), 1, **QUICK)
    read = FLMetrics.load(metrics.save(tmp_path / "run.json"))
    assert read.rounds[0].global_loss == metrics.final.global_loss
    assert len(read.clients[HELD_OUT + "Claudius"]) == 2


def test_contradictions_are_refused():
    adapter = new(rank=2)
    with pytest.raises(ValueError, match="expected clients, got none"):
        adapter.federated_fit([], 1)
    with pytest.raises(ValueError, match="text has no labels"):
        adapter.federated_fit(make_text_clients(3), 1, attack="label_flip", byzantine_fraction=0.4)
    with pytest.raises(ValueError, match="held-out text"):
        adapter.evaluate([object()])


def test_the_text_is_hamlet_by_speaker():
    packed = resources.files("fl_impl.data").joinpath("hamlet.txt.xz").read_bytes()
    recorded = resources.files("fl_impl.data").joinpath("SOURCES.md").read_text()
    assert hashlib.sha256(lzma.decompress(packed)).hexdigest() in recorded
    spoken = hamlet()
    assert list(spoken)[:4] == ["Hamlet", "Claudius", "Polonius", "Horatio"]
    assert "To be, or not to be,--that is the question" in spoken["Hamlet"]
    assert "Enter Ghost" not in "".join(spoken.values())
    assert "something is rotten" not in spoken["Hamlet"].lower()


def test_clients_hold_what_they_say_in_two_parts():
    clients = make_text_clients(num_clients=6)
    assert [client.name for client in clients] == ["Hamlet", "Claudius", "Polonius", "Horatio", "Laertes", "Ophelia"]
    assert all(client.text + client.held_out == hamlet()[client.name] for client in clients)
    assert all(0.19 < len(c.held_out) / len(c.text + c.held_out) < 0.21 for c in clients)
    own = make_text_clients(texts={"a": "x" * 1500, "b": "y" * 1000}, held_out=0.5)
    assert [(c.name, c.num_samples, len(c.held_out)) for c in own] == [("a", 750, 750), ("b", 500, 500)]
    assert len(make_text_clients()) >= 13


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_clients": 99}, "num_clients must be from 1 to"),
        ({"num_clients": 0}, "num_clients must be from 1 to"),
        ({"texts": {"a": "too short"}}, "has 9 characters"),
        ({"held_out": 1.0}, "between 0 and 1"),
    ],
)
def test_clients_that_cannot_be_made_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        make_text_clients(**options)


def test_mixed_ranks_in_which_nobody_trains_change_nothing():
    """FlexLoRA on products as they stand forgets: of ranks 2, 2, 8, 8 every singular value beyond the second is halved."""
    adapter = new(rank=8)
    rng = np.random.default_rng(1)
    once = echoes(
        *(lambda start: ClientUpdate(rng.normal(size=start.shape).astype(np.float32) * 0.1, 10, 1.0) for _ in range(4))
    )
    adapter.federated_fit(once, 1, judged=128)
    before = [product[0] for product in adapter.adapter.products()]
    idle = echoes(*(lambda start: ClientUpdate(np.zeros_like(start), 10, 1.0) for _ in range(4)))
    for aggregation in ("flexlora", "krum", "nnm|geometric_median"):
        adapter.federated_fit(idle, 2, aggregation=aggregation, ranks=[2, 2, 8, 8], byzantine_fraction=0.25, judged=128)
    for product, then in zip(adapter.adapter.products(), before, strict=True):
        np.testing.assert_allclose(product[0], then, atol=1e-5)


@pytest.mark.parametrize("counts", [[1, 1], [1, 1, 1, 1], [1, -1, 1], [1, np.nan, 1], [0, 0, 0], ["a", 1, 1]])
def test_counts_that_are_not_one_for_each_adapter_are_refused(counts):
    rng = np.random.default_rng(2)
    states = [{"q.lora_A.weight": rng.normal(size=(2, 5)), "q.lora_B.weight": rng.normal(size=(4, 2))} for _ in range(3)]
    with pytest.raises(ValueError, match="expected 3 finite, non-negative sample counts"):
        aggregate_states(states, counts=counts)


@pytest.mark.parametrize("mode", ["flora", "fedex"])
def test_what_is_added_to_the_weights_of_every_client_is_counted_as_sent(mode):
    clients = make_text_clients(num_clients=3)
    adapter = new(rank=2)
    metrics = adapter.federated_fit(clients, 1, aggregation=mode, **QUICK)
    shapes = adapter._adapted.shapes
    rank = 3 * 2 + (2 if mode == "fedex" else 0)  # the stacked factors, and for fedex those of the mean beside them
    assert metrics.final.bytes_down >= 3 * 4 * (sum((2 + rank) * (shape.m + shape.k) for shape in shapes))
