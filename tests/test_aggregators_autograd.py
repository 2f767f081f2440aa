"""Gradients flow through rules: exactly where the rule selects, sorts or clips."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch

from fl_impl.aggregators import ALL, PRE, resolve

N, F, D = 11, 2, 4
PARTIAL = ["caf", "principal_trimmed_mean", "fltrust", "foolsgold", "signguard", "flame"]
"""Here weights move with the updates, and no gradient flows through them; every other rule must pass the derivative."""
CHOSEN = [
    "coordinate_median(convention='lower')", "monna(pivot=10)", "centered_clipping(tau=2.0)",
    "centered_clipping(tau=2.0, iterations=3)", "norm_clipping(radius=1.5)", "nnm|krum", "nnm|geometric_median",
    "bucketing(size=2)|trimmed_mean", "bucketing(size=2)|geometric_median", "arc|geometric_median", "arc|nnm|krum",
    "clipping(radius=1.5)|mean",
]  # fmt: skip
"""Options that matter here, and compositions."""
OPTIONS_ONLY = {"monna", "centered_clipping", "norm_clipping", "clipping"}
"""Without options these do nothing to the updates of this file, or trust one that attacks."""
EXACT = [
    *(name for name in ALL if name not in OPTIONS_ONLY and name not in PARTIAL),
    *(f"{name}|trimmed_mean" for name in PRE if name not in OPTIONS_ONLY),
    *CHOSEN,
]


def updates():
    return torch.tensor(oracles.generic(np.random.default_rng(0), N, F, D), requires_grad=True)


@pytest.mark.parametrize("name", EXACT)
def test_the_gradient_is_the_derivative(name):
    rule = resolve(name)
    assert torch.autograd.gradcheck(lambda x: rule(x, f=F), (updates(),), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", PARTIAL)
def test_the_gradient_flows_through_the_combination(name):
    x = updates()
    context = {"root": np.ones(D)} if name == "fltrust" else {}
    result = resolve(name)(x, f=F, **context)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_every_rule_and_pre_aggregator_is_tried():
    stages = {part.partition("(")[0] for spec in [*EXACT, *PARTIAL] for part in spec.split("|")}
    assert stages == {*ALL, *PRE}


@pytest.mark.parametrize("name", EXACT)
def test_values_do_not_depend_on_whether_a_gradient_is_wanted(name):
    x = updates()
    with torch.no_grad():
        plain = resolve(name)(x, f=F)
    assert not plain.requires_grad
    np.testing.assert_allclose(resolve(name)(x, f=F).detach(), plain, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gradients_in_low_precision_keep_their_dtype(dtype):
    x = updates().detach().to(dtype).requires_grad_()
    for name in ("nnm|trimmed_mean", "geometric_median", "centered_clipping"):
        x.grad = None
        resolve(name)(x, f=F).sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", ["geometric_median", "nnm|geometric_median", "trimmed_mean", "krum", "arc|krum"])
def test_equal_rows_and_zeros_give_finite_gradients(name):
    for x in (torch.ones(N, D), torch.zeros(N, D)):
        x.requires_grad_()
        resolve(name)(x, f=F).sum().backward()
        assert torch.isfinite(x.grad).all()
