"""Kernels on torch tensors: the numbers of the numpy kernels, on the tensor's device, with gradients."""

import numpy as np
import pytest
import torch

from fl_impl.aggregators import kernels
from fl_impl.aggregators.kernels import Unfit

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def draws(n, d, dtype, offset=0.0):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n, d)) + offset).to(dtype)


def buckets(n):
    return np.kron(np.eye(n // 2), [[0.5, 0.5]])


CALLS = {
    "median": lambda x: kernels.rank_mean(x, 4, 6),
    "trimmed mean": lambda x: kernels.rank_mean(x, 2, 8),
    "of some rows": lambda x: kernels.rank_mean(x, 1, 4, rows=[8, 0, 3, 5, 2]),
    "of means": lambda x: kernels.rank_mean(x, 1, 4, buckets(10)),
    "meamed": lambda x: kernels.nearest_mean(x, 4, 6, 7),
    "combine": lambda x: kernels.combine([0.1, 0, 0, 0.4, 0, 0, 0.2, 0, 0, 0.3], x),
    "combine_rows": lambda x: kernels.combine_rows(buckets(10), x),
    "geometry": lambda x: kernels.geometry(x).distances,
    "norms": kernels.norms,
    "squared norms": kernels.squared_norms,
    "distances": lambda x: kernels.distances_to(x, x[2]),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("name", CALLS)
def test_tensors_give_the_numbers_of_arrays(name, offset, dtype, device):
    x = draws(10, 333, dtype, offset)
    found, expected = CALLS[name](x.to(device)), CALLS[name](x.numpy())
    if isinstance(found, torch.Tensor):
        assert found.dtype == dtype
        assert found.device.type == device
        found = found.cpu().numpy()
    eps = torch.finfo(dtype).eps
    assert np.allclose(found, expected, rtol=8 * eps if name != "geometry" else 2e-6, atol=8 * eps)


@pytest.mark.parametrize("name", ["median", "trimmed mean", "of some rows", "of means", "meamed", "combine", "combine_rows"])
def test_gradients_are_those_of_finite_differences(name):
    x = draws(10, 5, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(CALLS[name], (x,))


@pytest.mark.parametrize("name", ["geometry", "norms", "squared norms", "distances"])
def test_what_decides_carries_no_gradient(name):
    assert isinstance(CALLS[name](draws(10, 5, torch.float32).requires_grad_()), np.ndarray)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", CALLS)
def test_non_finite_tensors_are_unfit(name, bad):
    x = draws(10, 5, torch.float32)
    x[3, 4] = bad
    with pytest.raises(Unfit):
        CALLS[name](x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_at_the_limit_of_the_type(dtype):
    """Two outliers whose difference overflows, as on arrays."""
    x = draws(10, 3, dtype)
    x[1], x[4] = torch.finfo(dtype).max, -torch.finfo(dtype).max
    for name, call in CALLS.items():
        found, expected = np.asarray(call(x)), call(x.numpy())
        near = np.isclose(found, expected, rtol=1e-6, atol=1e-6) | ~np.isfinite(expected)
        assert near.all(), name
