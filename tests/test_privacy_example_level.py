"""Example-level DP-SGD: the gradients of single examples, and training within a budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl_impl.privacy import Budget, Gaussian, seeded
from fl_impl.privacy.example_level import dp_sgd, example_gradients

opacus = pytest.importorskip("opacus", reason="example-level privacy is an extra: pytest-fl[opacus]")
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")  # opacus, at the first layer of any model
BUDGET = Budget(8.0, 1e-5, 0.2)


def data(n=300):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=generator)
    return x, (x[:, 0] + x[:, 1] > 0).long()


def model():
    torch_model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in torch_model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return torch_model


def test_gradients_are_those_of_single_examples():
    plain, (x, y) = model(), data(7)
    expected = []
    for i in range(7):
        loss = torch.nn.functional.cross_entropy(plain(x[i : i + 1]), y[i : i + 1])
        expected.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, plain.parameters())]).numpy())
    wrapped = opacus.GradSampleModule(plain, loss_reduction="mean")
    found = example_gradients(wrapped, plain.parameters(), torch.nn.functional.cross_entropy, x, y)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def train(steps, **options):
    x, y = data()
    mechanism = Gaussian.calibrated(BUDGET, rounds=30, clip_bound=1.0, clients=len(x))
    trained = model()
    spent = dp_sgd(
        trained, x, y, loss=torch.nn.functional.cross_entropy, mechanism=mechanism, budget=BUDGET, steps=steps,
        learning_rate=2.0, randomness=seeded(0), **options,
    )  # fmt: skip
    return float((trained(x).argmax(1) == y).float().mean()), spent


def test_learns_within_its_budget():
    accuracy, spent = train(30)
    assert accuracy > 0.85
    assert 7.5 < spent <= 8.0


def test_goes_on_where_it_stopped_and_not_past_the_budget():
    assert train(2, steps_before=20)[1] > train(2)[1]
    with pytest.raises(ValueError, match="round 31 would bring the spent epsilon"):
        train(5, steps_before=28)
