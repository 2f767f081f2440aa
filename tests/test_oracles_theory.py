"""The constants: closed forms against the isotonic formula, against each other, and against the worst inputs known."""

import math

import numpy as np
import pytest

from pytest_fl.oracles import theory
from pytest_fl.oracles.definitions import DEFINITIONS

ADMISSIBLE = [(n, f) for n in range(3, 30) for f in range(1, (n + 1) // 2)]


def ranks(n, low, high):
    return [1 / (high - low) if low <= rank < high else 0.0 for rank in range(n)]


@pytest.mark.parametrize(
    ("closed", "window"),
    [
        (theory.trimmed_mean, lambda n, f: (f, n - f)),
        (theory.coordinate_median, lambda n, f: ((n - 1) // 2, n // 2 + 1)),
        (theory.coordinate_median_lower, lambda n, f: ((n - 1) // 2, (n - 1) // 2 + 1)),
    ],
)
def test_closed_forms_of_order_statistics_are_the_isotonic_formula(closed, window):
    for n, f in ADMISSIBLE:
        assert theory.kappa_of_ranks(ranks(n, *window(n, f)), f) == pytest.approx(closed(n, f), rel=1e-9)


def test_a_weight_on_an_extreme_has_no_constant():
    assert theory.kappa_of_ranks(ranks(7, 1, 6), 2) == math.inf


def test_without_attack_the_formula_gives_the_published_constants():
    """Yang & Li (ICML 2025), Theorem 3.6: f/(n-f) for the trimmed mean, m/(n-m) with m = floor((n-1)/2) for the median."""
    for n, f in ADMISSIBLE:
        m = (n - 1) // 2
        assert theory.kappa_of_ranks(ranks(n, f, n - f), 0) == pytest.approx(f / (n - f))
        assert theory.kappa_of_ranks(ranks(n, m, n // 2 + 1), 0) == pytest.approx(m / (n - m))


@pytest.mark.parametrize("rule", theory.RULES.values(), ids=theory.RULES)
def test_no_constant_is_below_the_lower_bound_nor_above_what_any_rule_needs(rule):
    for n, f in ADMISSIBLE:
        if n >= rule.min_clients(f) and rule.name != "mean":
            assert rule.kappa(n, f) >= theory.lower_bound(n, f) - 1e-12
            if rule.name != "bulyan":  # whose bound is five times the worst input known
                assert rule.kappa(n, f) < theory.most_of_any_rule(n, f)


@pytest.mark.parametrize("rule", [rule for rule in theory.RULES.values() if rule.stored], ids=lambda rule: rule.name)
def test_stored_worst_inputs_stay_within_the_constant_and_reach_an_exact_one(rule):
    inputs = theory.worst_inputs(rule.stored)
    assert inputs
    shares = [found.ratio / rule.kappa(len(found.updates), found.f) for found in inputs]
    assert max(shares) <= 1 + 1e-6
    if rule.exact:
        assert max(shares) >= 0.99


@pytest.mark.parametrize(
    "name", sorted(set(DEFINITIONS) & {rule.name for rule in theory.RULES.values() if rule.exact} - {"mean"})
)
def test_definitions_reach_the_stored_ratios(name):
    """Ties are broken as the search broke them or in favour of the rule, so no ratio is exceeded."""
    for found in theory.worst_inputs(theory.RULES[name].stored)[::7]:
        x, f = found.updates, found.f
        answers = DEFINITIONS[name](x, f)
        mean = x[f:].mean(0)
        ratios = ((answers - mean) ** 2).sum(1) / ((x[f:] - mean) ** 2).sum(1).mean()
        if name == "smea":  # its ratios are in the operator norm
            continue
        assert len(ratios) == 0 or ratios.max() <= theory.RULES[name].kappa(len(x), f) * (1 + 1e-6)


def test_an_unknown_rule_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'krum'"):
        theory.rule_theory("krumm")


def test_isotonic_regression():
    assert theory.isotonic([1.0, 3.0, 2.0, 4.0]) == [1.0, 2.5, 2.5, 4.0]
    assert np.allclose(theory.isotonic([3.0, 2.0, 1.0]), 2.0)
