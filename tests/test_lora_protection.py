"""Federated LoRA with privacy, compression and secure sums: of the trained factors, in the modes that a sum is enough for."""

from __future__ import annotations

import numpy as np
import pytest

from fl_impl import ClientUpdate
from fl_impl.compression import resolve
from fl_impl.lora import MODES, LoRAFLAdapter, make_text_clients

QUICK = {"local_steps": 3, "batch_size": 4, "context": 48, "judged": 384}
PRIVATE = {"dp_epsilon": 8.0, "dp_delta": 1e-5, "dp_seed": 0}
SUMMED = ("fedit", "ffa", "rolora")


def new(rank=4):
    return LoRAFLAdapter("tiny", rank=rank, alpha=8, target_modules=["q_proj", "v_proj"])


def trained(adapter, side="B"):
    return int(adapter._adapted.trained(side).sum())


class Steps:
    """Answers with an update of a given length along one trained entry."""

    def __init__(self, length, entry, text):
        self.length, self.entry, self.text = length, entry, text

    def fit(self, parameters, round):
        delta = np.zeros_like(parameters)
        delta[self.entry] = self.length
        return ClientUpdate(delta, 10, 0.0)


@pytest.mark.parametrize("compression", ["sparse", "quantize", "int4"])
def test_compressed_updates_still_lower_the_held_out_loss(compression):
    adapter, clients = new(), make_text_clients(3)
    before = adapter.evaluate(clients, context=48, judged=384).loss
    metrics = adapter.federated_fit(clients, 4, aggregation="ffa", compression=compression, **QUICK)
    print(f"{compression}: {before:.3f} -> {metrics.final.global_loss:.3f}")
    assert metrics.final.global_loss < before - 0.03
    assert metrics.final.bytes_up == 3 * resolve(compression).message_bytes(trained(adapter))


@pytest.mark.parametrize("mode", SUMMED)
def test_a_budget_that_costs_little_changes_little_and_is_spent(mode):
    clients = make_text_clients(3)
    generous = {"dp_epsilon": 1e6, "dp_delta": 1e-5, "dp_seed": 0, "dp_clip": 100.0}
    private = new().federated_fit(clients, 2, aggregation=mode, **generous, **QUICK)
    plain = new().federated_fit(clients, 2, aggregation=mode, secure_aggregation=True, **QUICK)
    assert private.final.global_loss == pytest.approx(plain.final.global_loss, abs=0.02)
    assert private.final.epsilon == pytest.approx(1e6, rel=0.01)
    assert private.final.noise == "seed 0"
    assert "noise on a round's mean" in private.notes[-1]


def test_noise_is_on_the_trained_factors_alone_and_a_client_moves_them_by_the_bound():
    moved = []
    for length in (0.0, 1e3):
        adapter = new()
        entry = int(np.flatnonzero(adapter._adapted.trained("B"))[0])
        clients = [Steps(length, entry, ""), Steps(0.0, entry, ""), Steps(0.0, entry, "")]
        start = adapter.adapter.flat(1.0)[0].copy()
        adapter.federated_fit(clients, 1, aggregation="ffa", dp_clip=0.5, **PRIVATE)
        moved.append(adapter.adapter.flat(1.0)[0] - start)
    held = ~adapter._adapted.trained("B")
    np.testing.assert_array_equal(moved[0][held], 0)
    assert (moved[0][~held] != 0).mean() > 0.99
    assert np.abs(moved[1] - moved[0]).max() * 3 / adapter._adapted.scale == pytest.approx(0.5, rel=1e-4)


def test_fits_on_the_same_clients_share_a_ledger_that_is_saved_with_the_adapter(tmp_path):
    adapter, clients = new(), make_text_clients(3)
    adapter.federated_fit(clients, 1, aggregation="ffa", **PRIVATE, **QUICK)
    again = LoRAFLAdapter.load(adapter.save(tmp_path / "adapter"))
    for fitted in (adapter, again):
        with pytest.raises(ValueError, match="round 1 would bring the spent epsilon to 1"):
            fitted.federated_fit(clients, 1, aggregation="ffa", **PRIVATE, **QUICK)
    assert [entry.run for entry in again.ledger.entries] == ["run 1"]


def test_no_budget_covers_a_fit_without_privacy(tmp_path):
    adapter, clients = new(), make_text_clients(3)
    adapter.federated_fit(clients, 1, aggregation="ffa", **QUICK)
    for fitted in (adapter, LoRAFLAdapter.load(adapter.save(tmp_path / "adapter"))):
        with pytest.raises(ValueError, match="was fitted before without privacy"):
            fitted.federated_fit(clients, 1, aggregation="ffa", **PRIVATE, **QUICK)


def test_local_privacy_goes_with_every_mode_and_rule():
    for mode in MODES:
        metrics = new().federated_fit(
            make_text_clients(3), 1, aggregation=f"{mode}|krum", dp_mechanism="local", **PRIVATE, **QUICK
        )
        assert metrics.final.epsilon <= 8.0
        assert metrics.final.noise == "seed 0"


def test_a_secure_sum_of_ffa_is_the_mean_of_the_products():
    clients = make_text_clients(3)
    for client in clients:
        assert client.num_samples
    plain = new().federated_fit([Same(client) for client in clients], 1, aggregation="ffa", **QUICK)
    secure = new().federated_fit([Same(client) for client in clients], 1, aggregation="ffa", secure_aggregation=True, **QUICK)
    assert secure.final.deviation == pytest.approx(0, abs=1e-4)
    assert plain.final.deviation == pytest.approx(0, abs=1e-4)
    assert secure.final.bytes_up > plain.final.bytes_up


class Same:
    """A client that claims as many samples as every other."""

    def __init__(self, client):
        self.entry = sum(map(ord, client.name)) % 100

    def fit(self, parameters, round):
        delta = np.zeros_like(parameters)
        delta[: 100 + self.entry] = 0.01
        return ClientUpdate(delta, 7, 0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"aggregation": "flexlora", **PRIVATE}, "use ffa, which is exact"),
        ({"aggregation": "flora", "secure_aggregation": True}, "use ffa, which is exact"),
        ({"aggregation": "ffa|krum", **PRIVATE}, "krum is no sum"),
        ({"aggregation": "rolora", "compression": "sparse"}, "remembers what it sent"),
        ({"aggregation": "flora", "compression": "error_feedback|top_k(0.1)"}, "remembers what it sent"),
        ({"aggregation": "ffa", "dp_delta": 1e-5}, "dp_delta are of privacy"),
        ({"aggregation": "ffa", "dp_epsilon": 1.0}, "needs a delta"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        new().federated_fit(make_text_clients(3), 1, **options, **QUICK)
