"""CGE, AKSEL and the robust learning rate: by their definitions, and what the published rules do not promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import CLOUDS

from fl_impl import aggregators
from pytest_fl.oracles.definitions import DEFINITIONS

SIZES = [(3, 1, 1), (5, 2, 3), (6, 1, 4), (8, 3, 2), (11, 2, 40), (30, 7, 65)]


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("name", ["cge", "aksel", "robust_learning_rate"])
def test_definition(name, cloud):
    rng, compared = np.random.default_rng(0), 0
    for n, f, d in SIZES:
        x = CLOUDS[cloud](rng, n, f, d)
        for updates in (x, torch.from_numpy(x)):
            result = np.asarray(aggregators.ALL[name](updates, f=f))
            for answer in DEFINITIONS[name](x, f):
                np.testing.assert_allclose(result, answer, rtol=1e-9, atol=1e-12 * np.abs(x).max())
                compared += 1
    assert compared or cloud in ("tied", "duplicated", "line", "equal")


def test_cge_keeps_the_short_ones_and_no_more():
    honest, short = np.full((4, 3), 2.0), np.zeros((1, 3))
    np.testing.assert_allclose(aggregators.cge(np.vstack([honest, short]), f=1), np.full(3, 1.5))  # so it is not exact
    far = np.vstack([honest, np.full((1, 3), -1e6)])
    np.testing.assert_allclose(aggregators.cge(far, f=1), np.full(3, 2.0))


def test_a_coordinate_that_f_clients_alone_want_is_unlearnt():
    x = np.zeros((10, 2))
    x[:, 0] = 1
    x[:2, 1] = 5  # a backdoor of two clients: 2 signs of the 5 that are needed
    np.testing.assert_allclose(aggregators.robust_learning_rate(x, f=2), [1.0, -1.0])
    np.testing.assert_allclose(aggregators.robust_learning_rate(x, f=2, threshold=2), [1.0, 1.0])
