"""What rounds cost, against closed forms and published figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from fl_impl.privacy import Budget, Gaussian, calibrate, gaussian_delta, gaussian_epsilon, gaussian_noise, spent_epsilon

PUBLISHED = [  # sampling, rounds, epsilon, noise multiplier at delta = 1e-5: COMPONENTS.md section 3, PLD at a fine grid
    (1.0, 1, 1.0, 3.7306),
    (1.0, 10, 1.0, 11.7973),
    (0.8, 10, 1.0, 9.5486),
    (0.8, 10, 2.0, 5.1559),
    (0.8, 10, 8.0, 1.6206),
    (0.5, 50, 3.0, 5.0587),
    (0.1, 100, 1.0, 3.9417),
    (0.01, 1000, 1.0, 1.4146),
]


@pytest.mark.parametrize(("sampling", "rounds", "epsilon", "published"), PUBLISHED)
def test_calibration_meets_published_noise_from_the_safe_side(sampling, rounds, epsilon, published):
    noise = calibrate(epsilon=epsilon, delta=1e-5, sampling=sampling, rounds=rounds)
    assert published * (1 - 5e-4) <= noise <= published * 1.002
    assert spent_epsilon(noise_multiplier=noise, delta=1e-5, sampling=sampling, rounds=rounds) <= epsilon


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-9])
def test_analytic_gaussian_inverts_its_delta(epsilon, delta):
    noise = gaussian_noise(epsilon, delta)
    assert gaussian_delta(1 / noise, epsilon) == pytest.approx(delta, rel=1e-9)
    assert gaussian_epsilon(1 / noise, delta) == pytest.approx(epsilon, rel=1e-9)
    assert gaussian_noise(epsilon, delta, sensitivity=3.0) == pytest.approx(3 * noise)


@pytest.mark.parametrize(("mu", "epsilon"), [(0.3, 0.1), (1.0, 1.0), (2.0, 0.0), (1.0, 5.0)])
def test_delta_is_the_hockey_stick_divergence(mu, epsilon):
    def excess(x):
        return max(0.0, norm.pdf(x, mu) - math.exp(epsilon) * norm.pdf(x))

    cut = epsilon / mu + mu / 2
    assert gaussian_delta(mu, epsilon) == pytest.approx(quad(excess, cut, cut + 12)[0], rel=1e-6)


def test_the_classical_formula_wastes_noise_and_is_false_for_large_epsilon():
    classical = {epsilon: math.sqrt(2 * math.log(1.25 / 1e-5)) / epsilon for epsilon in (0.5, 20.0)}
    assert gaussian_noise(0.5, 1e-5) < 0.8 * classical[0.5]
    assert gaussian_noise(20.0, 1e-5) > classical[20.0]
    assert gaussian_delta(1 / classical[20.0], 20.0) > 1e-5


def test_no_noise_no_privacy_and_no_rounds_no_cost():
    assert spent_epsilon(noise_multiplier=0.0, delta=1e-5, sampling=0.5, rounds=1) == math.inf
    assert spent_epsilon(noise_multiplier=0.0, delta=1e-5, sampling=0.5, rounds=0) == 0.0
    assert gaussian_epsilon(1e-9, 1e-5) == 0.0
    assert gaussian_delta(0.0, 1.0) == 0.0


def test_more_noise_and_less_sampling_cost_less():
    grid = [
        [spent_epsilon(noise_multiplier=z, delta=1e-5, sampling=q, rounds=5) for z in (1.0, 2.0, 4.0)] for q in (0.1, 0.5, 1.0)
    ]
    assert (np.diff(grid, axis=1) < 0).all()
    assert (np.diff(grid, axis=0) > 0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"delta": 0.0}, "delta must lie strictly between 0 and 1"),
        ({"delta": 1.0}, "delta must lie strictly between 0 and 1"),
        ({"sampling": 0.0}, r"sampling must be a probability in \(0, 1\]"),
        ({"sampling": 1.5}, r"sampling must be a probability in \(0, 1\]"),
        ({"rounds": -1}, "rounds must not be negative"),
        ({"epsilon": 0.0}, "epsilon > 0"),
    ],
)
def test_parameters_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        calibrate(**{"epsilon": 1.0, "delta": 1e-5, "sampling": 0.5, "rounds": 3, **wrong})


def test_a_budget_is_checked_when_it_is_made():
    with pytest.raises(ValueError, match="epsilon must be positive"):
        Budget(-1.0, 1e-5)


def test_a_run_stops_at_its_budget_and_not_before():
    budget = Budget(1.0, 1e-5, 0.8)
    mechanism = Gaussian.calibrated(budget, rounds=10, clip_bound=1.0, clients=5)
    assert mechanism.expected_clients == 4.0
    spent = [budget.authorize(mechanism, number) for number in range(1, 11)]
    assert spent[-1] == pytest.approx(1.0, rel=0.002)
    with pytest.raises(ValueError, match=r"round 11 .* Stop here, or calibrate for more rounds"):
        budget.authorize(mechanism, 11)
