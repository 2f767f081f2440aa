"""Local training: the batched program against the loop, and each algorithm against its definition."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.clients import SimulatedClient
from fl_impl.training.cohort import Recipe, batched_gradient, lone_gradient, train_alone, train_together
from fl_impl.training.models import make_task
from fl_impl.training.parameters import load_vector, to_vector
from fl_impl.training.server_optimizers import adam, sgd, yogi


def cohort(**settings: Any) -> list[SimulatedClient]:
    return make_clients(FLConfig(**settings))


def both(clients: list[SimulatedClient], rounds: int = 2, control: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The deltas of the last round, by the batched program and by the loop, each from a fresh state."""
    results = []
    for together in (True, False):
        fresh = [replace(client, state={}) for client in clients]
        parameters = fresh[0].task.initial
        for number in range(1, rounds + 1):
            if together:
                deltas = train_together(fresh[0].task, fresh[0].recipe, fresh, parameters, number, control).deltas
            else:
                alone = [train_alone(c.task, c.recipe, c, parameters, number, control).deltas for c in fresh]
                deltas = np.concatenate(alone)
        results.append(deltas)
    return results[0], results[1]


@pytest.mark.parametrize("partition", ["iid", "dirichlet(0.5)", "quantity(2.0)"])
@pytest.mark.parametrize(
    ("n", "settings"),
    [
        (10, {"local_epochs": 3}),
        (10, {"local_steps": 7}),
        (10, {"client_momentum": 0.9}),
        (10, {"client_algorithm": "fedprox(0.1)"}),
        (100, {}),
    ],
)
def test_the_batched_perceptron_gives_the_bits_of_the_loop(partition: str, n: int, settings: dict[str, Any]) -> None:
    together, alone = both(cohort(num_clients=n, partition=partition, **settings))
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("model", ["linear", "mlp(hidden=32, layers=3)", "mlp(hidden=112)"])
def test_other_perceptrons_too(model: str) -> None:
    np.testing.assert_array_equal(*both(cohort(num_clients=7, partition="dirichlet(1.0)", model=model)))


@pytest.mark.parametrize("model", ["mlp(hidden=33, layers=3)", "mlp(hidden=7)"])
def test_perceptrons_of_odd_widths_agree_to_rounding(model: str) -> None:
    together, alone = both(cohort(num_clients=7, partition="dirichlet(1.0)", model=model), rounds=1)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_scaffold_gives_the_bits_of_the_loop() -> None:
    clients = cohort(num_clients=6, client_algorithm="scaffold", local_steps=5)
    control = np.random.default_rng(0).normal(0, 0.01, len(clients[0].task.initial)).astype(np.float32)
    np.testing.assert_array_equal(*both(clients, 3, control))


@pytest.mark.parametrize(
    "model", ["cnn", lambda: nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.LayerNorm(12), nn.Linear(12, 10))]
)
def test_any_module_is_batched_and_agrees_with_the_loop_in_every_step(model: Any) -> None:
    clients = cohort(num_clients=4, model=model)
    task = clients[0].task
    weights = task.layout.views(torch.from_numpy(task.initial).repeat(len(clients), 1))
    x = torch.stack([client.x[client.rows[:32]] for client in clients])
    y = torch.stack([client.y[client.rows[:32]] for client in clients])
    together, losses = batched_gradient(task)(weights, x, y, {})
    assert not task.unbatched
    for i in range(len(clients)):
        one = {name: part[i : i + 1] for name, part in weights.items()}
        alone, loss = lone_gradient(task)(one, x[i : i + 1], y[i : i + 1], {})
        assert float(loss) == pytest.approx(float(losses[i]), rel=1e-5)
        for name, slope in alone.items():
            assert float((together[name][i] - slope[0]).abs().max()) <= 2e-5 * float(slope.abs().max())


def test_what_cannot_be_batched_is_trained_in_a_loop_and_says_so() -> None:
    clients = cohort(num_clients=3, model=lambda: nn.Sequential(nn.Linear(64, 20), nn.Dropout(0.5), nn.Linear(20, 10)))
    task, recipe = clients[0].task, clients[0].recipe
    together = train_together(task, recipe, clients, task.initial, 1).deltas
    assert task.unbatched
    alone = np.concatenate([train_alone(task, recipe, client, task.initial, 1).deltas for client in clients])
    np.testing.assert_array_equal(together, alone)


def test_the_first_step_is_plain_gradient_descent() -> None:
    client = cohort(num_clients=5, local_steps=1, batch_size=10_000, learning_rate=0.3)[2]
    module = make_task(client.data, "mlp", seed=0).module
    load_vector(module, client.task.initial)
    loss = functional.cross_entropy(module(client.x[client.rows]), client.y[client.rows])
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
    update = client.fit(client.task.initial, 1)
    np.testing.assert_allclose(update.delta, -0.3 * slope.numpy(), atol=1e-6)
    assert update.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert update.num_samples == len(client.rows)


