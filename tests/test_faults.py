"""Faults on purpose: each kind does what it says, on clients of ours and on Flower's messages, and plans say who and when."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from fl_impl import ClientUpdate, FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.faults import KINDS, Fault, FaultPlan, Moment, fault, faulty
from fl_impl.faults.kinds import effect_of

N, D = 7, 5


class Plain:
    """A client that moves by the round's number, one more for each client."""

    def __init__(self, number):
        self.number = number

    def fit(self, parameters, round):
        return ClientUpdate(np.full(D, self.number + round, np.float32), 3, 0.5)


def federation(plan, rounds=3, **settings):
    """(results, models) of a federation of plain clients under a plan."""
    config = FLConfig(num_clients=N, aggregation="mean", **settings)
    coordinator = FederatedLearningCoordinator(config, parameters=np.zeros(D))
    clients = faulty([Plain(i) for i in range(N)], plan, patience=config.client_timeout or 0.0)
    results, models = [], []
    for _ in range(rounds):
        results.append(coordinator.simulate_round(clients))
        models.append(coordinator.parameters)
    return results, models


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_effect_in_its_rounds_on_its_clients(kind):
    settings = {"client_timeout": 0.05} if kind == "hang" else {}
    results, models = federation(FaultPlan((Fault(kind, (2,), (2, 2)),)), **settings)
    _, calm = federation(FaultPlan())
    lost = effect_of(kind) in ("lost", "malformed")
    assert [result.num_clients for result in results] == [N, N - lost, N]
    assert [set(result.rejected) for result in results] == [set(), {2} if lost or kind == "duplicate" else set(), set()]
    np.testing.assert_array_equal(models[0], calm[0])
    assert np.array_equal(models[1], calm[1]) is (effect_of(kind) == "kept")
    np.testing.assert_allclose(models[2] - models[1], calm[2] - calm[1], rtol=1e-5)


def test_without_a_time_out_the_server_is_told_that_a_hanging_client_is_gone():
    results, _ = federation(FaultPlan((Fault("hang", (2,)),)), rounds=1)
    assert "Unreachable" in results[0].rejected[2]


def test_a_stale_reply_is_the_one_of_the_round_before():
    _, models = federation(FaultPlan((Fault("stale", tuple(range(N)), (2, 3)),)))
    assert [model[0] for model in np.diff([np.zeros(D), *models], axis=0)] == [4, 4, 5]  # 3 + round, one round late


def test_faults_overlap_and_a_lost_update_is_lost():
    plan = FaultPlan((Fault("duplicate", (0, 1)), Fault("byzantine", (1,)), Fault("crash", (1,), (2, 3))))
    assert [plan.effect(1, number) for number in (1, 2, 4)] == ["wrong", "lost", "wrong"]
    assert [plan.effect(client, 1) for client in (0, 2)] == ["kept", "kept"]
    assert [each.kind for each in plan.at(1, 2)] == ["byzantine", "crash", "duplicate"]
    assert plan.without("kept").faults == plan.faults[1:]
    twice = FaultPlan((Fault("duplicate", (0,)), Fault("slow", (0,)), Fault("duplicate", (0,))))
    assert len(twice.arrives(ClientUpdate(np.zeros(2), 1, 0.0), Moment(0, 1))) == 2


def test_a_plan_prints_as_the_python_that_makes_it():
    for plan in (
        FaultPlan(),
        FaultPlan((Fault("slow(seconds=0.01)", (3,), (1, 2)),)),
        FaultPlan((Fault("crash", (0, 1)),) * 2),
    ):
        assert eval(repr(plan), {"FaultPlan": FaultPlan, "Fault": Fault}) == plan


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("crahs", (0,)), "did you mean 'crash'"),
        (("crash", (0,), (3, 2)), "first and its last"),
        (("slow(x=1)", (0,)), "option 'x'"),
    ],
)
def test_a_mistake_in_a_plan_is_told(arguments, match):
    with pytest.raises(ValueError, match=match):
        Fault(*arguments)


def test_a_kind_of_ones_own_is_one_function():
    with KINDS.scoped():

        @fault("wrong")
        def sends_ones(update, moment, *, value: float = 1.0):
            """All ones."""
            return ClientUpdate(np.full_like(update.delta, value * moment.round), update.num_samples, update.loss)

        update = ClientUpdate(np.zeros(2), 1, 0.0)
        sent = FaultPlan((Fault("sends_ones(value=2)", (0,)),)).arrives(update, Moment(0, 3))
        assert sent.delta.tolist() == [6, 6]


def test_simulated_clients_follow_a_plan_and_nothing_else_changes():
    config = FLConfig(num_clients=4, num_rounds=2, local_steps=2)
    models = []
    for plan in (FaultPlan(), FaultPlan((Fault("duplicate", (1,)), Fault("slow", (2,))))):
        coordinator = FederatedLearningCoordinator(config)
        coordinator.run(faulty(make_clients(config), plan), output=None)
        models.append(coordinator.parameters)
    np.testing.assert_array_equal(*models)
    assert coordinator.metrics.final.accuracy > 0.1


@functools.cache
def on_flower(plan):
    """(model, what was rejected, nodes) after two rounds of four clients on Flower's messages."""
    from flwr.app import ArrayRecord

    from fl_impl.faults.messages import faulty_grid
    from fl_impl.flower import RobustStrategy
    from pytest_fl.engine.servers import made_up

    strategy = RobustStrategy("mean", fraction_evaluate=0.0)
    model = ArrayRecord([np.zeros((3, 1), np.float32), np.zeros(2, np.float32)])
    with faulty_grid(made_up(4, 0), 4, plan) as grid:
        after = strategy.start(grid, model, num_rounds=2).arrays
        nodes = grid.get_node_ids()
    return np.concatenate([part.ravel() for part in after.to_numpy_ndarrays()]), strategy.rejected, nodes


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_effect_on_flower(kind):
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")
    calm, _, _ = on_flower(FaultPlan())
    model, rejected, nodes = on_flower(FaultPlan((Fault(kind, (2,), (2, 2)),)))
    assert rejected[1] == {}
    assert set(rejected[2]) == ({nodes[2]} if effect_of(kind) in ("lost", "malformed") else set())
    assert np.allclose(model, calm, rtol=1e-6) is (effect_of(kind) == "kept")
    assert np.isfinite(model).all()
