"""What privacy, its files and its combinations promise, each seen broken before it was mended."""

from __future__ import annotations

import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl_impl import FederatedLearningCoordinator, FLConfig, FLMetrics, make_clients
from fl_impl.compression import resolve
from fl_impl.privacy import MECHANISMS, Budget, Gaussian, seeded

PRIVATE: dict[str, Any] = {
    "differential_privacy": True, "dp_epsilon": 8.0, "dp_delta": 1e-5, "dp_seed": 0, "model": "linear", "num_clients": 16,
}  # fmt: skip


def noise_on_the_model(name: str, budget: Budget, rounds: int, clients: int) -> float:
    """Root mean square over rounds and coordinates of the noise of prefix sums, measured."""
    mechanism = MECHANISMS[name].calibrated(budget, rounds=rounds, clip_bound=1.0, clients=clients)
    randomness, state, total, squares = seeded(1), mechanism.start(), np.zeros(4_000), 0.0
    for _ in range(rounds):
        released, state = mechanism.release(np.zeros((0, 4_000)), state, randomness)
        total = total + released.value
        squares += float((total**2).mean())
    return (squares / rounds) ** 0.5


@pytest.mark.parametrize(("fraction", "rounds"), [(1.0, 20), (0.5, 20), (0.1, 20)])
def test_ftrl_is_less_noisy_than_independent_noise_or_warns(fraction: float, rounds: int) -> None:
    """P8: of the noise that the model carries, at epsilon 1."""
    budget = Budget(1.0, 1e-5, fraction)
    correlated, independent = (noise_on_the_model(name, budget, rounds, 100) for name in ("ftrl", "gaussian"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        FLConfig(
            num_rounds=rounds, num_clients=100, fraction_fit=fraction, differential_privacy=True, dp_epsilon=1.0,
            dp_delta=1e-5, dp_mechanism="ftrl",
        )  # fmt: skip
    assert correlated < independent or any("ftrl" in str(warning.message) for warning in said)


def test_dp_sgd_refuses_layers_that_mix_examples() -> None:
    from fl_impl.privacy.example_level import dp_sgd

    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3, track_running_stats=False))
    budget = Budget(8.0, 1e-5, 0.5)
    with pytest.raises(ValueError, match="BatchNorm1d"):
        dp_sgd(
            model, torch.zeros(8, 4), torch.zeros(8, dtype=torch.long), loss=torch.nn.functional.cross_entropy,
            mechanism=Gaussian.calibrated(budget, rounds=2, clip_bound=1.0, clients=8), budget=budget, steps=1,
            learning_rate=0.1,
        )  # fmt: skip


def test_files_of_a_private_run_are_their_owners(tmp_path: Path) -> None:
    config = FLConfig(num_rounds=2, fraction_fit=0.5, dp_mechanism="ftrl", **PRIVATE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FederatedLearningCoordinator(config).run(make_clients(config), output=tmp_path / "run.json")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"run.json": 0o600, "run.safetensors": 0o600, "run.ledger": 0o600}


def test_the_size_of_a_poisson_sample_is_not_published(tmp_path: Path) -> None:
    seen: set[tuple[Any, ...]] = set()
    for seed in range(3):
        config = FLConfig(num_rounds=3, fraction_fit=0.5, **{**PRIVATE, "dp_seed": seed})
        FederatedLearningCoordinator(config).run(make_clients(config), output=tmp_path / "run.json")
        for result in FLMetrics.load(tmp_path / "run.json").rounds:
            seen.add((result.num_clients, result.bytes_up, result.bytes_down))
    assert len(seen) == 1


@pytest.mark.parametrize("spec", ["power_sgd(rank=0)", "power_sgd(rank=-1)", "power_sgd(rank=1.5)"])
def test_power_sgd_sends_something(spec: str) -> None:
    with pytest.raises(ValueError, match="rank"):
        resolve(spec)
