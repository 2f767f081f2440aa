"""Composition: the cheap paths give what the plain one gives, in any grouping, and rules run on distances alone."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch

from fl_impl import aggregators
from fl_impl.aggregators import ALL, PRE, arc, bucketing, krum, mean, nnm, resolve, trimmed_mean
from fl_impl.aggregators.kernels import Geometry

N, F, D = 14, 2, 6
BEFORE = ["nnm", "bucketing(size=2)", "arc", "clipping(radius=2.0)", "nnm|nnm", "bucketing(size=2)|nnm", "arc|nnm", "nnm|arc"]


UNSTABLE = {"fltrust", "foolsgold", "flame", "signguard"}
"""One needs context, and three jump when updates that mixing has made equal differ in the last digit."""


def updates():
    return oracles.generic(np.random.default_rng(0), N, F, D)


def pre_aggregators(spec):
    found = None
    for part in spec.split("|"):
        name, _, options = part.partition("(")
        one = PRE[name].configured(**eval(f"dict({options}") if options else {})
        found = one if found is None else found | one
    return found


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("after", [name for name in ALL if name not in UNSTABLE])
@pytest.mark.parametrize("form", [np.asarray, lambda x: torch.tensor(x, requires_grad=True)])
def test_a_pipe_is_one_after_the_other(before, after, form):
    first, rule = pre_aggregators(before), ALL[after]
    composed = first | rule
    assert composed.spec == f"{before}|{after}"
    f = 1 if after == "bulyan" else F
    result = composed(form(updates()), f=f)
    expected = rule(first(updates(), f=f), f=f)
    result = result.detach().numpy() if torch.is_tensor(result) else result
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-7)


def test_pipes_group_either_way():
    left, right = (arc | nnm) | krum, arc | (nnm | krum)
    assert left.spec == right.spec == "arc|nnm|krum"
    np.testing.assert_allclose(left(updates(), f=F), right(updates(), f=F), rtol=1e-15)  # one division more or less
    assert (left.kappa(N, F), left.min_clients(F), left.symmetries) == (
        right.kappa(N, F),
        right.min_clients(F),
        right.symmetries,
    )
    assert left.source == right.source


def test_a_rule_ends_a_pipe():
    with pytest.raises(TypeError):
        krum | nnm
    with pytest.raises(TypeError):
        nnm | 3


def test_context_reaches_both_ends():
    rng = np.random.default_rng(3)
    piped = bucketing(size=2) | aggregators.fltrust
    assert piped.keywords.required == {"root"}
    root = np.ones(D)
    expected = aggregators.fltrust(bucketing(updates(), f=F, size=2, rng=np.random.default_rng(3)), f=F, root=root)
    np.testing.assert_allclose(piped(updates(), f=F, root=root, rng=rng), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="takes no context 'weights'"):  # the rows no longer are the clients'
        (nnm | mean)(updates(), f=F, weights=[1] * N)


WEIGHED = [name for name, rule in ALL.items() if rule.weighing] + [
    "nnm|krum",
    "bucketing(size=2)|geometric_median",
    "nnm|nnm|caf",
]


@pytest.mark.parametrize("name", WEIGHED)
def test_weights_from_distances_alone(name):
    x = updates()
    weights = resolve(name).weigh(Geometry(oracles.squared_distances(x)), F)
    assert weights.shape == (N,)
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights @ x, resolve(name)(x, f=F), rtol=1e-6)


def test_rules_that_need_more_than_distances_say_so():
    with pytest.raises(ValueError, match="trimmed_mean needs the updates themselves"):
        trimmed_mean.weigh(Geometry(np.zeros((5, 5))), 1)
    with pytest.raises(ValueError, match="needs n >= 5"):
        krum.weigh(Geometry(np.zeros((4, 4))), 2)


def test_a_pipe_makes_no_second_matrix():
    import tracemalloc

    x = np.random.default_rng(0).normal(size=(20, 400_000)).astype(np.float32)
    for spec in ("nnm|trimmed_mean", "nnm|krum", "nnm|meamed", "bucketing(size=2)|krum"):
        rule = resolve(spec)
        rule(x, f=4)
        tracemalloc.start()
        rule(x, f=4)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.25 * x.nbytes, spec
