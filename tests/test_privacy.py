"""Clipping, noise, and the mechanisms that put them together."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fl_impl.privacy import (
    MECHANISMS,
    OPERATING_SYSTEM,
    AdaptiveGaussian,
    BandedFTRL,
    Budget,
    Gaussian,
    LocalGaussian,
    clip,
    cyclic_sample,
    gaussian_noise,
    l2_norm,
    poisson_sample,
    seeded,
)
from fl_impl.privacy.fixed_point import FixedPoint, from_ring, ring_encoding, to_ring
from fl_impl.privacy.ftrl import banded_factor, prefix_error, sensitivity
from fl_impl.privacy.noise import discrete_gaussian, normal, uniform

HALF = Budget(1.0, 1e-5, 0.5)
SIX_SIGMA = 6.0


def updates(m=6, d=50, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).standard_normal((m, d))


class TestClip:
    @pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-20, 1.0, 1e20, 1e200, 1e300])
    @pytest.mark.parametrize("factor_", [0.5, 1.0, 2.0, 1e6])
    def test_length_and_direction(self, scale, factor_):
        direction = np.array([3.0, -4.0, 0.0, 12.0]) / 13
        clipped = clip(scale * factor_ * direction, scale)
        np.testing.assert_allclose(clipped, scale * min(factor_, 1.0) * direction, rtol=1e-12)

    def test_zero_stays_zero(self):
        assert not clip(np.zeros(5), 1.0).any()

    def test_the_largest_floats_that_there_are(self):
        x = np.full(10, np.finfo(np.float64).max)
        np.testing.assert_allclose(clip(x, 2.0), np.full(10, 2 / math.sqrt(10)), rtol=1e-12)

    def test_short_updates_are_left_as_they_are(self):
        x = updates(1, 7)[0]
        np.testing.assert_array_equal(clip(x, 100.0), x)

    def test_float32_is_measured_in_float64(self):
        x = np.full(4, 3e38, np.float32)
        np.testing.assert_allclose(clip(x, 1.0), 0.5, rtol=1e-12)

    @pytest.mark.parametrize("bad", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, 0.0]])
    def test_non_finite_is_refused(self, bad):
        with pytest.raises(ValueError, match="must be finite; got 1 NaN or infinite of 2"):
            clip(bad, 1.0)

    @pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
    def test_bound_is_checked(self, bound):
        with pytest.raises(ValueError, match="clipping bound"):
            clip([1.0], bound)

    def test_shape_is_checked(self):
        with pytest.raises(ValueError, match=r"one vector.*\(2, 3\)"):
            l2_norm(np.ones((2, 3)))


class TestRandomness:
    def test_seeds_repeat_and_say_so(self):
        np.testing.assert_array_equal(normal(seeded(3), (9,)), normal(seeded(3), (9,)))
        assert seeded(3).source == "seed 3"
        assert OPERATING_SYSTEM.source == "operating system"
        assert (normal(OPERATING_SYSTEM, (9,)) != normal(OPERATING_SYSTEM, (9,))).all()

    def test_uniform_never_gives_zero(self):
        lowest = type(OPERATING_SYSTEM)(lambda size: bytes(size), "zeros")
        assert uniform(lowest, (3,)).tolist() == [2.0**-53] * 3

    @pytest.mark.parametrize("sigma", [1024.0, 2.0**30])
    def test_moments_of_the_discrete_gaussian(self, sigma):
        n = 200_000
        z = discrete_gaussian(seeded(1), (n,), sigma) / sigma
        for power, expected in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0), (6, 15.0)):
            spread = np.std(z**power) / math.sqrt(n)
            assert abs(np.mean(z**power) - expected) < SIX_SIGMA * spread

    def test_normal_draws_are_not_paired(self):
        z = normal(seeded(2), (100_000,))
        for lag in (1, 2, 25_000, 50_000):
            assert abs(np.mean(z[lag:] * z[:-lag])) < SIX_SIGMA / math.sqrt(z.size - lag)

    def test_grid_must_be_fine_enough(self):
        with pytest.raises(ValueError, match="between 1024 and"):
            discrete_gaussian(OPERATING_SYSTEM, (3,), 10.0)


class TestFixedPoint:
    def test_rounds_towards_zero(self):
        assert FixedPoint(0.5, 10).encode([1.4, -1.4, 0.4, 0.0]).tolist() == [2, -2, 0, 0]

    def test_refuses_what_would_wrap(self):
        with pytest.raises(ValueError, match="beyond the bound of 5"):
            FixedPoint(0.5, 10).encode([5.6])

    @pytest.mark.parametrize("terms", [1, 2, 10, 1000, 100_000])
    def test_a_sum_of_extremes_fits_the_ring(self, terms):
        grid = ring_encoding(1.0, terms)
        one = int(grid.encode([1.0])[0])
        assert 1024 <= one * terms < 2**31
        assert from_ring(to_ring(np.array([-one * terms, one * terms]))).tolist() == [-one * terms, one * terms]

    def test_too_many_terms_or_too_much_noise(self):
        with pytest.raises(ValueError, match="Sum in smaller groups"):
            ring_encoding(1.0, 10_000_000)
        with pytest.raises(ValueError, match="less noise"):
            ring_encoding(1.0, 10, noise_std=1e6)


@pytest.fixture(params=sorted(MECHANISMS))
def mechanism(request):
    return MECHANISMS[request.param].calibrated(HALF, rounds=4, clip_bound=2.0, clients=20)


class TestEveryMechanism:
    def test_runs_within_its_budget_and_not_beyond(self, mechanism):
        spent = [HALF.authorize(mechanism, number) for number in (1, 2, 3, 4)]
        assert all(before < after for before, after in itertools.pairwise(spent))
        assert 0.95 < spent[-1] <= 1.0
        with pytest.raises(ValueError, match=r"round 5 would bring the spent epsilon to .* of a budget of 1 at delta=1e-05"):
            HALF.authorize(mechanism, 5)

    def test_says_where_its_noise_comes_from(self, mechanism):
        released, _ = mechanism.release(updates())
        assert released.randomness == "operating system"
        assert mechanism.release(updates(), None, seeded(4))[0].randomness == "seed 4"

    def test_a_seed_repeats_the_release(self, mechanism):
        first, second = (mechanism.release(updates(), None, seeded(5))[0] for _ in range(2))
        np.testing.assert_array_equal(first.value, second.value)

    def test_noise_has_the_deviation_that_the_release_states(self, mechanism):
        x, state, values = np.zeros((6, 20_000)), mechanism.start(), []
        for _ in range(2):
            released, state = mechanism.release(x, state, seeded(len(values)))
            values.append(released.value / released.noise_std)
        for z in values:
            assert abs(np.mean(z**2) - 1) < SIX_SIGMA * math.sqrt(2 / z.size)

    def test_non_finite_updates_are_refused(self, mechanism):
        x = updates()
        x[2, 3] = np.nan
        with pytest.raises(ValueError, match="finite"):
            mechanism.release(x)

    def test_counts_who_was_clipped(self, mechanism):
        x = np.zeros((4, 3))
        x[1], x[3] = 100.0, 1e200
        assert mechanism.release(x)[0].clipped == 2

    def test_shape_is_checked(self, mechanism):
        with pytest.raises(ValueError, match=r"must be \(m, d\)"):
            mechanism.release(np.ones(3))


@pytest.mark.parametrize("name", ["gaussian", "ftrl"])
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 1e6, 1e200])
def test_one_client_moves_the_sum_by_its_clipped_update(name, scale):
    mechanism = MECHANISMS[name].calibrated(HALF, rounds=4, clip_bound=2.0, clients=20)
    x = updates(6, 50)
    x[5] *= scale
    with_client, without = (mechanism.release(rows, None, seeded(6))[0].value for rows in (x, x[:5]))
    moved = (with_client - without) * mechanism.expected_clients
    np.testing.assert_allclose(moved, clip(x[5], 2.0), atol=50 * 2.0 / 2**30)
    assert np.linalg.norm(moved) <= 2.0 * (1 + 1e-7)


@pytest.mark.parametrize("name", ["gaussian", "adaptive", "ftrl"])
def test_a_round_may_be_empty(name):
    mechanism = MECHANISMS[name].calibrated(HALF, rounds=4, clip_bound=2.0, clients=20)
    value = mechanism.release(np.empty((0, 30)))[0].value
    assert value.shape == (30,)
    assert np.isfinite(value).all()


def test_local_needs_a_client():
    with pytest.raises(ValueError, match="at least one client"):
        LocalGaussian(1.0, 1.0).release(np.empty((0, 3)))


class TestAdaptive:
    def test_bound_follows_the_median_of_the_norms(self):
        mechanism = AdaptiveGaussian(0.1, 0.5, 300.0, count_noise=5.0, rate=0.4)
        norms = np.exp(np.random.default_rng(0).standard_normal(300))
        x, bound = norms[:, None] * np.eye(1, 3), mechanism.start()
        for step in range(30):
            bound = mechanism.release(x, bound, seeded(step))[1]
        assert np.mean(norms <= bound) == pytest.approx(0.5, abs=0.05)

    def test_sum_and_count_together_cost_what_z_alone_would(self):
        z, count = 1.3, 40.0
        spent = AdaptiveGaussian(1.0, z, 100.0, count_noise=count).sum_noise_multiplier
        assert spent**-2 + (2 * count) ** -2 == pytest.approx(z**-2)

    def test_a_count_that_costs_more_than_everything_is_refused(self):
        with pytest.raises(ValueError, match="count_noise must be above half"):
            AdaptiveGaussian(1.0, 4.0, 100.0, count_noise=2.0).release(updates())


class TestLocal:
    def test_neighbours_are_two_bounds_apart(self):
        mechanism = LocalGaussian.calibrated(Budget(2.0, 1e-6), rounds=1, clip_bound=3.0, clients=5)
        assert mechanism.noise_multiplier * 3.0 == pytest.approx(gaussian_noise(2.0, 1e-6, sensitivity=2 * 3.0))


def toeplitz(column, rounds):
    """The lower-triangular Toeplitz matrix of a first column, zeros after it."""
    c = np.r_[column, np.zeros(rounds)][:rounds]
    return np.array([[c[i - j] if i >= j else 0.0 for j in range(rounds)] for i in range(rounds)])


class TestFTRL:
    @pytest.mark.parametrize(("rounds", "separation"), [(1, 1), (4, 1), (6, 2), (7, 3), (8, 3), (9, 4), (6, 20)])
    def test_sensitivity_is_that_of_the_worst_of_all_schedules_and_signs(self, rounds, separation):
        """By brute force: every subset of rounds that are far enough apart, and every sign of each contribution."""
        c = np.array(banded_factor(rounds, separation))
        matrix = toeplitz(c, rounds)
        worst = 0.0
        for signs in itertools.product((-1, 0, 1), repeat=rounds):
            at = np.flatnonzero(signs)
            if (np.diff(at) >= separation).all():
                worst = max(worst, float(np.linalg.norm(matrix @ np.array(signs))))
        assert sensitivity(c, rounds, separation=separation) == pytest.approx(worst, rel=1e-12)

    @pytest.mark.parametrize(("rounds", "separation"), [(12, 3), (20, 5), (16, 16)])
    def test_no_small_change_of_the_factor_has_less_error(self, rounds, separation):
        c = np.array(banded_factor(rounds, separation))

        def error(column):
            return np.linalg.norm(
                np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(toeplitz(column, rounds))
            ) * np.linalg.norm(column)

        assert error(c) == pytest.approx(prefix_error(c, rounds) * math.sqrt(rounds) * np.linalg.norm(c))
        for k, step in itertools.product(range(1, len(c)), (-0.02, 0.02)):
            assert error(c + step * np.eye(1, len(c), k)[0]) > error(c) * (1 - 1e-6)

    def test_one_band_is_independent_noise_and_more_bands_are_refused(self):
        assert banded_factor(50, 1) == (1.0,)
        with pytest.raises(ValueError, match="at most separation=2 bands; got 3"):
            sensitivity(np.ones(3), 9, separation=2)

    def test_noise_is_made_for_so_many_rounds(self):
        mechanism = BandedFTRL(1.0, 1.0, 1.0, rounds=1)
        _, state = mechanism.release(updates())
        with pytest.raises(ValueError, match="made for 1 rounds; round 2 is not covered"):
            mechanism.release(updates(), state)

    def test_noise_that_is_whitened_is_independent(self):
        """C n / (s z) over the rounds has the identity for its covariance: noise is solved for, not only scaled."""
        mechanism, d, rounds = BandedFTRL(1.0, 2.0, 1.0, rounds=8, separation=4), 20_000, 8
        randomness, state, noise = seeded(5), None, []
        for _ in range(rounds):
            released, state = mechanism.release(np.zeros((0, d)), state, randomness)
            noise.append(released.value)
        white = toeplitz(mechanism.factor, rounds) @ np.array(noise) / (mechanism.sensitivity * 2.0)
        np.testing.assert_allclose(white @ white.T / d, np.eye(rounds), atol=SIX_SIGMA * math.sqrt(2 / d))


class TestSampling:
    def test_poisson(self):
        sizes = [len(poisson_sample(100, 0.3, seeded(i))) for i in range(400)]
        assert abs(np.mean(sizes) - 30) < SIX_SIGMA * math.sqrt(21 / 400)
        assert np.var(sizes) == pytest.approx(21, rel=SIX_SIGMA * math.sqrt(2 / 400))
        assert poisson_sample(5, 1.0) == (0, 1, 2, 3, 4)
        assert poisson_sample(5, 0.0) == ()

    def test_probability_is_checked(self):
        with pytest.raises(ValueError, match=r"in \[0, 1\]; got 1.1"):
            poisson_sample(5, 1.1)

    def test_cyclic_gives_each_client_its_turn(self):
        turns = [cyclic_sample(7, number, 3) for number in range(1, 7)]
        assert turns[:3] == [(0, 3, 6), (1, 4), (2, 5)]
        assert turns[3:] == turns[:3]

    def test_mechanisms_sample_as_they_account(self):
        assert len(Gaussian(1.0, 1.0, 5.0).sample(1000, 1, HALF, seeded(0))) == pytest.approx(500, abs=SIX_SIGMA * 16)
        assert BandedFTRL(1.0, 1.0, 5.0, rounds=9, separation=4).sample(8, 2, HALF) == (1, 5)