def test_fedprox_pulls_towards_the_round_s_start() -> None:
    free, held = (cohort(client_algorithm=f"fedprox({mu})", local_epochs=5)[0] for mu in (0.0, 5.0))
    start = free.task.initial
    assert np.linalg.norm(held.fit(start, 1).delta) < 0.6 * np.linalg.norm(free.fit(start, 1).delta)


def test_client_momentum_is_kept_from_round_to_round() -> None:
    client = cohort(local_steps=1, batch_size=10_000, client_momentum=0.9)[0]
    start = client.task.initial
    gradient = -cohort(local_steps=1, batch_size=10_000)[0].fit(start, 1).delta / 0.1
    first, second = client.fit(start, 1).delta, client.fit(start, 2).delta
    np.testing.assert_allclose(first, -0.1 * 0.1 * gradient, atol=1e-7)
    np.testing.assert_allclose(second, -0.1 * 0.19 * gradient, atol=1e-7)  # 0.9 * 0.1 + 0.1


def test_scaffold_removes_client_drift() -> None:
    settings: dict[str, Any] = {
        "num_clients": 10,
        "partition": "pathological(2)",
        "local_steps": 15,
        "num_rounds": 25,
        "seed": 1,
    }
    plain, scaffold = (
        FederatedLearningCoordinator(config).run(make_clients(config), output=None).final.global_loss
        for config in (FLConfig(**settings), FLConfig(**settings, client_algorithm="scaffold"))
    )
    assert scaffold < 0.9 * plain


def test_server_optimizers_by_hand() -> None:
    a = np.array([1.0, -2.0])
    step, state = sgd(a, {}, learning_rate=0.5, momentum=0.9)
    np.testing.assert_allclose(step, 0.5 * a)
    np.testing.assert_allclose(sgd(a, state, learning_rate=0.5, momentum=0.9)[0], 0.5 * 1.9 * a)
    step, state = adam(a, {}, learning_rate=0.1, beta1=0.9, beta2=0.99, tau=1e-3)
    v = 0.99 * 1e-6 + 0.01 * a**2
    np.testing.assert_allclose(step, 0.1 * 0.1 * a / (np.sqrt(v) + 1e-3))
    np.testing.assert_allclose(yogi(a, {}, learning_rate=0.1, tau=1e-3)[1]["v"], 1e-6 + 0.01 * a**2)
    np.testing.assert_allclose(yogi(0 * a, {"m": a, "v": a**2})[1]["v"], a**2)
    assert state["m"][0] == pytest.approx(0.1)


@pytest.mark.parametrize("optimizer", ["sgd(momentum=0.9)", "adam(learning_rate=0.05)", "yogi(learning_rate=0.05)"])
def test_server_optimizers_learn(optimizer: str) -> None:
    config = FLConfig(num_rounds=15, server_optimizer=optimizer)
    assert FederatedLearningCoordinator(config).run(make_clients(config), output=None).final.accuracy > 0.75


def test_models_follow_from_the_seed_alone_and_vectors_go_both_ways() -> None:
    data = cohort(num_clients=2)[0].data
    torch.manual_seed(1)
    first = make_task(data, "cnn", seed=4)
    torch.manual_seed(2)
    second = make_task(data, "cnn", seed=4)
    np.testing.assert_array_equal(first.initial, second.initial)
    load_vector(second.module, first.initial * 2)
    np.testing.assert_array_equal(to_vector(second.module), first.initial * 2)
    with pytest.raises(ValueError, match="length d="):
        load_vector(second.module, np.zeros(3, np.float32))


def test_modules_that_no_aggregator_can_serve_are_refused() -> None:
    data = cohort(num_clients=2)[0].data
    with pytest.raises(ValueError, match="nothing to train"):
        make_task(data, nn.ReLU())
    with pytest.raises(ValueError, match="needs images"):
        make_task(data.with_arrays(data.x, data.y).__class__(data.x, data.y, 10), "cnn")


def test_the_batched_program_is_faster_than_the_loop() -> None:
    clients = cohort(num_clients=100)
    task, recipe = clients[0].task, Recipe()
    times: dict[bool, float] = {True: math.inf, False: math.inf}
    for _ in range(3):
        for together in times:
            started = time.process_time()
            if together:
                train_together(task, recipe, clients, task.initial, 1)
            else:
                for client in clients:
                    train_alone(task, recipe, client, task.initial, 1)
            times[together] = min(times[together], time.process_time() - started)
    assert times[False] > 3 * times[True]
