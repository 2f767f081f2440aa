"""R10: models with buffers train, each client with its own, and buffers are aggregated robustly; R9: where training happens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.training import cohort
from fl_impl.training.cohort import train_alone, train_together
from fl_impl.training.parameters import layout_of, load_vector, to_vector

SETTINGS: dict[str, Any] = {"num_clients": 6, "num_rounds": 4, "learning_rate": 0.3}
BUFFERS = ("1.running_mean", "1.running_var", "1.num_batches_tracked")


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def values(coordinator: FederatedLearningCoordinator, clients: Any) -> dict[str, np.ndarray]:
    views = clients[0].task.layout.views(torch.from_numpy(coordinator.parameters))
    return {name: view.numpy() for name, view in views.items()}


def federation(**changes: Any) -> tuple[FederatedLearningCoordinator, Any]:
    config = FLConfig(**{**SETTINGS, "model": with_batch_norm, **changes})
    clients = make_clients(config)
    coordinator = FederatedLearningCoordinator(config)
    coordinator.run(clients, output=None)
    return coordinator, clients


def test_the_layout_holds_parameters_then_statistics_then_counters() -> None:
    layout = layout_of(with_batch_norm())
    assert layout.names[-3:] == BUFFERS
    assert (layout.d - layout.trained, layout.counters) == (33, 1)
    assert layout_of(with_batch_norm(), "*num_batches*").counters == 0
    assert layout_of(with_batch_norm(), "*").buffers == ()
    module, other = with_batch_norm(), with_batch_norm()
    module(torch.randn(8, 64))
    load_vector(other, to_vector(module))
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor)


@pytest.mark.parametrize("rule", ["mean", "nnm|trimmed_mean", "krum", "centered_clipping", "fltrust"])
def test_a_model_with_batch_norm_learns_with_its_statistics(rule: str) -> None:
    coordinator, clients = federation(aggregation=rule, byzantine_fraction=0.0 if rule == "mean" else 0.16)
    assert not clients[0].task.unbatched  # one program for all clients
    accuracies = coordinator.metrics.series("accuracy")
    assert accuracies[-1] > 0.5
    found = values(coordinator, clients)
    assert found[BUFFERS[2]] == sum(-(-sorted(len(c.rows) for c in clients)[2] // 32) for _ in range(4))
    assert np.abs(found[BUFFERS[0]]).max() > 0.01
    assert (found[BUFFERS[1]] > 0).all()


def test_the_batched_program_equals_each_client_alone() -> None:
    config = FLConfig(**SETTINGS, model=with_batch_norm, client_momentum=0.5, partition="dirichlet(1.0)")
    together, alone = make_clients(config), make_clients(config)
    start = together[0].task.initial
    batched = train_together(together[0].task, together[0].recipe, together, start, 1)
    assert not together[0].task.unbatched
    for row, client in zip(batched.deltas, alone, strict=True):
        np.testing.assert_allclose(row, train_alone(client.task, client.recipe, client, start, 1).deltas[0], atol=2e-5)
    steps = {-(-len(client.rows) // 32) for client in together}
    assert set(batched.deltas[:, -1]) == steps
    assert len(steps) > 1


@pytest.mark.parametrize("samples", [33, 65, 2, 32])
def test_a_last_batch_of_one_sample_joins_the_one_before_where_a_batch_norm_needs_two(samples: int) -> None:
    clients = make_clients(FLConfig(**SETTINGS, model=with_batch_norm))
    for client in clients:
        client.rows = client.rows[:samples]
    deltas = train_together(clients[0].task, clients[0].recipe, clients, clients[0].task.initial, 1).deltas
    assert not clients[0].task.unbatched
    assert np.isfinite(deltas).all()
    assert set(deltas[:, -1]) == {max(1, (samples + 30) // 32)}  # the counter of batches
    alone = train_alone(clients[0].task, clients[0].recipe, clients[0], clients[0].task.initial, 1)
    np.testing.assert_allclose(deltas[0], alone.deltas[0], atol=2e-5)


def test_a_client_with_one_sample_is_named_where_a_batch_norm_needs_two() -> None:
    clients = make_clients(FLConfig(**SETTINGS, model=with_batch_norm))
    clients[3].rows = clients[3].rows[:1]
    with pytest.raises(ValueError, match="client 3 cannot train on its 1 samples: Expected more than 1 value per channel"):
        train_together(clients[0].task, clients[0].recipe, clients, clients[0].task.initial, 1)


class Halves(nn.Module):
    """torch.func cannot batch it: it asks for a number. Its counter is boolean, its table is computed anew."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = with_batch_norm()
        self.register_buffer("seen", torch.tensor([False, False]))
        self.register_buffer("table", torch.ones(1000), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.sum()) > 1e9:
            return x
        self.seen[0] = True
        return self.inner(x)


def test_what_cannot_be_batched_trains_in_the_loop_with_its_buffers() -> None:
    coordinator, clients = federation(model=Halves, num_rounds=2)
    assert clients[0].task.unbatched
    found = values(coordinator, clients)
    assert found["seen"].tolist() == [1.0, 0.0]
    assert "table" not in found
    assert found["inner.1.num_batches_tracked"] > 0
    assert not dict(clients[0].task.module.named_buffers())["seen"].any()  # the shared module is not written to


