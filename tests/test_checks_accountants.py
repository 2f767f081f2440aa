"""Accountants at the corners: every kind of false account is caught, and sound accountants are not."""

from __future__ import annotations

import math

import dp_accounting
import pytest
from dp_accounting.pld import privacy_loss_distribution

import pytest_fl
from fl_impl.privacy import calibrate, spent_epsilon
from pytest_fl.adapters.parts import accountant
from pytest_fl.subjects.parts import Accountant

CORNERS = (
    "never_below_exact_costs", "not_far_above_exact_costs", "more_costs_more_everywhere", "nonsense_is_refused",
    "calibrates_in_every_cell",
)  # fmt: skip


@pytest.mark.parametrize("check", CORNERS)
def test_our_accountant_holds_at_the_corners(check):
    report = pytest_fl.verify(accountant(), checks=[check])
    assert report.passed, str(report)


def spent(noise, delta, sampling, rounds):
    return spent_epsilon(noise_multiplier=noise, delta=delta, sampling=sampling, rounds=rounds)


def calibrated(epsilon, delta, sampling, rounds):
    return calibrate(epsilon=epsilon, delta=delta, sampling=sampling, rounds=rounds)


def broken(epsilon, **changes):
    return Accountant("broken", epsilon, precision=2e-3, **changes)


def one_grid_for_all(noise, delta, sampling, rounds):
    """Version 0.1.0 of ours."""
    if sampling == 1 or not rounds or not noise:
        return spent(noise, delta, sampling, rounds)
    loss = privacy_loss_distribution.from_gaussian_mechanism(noise, value_discretization_interval=1e-3, sampling_prob=sampling)
    return loss.self_compose(rounds).get_epsilon_for_delta(delta)


def believes_nan(noise, delta, sampling, rounds):
    return 0.0 if math.isnan(noise) else spent(noise, delta, sampling, rounds)


def any_delta(noise, delta, sampling, rounds):
    return spent(noise, delta if 0 < delta < 1 else 1e-5, sampling, rounds)


def finite_without_noise(noise, delta, sampling, rounds):
    return spent(max(noise, 1e-3), delta, sampling, rounds)


def a_year_at_once(noise, delta, sampling, rounds):
    return spent(noise, delta, sampling, max(rounds, 1))


def wraps(noise, delta, sampling, rounds):
    return spent(noise, delta, sampling, rounds % 2**15)


NEVER_BELOW, FAR_ABOVE, CELLS = CORNERS[0], CORNERS[1], CORNERS[4]
BROKEN = {
    "a floor of 1e-9 for delta": (broken(lambda z, d, q, t: spent(z, max(d, 1e-9), q, t)), NEVER_BELOW),
    "a floor of 1e-6 for delta": (broken(lambda z, d, q, t: spent(z, max(d, 1e-6), q, t)), NEVER_BELOW),
    "rounds end at 50 000": (broken(lambda z, d, q, t: spent(z, d, q, min(t, 50_000))), NEVER_BELOW),
    "rounds in 15 bits": (broken(wraps), NEVER_BELOW),
    "rare clients are free": (broken(lambda z, d, q, t: 0.0 if q < 1e-3 else spent(z, d, q, t)), NEVER_BELOW),
    "much noise is free": (broken(lambda z, d, q, t: 0.0 if z > 50 else spent(z, d, q, t)), NEVER_BELOW),
    "little noise counts as 1": (broken(lambda z, d, q, t: spent(max(z, 1.0) if z else z, d, q, t)), NEVER_BELOW),
    "a tenth of a per cent too low": (broken(lambda z, d, q, t: 0.999 * spent(z, d, q, t)), NEVER_BELOW),
    "a tenth of a per cent too low where sampled": (
        broken(lambda z, d, q, t: spent(z, d, q, t) * (0.999 if q < 1 else 1)), NEVER_BELOW,
    ),
    "sampling in hundredths": (broken(lambda z, d, q, t: spent(z, d, max(math.floor(100 * q) / 100, 1e-9), t)), NEVER_BELOW),
    "noise in whole numbers": (broken(lambda z, d, q, t: spent(math.ceil(z), d, q, t)), NEVER_BELOW),
    "one round less": (broken(lambda z, d, q, t: spent(z, d, q, max(t - 1, 1) if t else 0)), NEVER_BELOW),
    "square of the sampling": (broken(lambda z, d, q, t: spent(z, d, q * q, t)), NEVER_BELOW),
    "epsilon ends at 50": (broken(lambda z, d, q, t: min(spent(z, d, q, t), 50.0) if z else math.inf), NEVER_BELOW),
    "rounded to hundredths": (broken(lambda z, d, q, t: round(spent(z, d, q, t), 2) if z else math.inf), NEVER_BELOW),
    "sampling forgotten": (broken(lambda z, d, q, t: spent(z, d, 1.0, t)), FAR_ABOVE),
    "more rounds cost less": (
        broken(lambda z, d, q, t: spent(z, d, q, t) / (1 + t) if z else math.inf), "more_costs_more_everywhere",
    ),
    "believes NaN": (broken(believes_nan), "nonsense_is_refused"),
    "takes any delta": (broken(any_delta), "nonsense_is_refused"),
    "no noise, some privacy": (broken(finite_without_noise), "nonsense_is_refused"),
    "no round costs one": (broken(a_year_at_once), "nonsense_is_refused"),
    "calibrates 2 % above": (broken(spent, calibrate=lambda *a: 1.02 * calibrated(*a)), CELLS),
    "calibrates 1 % below": (broken(spent, calibrate=lambda *a: 0.99 * calibrated(*a)), CELLS),
    "no noise where hardly any is needed": (
        broken(spent, calibrate=lambda e, d, q, t: 0.0 if q * t < d else calibrated(e, d, q, t)), CELLS,
    ),
}  # fmt: skip


@pytest.mark.slow
def test_one_grid_for_every_epsilon_is_caught_and_so_is_an_fft_whose_rounding_drowns_delta():
    """dp-accounting 0.6 at delta = 1e-12: 3000 rounds of noise 1 at q = 0.01 cost 5.7917, and it says 5.7855."""
    below, above = pytest_fl.verify(broken(one_grid_for_all), checks=[NEVER_BELOW, FAR_ABOVE]).rows
    assert (below.outcome, above.outcome) == ("failed", "failed")
    assert "delta=1e-12" in below.reason
    assert one_grid_for_all(1.0, 1e-12, 0.01, 3000) < 5.79 < 5.7916 < spent(1.0, 1e-12, 0.01, 3000)


@pytest.mark.parametrize(("part", "check"), BROKEN.values(), ids=BROKEN)
def test_a_false_account_is_caught(part, check):
    (row,) = pytest_fl.verify(part, checks=[check]).rows
    assert row.outcome == "failed"
    assert "seed 0" in row.reason
    assert not row.reason.startswith("raised")


def renyi(noise, delta, sampling, rounds):
    if not noise:
        return math.inf
    if not (0 < delta < 1 and 0 < sampling <= 1 and noise > 0):
        raise ValueError("out of range")
    accountant = dp_accounting.rdp.RdpAccountant()
    if rounds:
        event = dp_accounting.GaussianDpEvent(noise)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(sampling, event), rounds)
    return accountant.get_epsilon(delta)


@pytest.mark.slow
def test_sound_accountants_pass_every_seed():
    for seed in range(50):
        for part in (accountant(), *([Accountant("dp-accounting, Renyi", renyi)] if seed % 10 == 0 else [])):
            report = pytest_fl.verify(part, seed=seed, checks=CORNERS)
            assert report.passed, str(report)
