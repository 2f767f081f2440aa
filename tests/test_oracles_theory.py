"""The constants: closed forms against the isotonic formula, against each other, and against the worst inputs known."""

import math
from itertools import combinations

import numpy as np
import pytest

from pytest_fl.oracles import constants, theory
from pytest_fl.oracles.definitions import DEFINITIONS
from pytest_fl.oracles.extremal import ATTAINED_BY, SHAPES, shapes
from pytest_fl.oracles.krum_dual import chosen_inside, chosen_outside, krum

ADMISSIBLE = [(n, f) for n in range(3, 30) for f in range(1, (n + 1) // 2)]


def ranks(n, low, high):
    return [1 / (high - low) if low <= rank < high else 0.0 for rank in range(n)]


@pytest.mark.parametrize(
    ("closed", "window"),
    [
        (constants.trimmed_mean, lambda n, f: (f, n - f)),
        (constants.coordinate_median, lambda n, f: ((n - 1) // 2, n // 2 + 1)),
        (constants.coordinate_median_lower, lambda n, f: ((n - 1) // 2, (n - 1) // 2 + 1)),
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
            if rule.name != "caf":  # whose bound is five times the worst input known
                assert rule.kappa(n, f) < theory.most_of_any_rule(n, f)


@pytest.mark.parametrize("rule", [rule for rule in theory.RULES.values() if rule.stored], ids=lambda rule: rule.name)
def test_stored_worst_inputs_stay_within_the_constant_and_reach_an_exact_one_everywhere(rule):
    inputs = theory.worst_inputs(rule.stored)
    assert inputs
    most = {}
    for found in inputs:
        n, f = len(found.updates), found.f
        assert found.ratio <= rule.kappa(n, f) * (1 + 1e-6)
        most[n, f] = max(most.get((n, f), 0.0), found.ratio / rule.kappa(n, f))
    if rule.exact:
        sizes = [(n, f) for n, f in ADMISSIBLE if n <= 12 and rule.attained(n, f)]
        assert min(most[size] for size in sizes) >= 0.99


@pytest.mark.parametrize("name", ATTAINED_BY)
def test_a_shape_attains_every_exact_constant(name):
    """By the definition of the rule, at (n, f) beyond those that are stored."""
    rule = theory.RULES[name]
    assert rule.exact
    combinatorial = name in {"minimum_diameter", "minimum_variance", "smea"}
    for n, f in [(13, 5), (14, 6), (13, 2)] if combinatorial else [(13, 5), (14, 6), (16, 3), (17, 8), (25, 4), (30, 9)]:
        if not rule.attained(n, f):
            continue
        x = ATTAINED_BY[name](n, f)
        centre = x[f:].mean(0)
        answers = DEFINITIONS[name](x, f)
        reached = ((answers - centre) ** 2).sum(1).max() / ((x[f:] - centre) ** 2).sum(1).mean()
        assert 0.999 * rule.kappa(n, f) <= reached <= rule.kappa(n, f) * (1 + 1e-9)


def test_every_exact_constant_has_a_shape():
    exact = {rule.name for rule in theory.RULES.values() if rule.exact} - {"mean"}
    assert exact == set(ATTAINED_BY)
    assert set(ATTAINED_BY.values()) == set(SHAPES.values())
    for n, f in ((3, 1), (7, 2), (11, 5), (20, 3)):
        found = list(shapes(n, f))
        assert len(found) >= 4
        for x in found:
            assert len(x) == n
            assert np.isfinite(x).all()
            assert np.ptp(x[f:], axis=0).max() > 0


def test_krum_with_more_clients_rests_on_a_comparison_that_the_dual_makes():
    """That a winner in S is no worse than one outside, where its own formula does not apply; and that b = f is the worst."""
    compared = 0
    for n, f in ((clients, bad) for clients in range(4, 61) for bad in range(1, (clients - 1) // 3 + 1)):
        h, a = n - f, n - 2 * f
        outside = [chosen_outside(h, b) for b in range(1, f + 1)]
        assert max(outside) == outside[-1]
        if n * (a - 2) < f * (n + 2 * (a - 3)):
            compared += 1
            assert chosen_inside(h, f, outside[-1]) <= outside[-1]
        assert krum(n, f) <= ((h + math.sqrt(f * a)) / a) ** 2 * (1 + 1e-12)
        assert krum(n, f) < 6 * (1 + f / a)
    assert compared > 100


@pytest.mark.parametrize("seed", range(3))
def test_nearest_neighbour_mixing_brings_every_honest_row_near_the_mean(seed):
    """The lemma: (1/h) sum_S |y_i - mu|^2 <= (4f/h) variance of S, for every S; on random, tied and stored rows."""
    rng = np.random.default_rng(seed)
    rounds = [(found.updates, found.f) for found in theory.worst_inputs("nnm.cwtm")[seed::3]]
    for _ in range(150):
        n = int(rng.integers(3, 10))
        x = rng.integers(-2, 3, (n, 2)) + (0.0 if rng.random() < 0.5 else 1e-3) * rng.standard_normal((n, 2))
        rounds.append((x, int(rng.integers(1, (n - 1) // 2 + 1))))
    for x, f in rounds:
        n, h = len(x), len(x) - f
        distances = ((x[:, None] - x) ** 2).sum(2)
        mixed = x[np.argsort(distances, axis=1, kind="stable")[:, :h]].mean(1)
        for members in combinations(range(n), h):
            rows = list(members)
            mu = x[rows].mean(0)
            spread = ((x[rows] - mu) ** 2).sum(1).mean()
            assert ((mixed[rows] - mu) ** 2).sum(1).mean() <= 4 * f / h * spread * (1 + 1e-9) + 1e-24


def test_an_outsider_that_multi_krum_takes_is_near_those_it_leaves():
    """The claim of the proof: b^2 |z - c|^2 <= (4b/a) h^2 variance, for every taken outsider z, c the mean of those left."""
    tried = 0
    for found in theory.worst_inputs("multikrum"):
        x, f = found.updates, found.f
        n, h = len(x), len(x) - f
        scores = np.sort(((x[:, None] - x) ** 2).sum(2), axis=1)[:, :h].sum(1)
        taken = set(np.argsort(scores, kind="stable")[:h].tolist())
        outsiders, left = sorted(taken - set(range(f, n))), sorted(set(range(f, n)) - taken)
        if outsiders:
            tried += 1
            c, mu = x[left].mean(0), x[f:].mean(0)
            limit = 4 * len(left) / (n - 2 * f) * h * ((x[f:] - mu) ** 2).sum()
            assert max(len(left) ** 2 * ((x[z] - c) ** 2).sum() for z in outsiders) <= limit * (1 + 1e-6)
    assert tried > 50


def test_caf_is_bounded_in_the_operator_norm_and_unrounded_by_less():
    for found in theory.worst_inputs("caf_op"):
        n, f = len(found.updates), found.f
        assert found.ratio <= constants.caf_unrounded(n, f) <= constants.caf(n, f) * (1 + 1e-12)


def test_fewer_attackers_than_declared_leave_a_smaller_constant():
    for n, f in ADMISSIBLE:
        for b in range(f + 1):
            exact = constants.kappa_of_ranks(ranks(n, f, n - f), b)
            assert exact == pytest.approx(f / (n - f - b))
            general = constants.fewer_attackers(constants.trimmed_mean(n, f), n, f, b)
            assert exact <= general * (1 + 1e-12) <= constants.trimmed_mean(n, f) * (1 + 1e-12) ** 2


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
        assert len(ratios) == 0 or ratios.max() <= theory.RULES[name].kappa(len(x), f) * (1 + 1e-6)


def test_an_unknown_rule_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'krum'"):
        theory.rule_theory("krumm")


def test_isotonic_regression():
    assert constants.isotonic([1.0, 3.0, 2.0, 4.0]) == [1.0, 2.5, 2.5, 4.0]
    assert np.allclose(constants.isotonic([3.0, 2.0, 1.0]), 2.0)
