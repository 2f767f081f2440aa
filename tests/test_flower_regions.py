"""Two levels of aggregation: the composed coefficient holds, is attained, and cannot be had for nothing."""

from __future__ import annotations

import numpy as np
import pytest

from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.flower.regions import Regions, bound, composed

PLANS = [
    Regions("coordinate_median", "coordinate_median", 3, 1, 1),
    Regions("trimmed_mean", "trimmed_mean", 5, 2, 2),
    Regions("nnm|trimmed_mean", "geometric_median", 5, 1, 1),
    Regions("krum", "coordinate_median", 4, 1, 1),
]


def ratios(plan, size, d, draws, levels):
    """Deviation over bound, for random values at a few levels; the last region is captured, the last rows of each lie."""
    rng, found = np.random.default_rng(0), []
    kappa = plan.kappa(plan.regions * size)
    good = plan.regions - plan.outer_f
    honest = np.array([r * size + i for r in range(good) for i in range(size - plan.inner_f)])
    for _ in range(draws):
        x = rng.choice(levels, size=(plan.regions, size, d))
        x[:, size - plan.inner_f :] = rng.choice([1e6, -1e6, *levels], size=(plan.regions, plan.inner_f, d))
        x[good:] = rng.choice([1e6, -1e6, *levels], size=(plan.outer_f, size, d))
        flat = x.reshape(-1, d)
        mu, limit = bound(flat, honest, kappa)
        deviation = np.linalg.norm(plan(flat) - mu)
        found.append(deviation / limit if limit else (0.0 if deviation < 1e-9 else np.inf))
    return np.array(found)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.inner}, {plan.outer}")
@pytest.mark.parametrize("d", [1, 3])
def test_the_composed_bound_holds(plan, d):
    assert ratios(plan, 5, d, 300, [0.0, 1.0, 0.5, -0.3]).max() <= 1 + 1e-9


@pytest.mark.parametrize(("plan", "size"), [(PLANS[0], 3), (PLANS[1], 5)])
def test_the_composed_bound_is_attained(plan, size):
    assert ratios(plan, size, 1, 4000, [0.0, 1.0]).max() >= 0.99


def test_the_mean_across_regions_breaks_it():
    plan = Regions("coordinate_median", "mean", 3, 1, 1)
    x = np.random.default_rng(0).normal(size=(9, 2))
    x[6:] = 1e6
    mu, limit = bound(x, np.array([0, 1, 3, 4]), composed(1.0, 1.0))
    assert np.linalg.norm(plan(x) - mu) > limit


def test_it_refuses_unequal_regions_and_too_many_attackers():
    with pytest.raises(ValueError, match="multiple of 3"):
        PLANS[0](np.zeros((10, 2)))
    with pytest.raises(ValueError, match="any 3 are tolerated"):
        PLANS[0](np.zeros((9, 2)), f=4)


def test_a_federation_of_two_levels_learns_where_the_mean_does_not():
    reached = {}
    for name, rule in (("two levels", Regions("trimmed_mean", "trimmed_mean", 4, 1, 1)), ("mean", "mean")):
        config = FLConfig(
            num_clients=20, num_rounds=8, aggregation=rule, byzantine_fraction=0.15, attack="sign_flip(scale=10)",
            batch_size=8, local_epochs=2,
        )  # fmt: skip
        reached[name] = FederatedLearningCoordinator(config).run(make_clients(config), output=None).final.accuracy
    assert reached["two levels"] > reached["mean"] + 0.2
