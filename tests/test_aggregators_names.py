"""What a user may write for a rule, and what is said where it is wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from fl_impl import aggregators
from fl_impl.aggregators import ALIASES, ALL, PRE, Aggregator, PreAggregator, aggregator, pre_aggregator, resolve

DESIGN = {
    "mean",
    "coordinate_median",
    "trimmed_mean",
    "meamed",
    "phocas",
    "krum",
    "multi_krum",
    "bulyan",
    "geometric_median",
    "minimum_diameter",
    "minimum_variance",
    "smea",
    "principal_trimmed_mean",
    "caf",
    "centered_clipping",
    "monna",
    "dnc",
    "fltrust",
    "foolsgold",
    "signguard",
    "flame",
    "norm_clipping",
}
"""Names that users type: none of them may go; more may come."""


def test_all_rules_of_the_design_are_there():
    assert set(ALL) >= DESIGN
    assert set(PRE) >= {"nnm", "bucketing", "clipping", "arc"}
    for name, rule in ALL.items():
        assert getattr(aggregators, name) is rule
        assert rule.source
    assert {*ALL, *PRE} <= set(dir(aggregators)) == {name for name in dir(aggregators) if hasattr(aggregators, name)}
    with pytest.raises(AttributeError, match="no attribute 'krom'; did you mean 'krum'"):
        aggregators.krom  # noqa: B018


@pytest.mark.parametrize(
    "name",
    [
        *ALL,
        *(f"{name}|mean" for name in PRE),
        "nnm|trimmed_mean",
        "multi_krum(m=5)",
        "bucketing(size=3)|arc|krum(neighbours='n-f-2')",
    ],
)
def test_a_spec_is_read_back(name):
    rule = resolve(name)
    assert isinstance(rule, Aggregator)
    assert rule.spec == name
    assert resolve(rule) is rule


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias):
    assert resolve(alias).spec == resolve(ALIASES[alias]).spec
    assert resolve(f"nnm | {alias}").spec == f"nnm|{ALIASES[alias]}"


def test_import_paths_and_functions():
    assert resolve("fl_impl.aggregators:krum") is aggregators.krum
    assert resolve("fl_impl.aggregators:nnm | fl_impl.aggregators.rules.neighbours:krum").spec == "nnm|krum"
    kinds = []

    def own(updates, f):
        kinds.append(type(updates))
        return updates[f]

    rule = resolve(own)
    assert rule.kappa(9, 1) == float("inf")
    assert not rule.symmetries
    x = np.arange(12.0).reshape(4, 3)
    for form in (x, torch.tensor(x), list(x), torch.tensor(x).bfloat16()):
        result = rule(form, f=1)
        assert result.tolist() == x[1].tolist()
        assert result.dtype == form[0].dtype
    assert kinds == [np.ndarray, torch.Tensor, np.ndarray, torch.Tensor]
    assert (aggregators.nnm | rule)(x, f=1).shape == (3,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("krm", "expected an aggregator, got 'krm'; did you mean 'krum'"),
        ("fedavgg", "did you mean 'fedavg'"),
        ("nm|krum", "expected a pre-aggregator, got 'nm'; did you mean 'nnm'"),
        ("nnm", r'nnm is a pre-aggregator and needs a rule after it: "nnm\|trimmed_mean"'),
        ("krum|nnm", "nnm is a pre-aggregator and needs a rule after it"),
        ("krum|mean", "krum is a rule and ends a pipe"),
        ("krum(", "expected a spec such as"),
        ("", "expected a spec such as"),
        ("nnm|", "expected a spec such as"),
        ("multi_krum(5)", r"options are given by name, as in multi_krum\(option=5\)"),
        ("multi_krum(k=5)", "multi_krum takes no option 'k'"),
        ("multi_krum(m=x)", "expected a spec such as"),
        ("no_such_module_here:rule", "cannot import module"),
        ("fl_impl.aggregators:no_rule", "has no attribute 'no_rule'"),
        ("fl_impl.aggregators:ALL", "expected an aggregator"),
        ("fl_impl.aggregators:krum|krum", "expected a pre-aggregator before the last bar"),
        (None, "expected an aggregator"),
        (aggregators.nnm, "expected an aggregator"),
    ],
)
def test_wrong_names(wrong, message):
    with pytest.raises(ValueError, match=message):
        resolve(wrong)


@pytest.fixture
def scoped():
    with ALL.scoped():
        yield


@pytest.mark.usefixtures("scoped")
def test_a_new_rule_is_one_decorated_function():
    @aggregator(
        by="distances", kappa=lambda n, f, *, power=2: power * n / (n - 2 * f), symmetries={"permutation"}, source="here"
    )
    def inverse_distances(geometry, f, *, power=2):
        """Weights by inverse distances."""
        del f
        w = 1 / (1 + geometry.distances.sum(axis=1)) ** power
        return w / w.sum()

    x = np.random.default_rng(0).normal(size=(7, 3))
    assert resolve("nnm|inverse_distances(power=1)")(x, f=2).shape == (3,)
    assert inverse_distances(power=3).kappa(10, 2) == 5
    here = re.escape(f"{__name__}:test_a_new_rule_is_one_decorated_function.<locals>.inverse_distances")
    with pytest.raises(ValueError, match=f"an aggregator named 'inverse_distances' stands in {here} already"):
        aggregator()(taken)
    with pytest.raises(ValueError, match="no symmetry is called 'rotations'; did you mean 'rotation'"):
        aggregator(symmetries={"rotations"})(lambda x, f: x[f])


def taken(x, f):
    return x[f]


taken.__name__ = "inverse_distances"


def test_a_pre_aggregator_of_ones_own():
    made = PreAggregator("halve", lambda x, f: x / 2, lambda inner, n, f: inner(n, f), frozenset({"scale"}))
    x = np.random.default_rng(0).normal(size=(7, 3))
    np.testing.assert_allclose((made | aggregators.mean)(x), x.mean(axis=0) / 2)
    with pytest.raises(ValueError, match="no symmetry is called 'scales'"):
        pre_aggregator(kappa=lambda inner, n, f: 1.0, preserves={"scales"}, source="")(lambda x, f: x)
