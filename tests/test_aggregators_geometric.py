"""The geometric median is the minimiser, whatever the updates look like."""

from __future__ import annotations

import warnings

import numpy as np
import oracles
import pytest
import torch
from oracles import CLOUDS

from fl_impl.aggregators import ConvergenceWarning, geometric_median

SIZES = [(1, 0, 2), (2, 0, 3), (3, 1, 1), (4, 1, 2), (6, 2, 1), (7, 3, 3), (12, 5, 4), (20, 4, 30), (31, 10, 100)]


def assert_minimises(x, z, tolerance):
    pull, here = oracles.pull(x, z)
    assert pull <= here * (1 + tolerance) + tolerance * len(x)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("seed", range(5))
def test_the_pull_of_the_updates_is_in_balance(cloud, seed):
    rng = np.random.default_rng(seed)
    for n, f, d in SIZES:
        x = CLOUDS[cloud](rng, n, f, d)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_minimises(x, geometric_median(x, f=f), 1e-6)


@pytest.mark.parametrize("cloud", ["generic", "duplicated", "line", "far", "huge", "tiny"])
def test_in_float32_as_far_as_it_resolves(cloud):
    for n, f, d in SIZES:
        x = CLOUDS[cloud](np.random.default_rng(1), n, f, d).astype(np.float32)
        assert_minimises(x.astype(np.float64), geometric_median(x, f=f).astype(np.float64), 1e-4)


@pytest.mark.parametrize("magnitude", [1e2, 1e3, 1e4, 1e6, 1e10, 1e16, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_updates_pull_by_their_direction(magnitude, dtype):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(15, 8)).astype(dtype)
    x[:5] *= dtype(magnitude)
    assert_minimises(x.astype(np.float64), geometric_median(x, f=5).astype(np.float64), 1e-4 if dtype == np.float32 else 1e-6)


def test_a_minimiser_among_the_updates_is_returned_exactly():
    rng = np.random.default_rng(3)
    for n in (5, 8, 13):
        x = rng.normal(size=(n, 4))
        x -= x[0]
        away = x[1:]
        away[-1] = -(away[:-1] / np.linalg.norm(away[:-1], axis=1, keepdims=True)).sum(axis=0)  # cancels the others but for < 1
        z = geometric_median(x + 5)
        pull, _ = oracles.pull(x, x[0])
        if pull < 0.999:
            np.testing.assert_array_equal(z, x[0] + 5)


def test_a_minimiser_close_to_an_update_is_not_mistaken_for_it():
    for excess in (1e-2, 1e-4, 1e-6):
        angle = np.arccos((1 + excess) / 2)  # two unit pulls that add up to 1 + excess
        x = np.array([[0.0, 0.0], [np.cos(angle), np.sin(angle)], [np.cos(angle), -np.sin(angle)]])
        z = geometric_median(x, f=1)
        assert 0 < z[0] < 2 * excess
        assert_minimises(x, z, 1e-7)


def test_the_middle_where_a_segment_minimises():
    x = np.array([[0.0], [1.0], [3.0], [10.0]])
    assert geometric_median(x, f=1) == [2.0]
    assert geometric_median(x[::-1], f=1) == [2.0]
    np.testing.assert_array_equal(geometric_median(np.array([[0.0, 0.0], [2.0, 4.0]])), [1.0, 2.0])


def test_most_equal():
    x = np.array([[1.0, 2.0]] * 3 + [[1e30, -1e30]] * 2)
    np.testing.assert_array_equal(geometric_median(x, f=2), [1.0, 2.0])
    np.testing.assert_array_equal(geometric_median(np.ones((4, 2)), f=1), [1.0, 1.0])


def test_a_bounded_number_of_steps_and_a_word_if_they_were_not_enough():
    x = np.random.default_rng(4).normal(size=(9, 3))
    with pytest.warns(ConvergenceWarning, match="max_steps=1"):
        geometric_median(x, f=2, max_steps=1)


def test_the_gradient_is_that_of_the_minimiser():
    x = torch.tensor(np.random.default_rng(5).normal(size=(9, 4)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: geometric_median(x, f=2, tolerance=1e-8), (x,), eps=1e-5, atol=1e-6)
    np.testing.assert_allclose(geometric_median(x, f=2).detach(), geometric_median(x.detach(), f=2), rtol=1e-9)


def test_the_gradient_at_an_update_goes_to_it_alone():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.1], [0.0, 1.0], [0.1, -1.0]], dtype=torch.float64, requires_grad=True)
    geometric_median(x, f=1).sum().backward()
    np.testing.assert_allclose(x.grad, [[1, 1]] + [[0, 0]] * 4, atol=1e-9)
