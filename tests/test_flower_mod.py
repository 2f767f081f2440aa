"""byzantine_mod on real messages: who attacks, in which rounds, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

from flower_vectors import ORIGIN, ORIGIN_VECTOR, QUIET, learner, once, rows_of, with_mod
from flwr.app import ArrayRecord, Context, RecordDict
from flwr.serverapp.strategy import FedAvg

from fl_impl import FederatedLearningCoordinator, FLConfig
from fl_impl.flower import byzantine_mod
from fl_impl.flower.decoder import unpacked
from fl_impl.flower.mod import byzantine_clients
from fl_impl.flower.records import form_of


def updates_sent(mod, rows, rounds=1):
    """round -> (n, d), what the clients send."""
    sent = {}

    class Watching(FedAvg):
        def aggregate_train(self, server_round, replies):
            replies = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
            got = [
                np.concatenate([part.ravel() for part in r.content["arrays"].to_numpy_ndarrays()])
                for r in replies
                if r.has_content()
            ]
            sent[server_round] = np.array(got) - ORIGIN_VECTOR
            return ArrayRecord(ORIGIN), None

    once(Watching(**QUIET), with_mod(mod, learner(rows)), len(rows), rounds)
    return sent


def test_mod_flips_the_sign_of_the_named_clients_in_the_named_rounds():
    rows = rows_of(5)
    sent = updates_sent(byzantine_mod("sign_flip", clients={1, 3}, rounds={2}), rows, rounds=3)
    flipped = rows.copy()
    flipped[[1, 3]] *= -1
    for number, expected in ((1, rows), (2, flipped), (3, rows)):
        np.testing.assert_allclose(sent[number], expected, atol=1e-6)


def test_mod_by_fraction_attacks_with_those_that_the_coordinator_draws():
    rows = rows_of(10)
    sent = updates_sent(byzantine_mod("sign_flip", 0.3, seed=5), rows)[1]
    attackers = byzantine_clients(0.3, 10, seed=5)
    assert len(attackers) == 3
    assert set(np.flatnonzero(np.abs(sent - rows).max(axis=1) > 1e-3)) == set(attackers)
    config = FLConfig(aggregation="median", byzantine_fraction=0.3, attack="sign_flip", seed=5)
    assert set(FederatedLearningCoordinator(config)._attackers.among(range(10), 10, 1)) == set(attackers)


def test_a_node_that_has_no_partition_attacks_with_that_probability():
    mod = byzantine_mod("sign_flip", 0.3)
    attackers = [mod.place(Context(1, node, {}, RecordDict(), {})) is not None for node in range(2000)]
    assert 0.25 < np.mean(attackers) < 0.35
    with pytest.raises(ValueError, match="partition-id"):
        byzantine_mod("sign_flip", clients={0}).place(Context(1, 2, {}, RecordDict(), {}))


def test_mod_remembers_and_colludes():
    rows = rows_of(6)
    stale = updates_sent(byzantine_mod("stale", clients={0}), rows, rounds=2)
    np.testing.assert_allclose(stale[2][0], rows[0], atol=1e-6)
    noise = updates_sent(byzantine_mod("noise_injection", clients={0, 1}), rows)[1]
    assert not np.allclose(noise[0] - rows[0], noise[1] - rows[1], atol=1e-3)  # two rows of one draw
    gone = updates_sent(byzantine_mod("drop_out", clients={0}), rows)[1]
    assert len(gone) == 5


def test_mod_says_what_an_omniscient_attack_is_told_instead():
    assert "runs as published" in byzantine_mod("sign_flip", 0.2).knowledge
    assert "cannot see" in byzantine_mod("a_little_is_enough", 0.2).knowledge
    assert "aggregator=" in byzantine_mod("optimized", 0.2).knowledge
    sent = updates_sent(byzantine_mod("inner_product_manipulation", clients={0}), rows_of(4), rounds=2)
    assert np.vdot(sent[2][0], rows_of(4)[0]) < 0  # against the only update that it knows: its own


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"attack": "label_flip", "fraction": 0.2}, "poisons data"),
        ({"attack": "sign_flip"}, "who attacks"),
        ({"attack": "sign_flip", "fraction": 0.2, "clients": {1}}, "who attacks"),
        ({"attack": "sign_flip", "fraction": 1.2}, "from 0 to 1"),
        ({"attack": "sign_flop", "fraction": 0.2}, "sign_flip"),
    ],
)
def test_mod_refuses(settings, match):
    with pytest.raises(ValueError, match=match):
        byzantine_mod(**settings)


def test_integers_and_doubles_survive():
    record = ArrayRecord([np.arange(3), np.array([0.1], np.float64), np.float16([1.5])])
    form = form_of(record)
    again = form.record(form.read(record))
    for name, before in record.items():
        assert again[name].dtype == before.dtype
        np.testing.assert_array_equal(again[name].numpy(), before.numpy())
    assert not unpacked(record["0"], (3,)).flags.writeable