def test_hostile_buffers_are_bounded_by_the_honest_ones() -> None:
    def insane(honest: np.ndarray, f: int, rng: np.random.Generator) -> np.ndarray:
        del rng
        return np.full((f, honest.shape[1]), -1e9, honest.dtype)

    fair, clients = federation(aggregation="median", byzantine_fraction=0.34, num_rounds=1)
    attacked, _ = federation(aggregation="median", byzantine_fraction=0.34, attack=insane, num_rounds=1)
    clean, found = values(fair, clients), values(attacked, clients)
    assert abs(found[BUFFERS[2]] - clean[BUFFERS[2]]) <= 1
    assert (found[BUFFERS[1]] > 0).all()
    assert np.abs(found[BUFFERS[0]]).max() < 10
    assert attacked.metrics.final.accuracy > 0.1


def test_excluded_buffers_stay_as_they_are_in_the_model() -> None:
    coordinator, clients = federation(exclude_buffers="*")
    assert coordinator.parameters.size == layout_of(with_batch_norm(), "*").d
    fixed = clients[0].task.fixed
    assert sorted(fixed) == sorted(BUFFERS)
    assert fixed[BUFFERS[2]] == 0
    assert fixed[BUFFERS[1]].eq(1).all()


@pytest.mark.parametrize("optimizer", ["adam", "yogi", "sgd(momentum=0.9)"])
def test_the_servers_optimizer_moves_parameters_alone(optimizer: str) -> None:
    coordinator, clients = federation(server_optimizer=optimizer, num_rounds=2)
    found = values(coordinator, clients)
    assert found[BUFFERS[2]] == 2 * (-(-len(clients[3].rows) // 32))
    assert (found[BUFFERS[1]] > 0).all()


def test_buffers_under_privacy_or_compression_are_refused_with_the_remedy() -> None:
    for changes in ({"compression": "sparse"}, {"differential_privacy": True, "dp_epsilon": 5.0, "dp_delta": 1e-3}):
        with pytest.raises(ValueError, match=r'has buffers \(1.running_mean, .*give exclude_buffers="\*"'):
            federation(**changes)
        federation(**changes, exclude_buffers="*", num_rounds=1)


def test_buffers_survive_a_resumed_run(tmp_path: Any) -> None:
    config = FLConfig(**SETTINGS, model=with_batch_norm)
    whole = FederatedLearningCoordinator(config)
    whole.run(make_clients(config), output=tmp_path / "whole.json")
    short = FLConfig(**{**SETTINGS, "num_rounds": 2}, model=with_batch_norm)
    FederatedLearningCoordinator(short).run(make_clients(short), output=tmp_path / "part.json")
    resumed = FederatedLearningCoordinator(config)
    resumed.run(make_clients(config), output=tmp_path / "part.json", resume=True)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "'gpu' is no torch device: Expected one of cpu, cuda"),
        ("cuda:-3", "is no torch device"),
        ("", "is no torch device"),
        ("cuda:77", "the device 'cuda:77' is not there .*; there is cpu"),
        ("xpu", "the device 'xpu' is not there"),
    ],
)
def test_an_unknown_or_absent_device_is_an_error_at_once(device: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FLConfig(device=device)


class Places(TorchDispatchMode):
    """The devices of the floating tensors that operations make or read."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in (*args, result):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.seen.add(value.device.type)
        return result


@pytest.mark.parametrize("model", ["mlp", "cnn", with_batch_norm])
def test_training_happens_on_the_device(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    """On torch's meta device, which has shapes and no numbers: whatever stayed on the CPU would be seen, or would not fit."""
    config = FLConfig(num_clients=3, device="meta", model=model, client_momentum=0.5)
    clients = make_clients(config)
    assert {client.x.device.type for client in clients} == {"meta"}
    monkeypatch.setattr(cohort, "arrived", lambda tensor: np.zeros(tuple(tensor.shape), np.float32))
    parts = cohort.stack(clients[0].task, 3, "weights")
    assert {part.device.type for part in parts.values()} == {"meta"}
    moved = clients[0].task.layout.views(torch.from_numpy(clients[0].task.initial).to("meta"))
    monkeypatch.setattr(
        type(clients[0].task.layout), "views", lambda self, rows: moved if rows.ndim == 1 else stacked(self, rows)
    )
    places = Places()
    with places:
        gradient = cohort.batched_gradient(clients[0].task)
        x, y = cohort.gathered(clients, np.zeros((3, 8), np.int64))
        room = cohort.stack(clients[0].task, 3, "room")
        held = {name: value.unsqueeze(0) for name, value in clients[0].task.fixed.items()}
        gradient({**parts, **held}, x, y, room)
    assert places.seen == {"meta"}
    trained = cohort.train_together(clients[0].task, clients[0].recipe, clients, clients[0].task.initial, 1)
    assert trained.deltas.shape == (3, clients[0].task.layout.d)


def stacked(layout: Any, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    parts = rows.split(layout.sizes, dim=-1)
    return {name: part.view((len(rows), *shape)) for name, part, shape in zip(layout.names, parts, layout.shapes, strict=True)}
