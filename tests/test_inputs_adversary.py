"""The adversary finds the worst case where it is known, in as many dimensions as it takes, and says how far it came."""

import math

import numpy as np
import pytest
from sound import SOUND

import pytest_fl
from pytest_fl import worst_case
from pytest_fl.oracles.theory import RULES, most_of_any_rule

BY_OTHERS = {
    "trimmed_mean": "trimmed_mean_by_sort",
    "coordinate_median": "median_of_sorted",
    "coordinate_median_lower": "lower_median",
    "phocas": "phocas",
    "geometric_median": "geometric_median",
    "minimum_variance": "minimum_variance",
}
"""Rule -> an independent version of it in tests/sound.py."""
EXACT = [rule.name for rule in RULES.values() if rule.exact and rule.name != "mean"]
SPECS = {"coordinate_median_lower": 'coordinate_median(convention="lower")'}


@pytest.mark.parametrize(("n", "f"), [(4, 1), (7, 2), (9, 4)])
@pytest.mark.parametrize("rule", BY_OTHERS)
def test_it_reaches_exact_constants(rule, n, f):
    found = worst_case(SOUND[BY_OTHERS[rule]][0], n, f, 1, evaluations=600, claims=rule)
    assert 0.95 * found.kappa <= found.ratio <= found.kappa * (1 + 1e-6)


@pytest.mark.parametrize(("n", "f"), [(6, 2), (11, 2)])
@pytest.mark.parametrize("rule", EXACT)
def test_it_begins_where_an_exact_constant_is_attained(rule, n, f):
    """Krum's at (11, 2) is beyond what two dimensions hold: nobody had found it in any search."""
    if RULES[rule].attained(n, f):
        found = worst_case(SPECS.get(rule, rule), n, f, evaluations=200)
        assert found.updates.shape == (n, max(2, n - 2 * f))
        assert 0.99 * found.kappa <= found.ratio <= found.kappa * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "f"), [(13, 4), (16, 7), (20, 3), (20, 6)])
@pytest.mark.parametrize("rule", EXACT)
def test_it_reaches_every_exact_constant_within_twenty_seconds(rule, n, f):
    too_many = rule in {"minimum_variance", "smea"} and math.comb(n, f) > 10_000
    if too_many or not RULES[rule].attained(n, f):
        return
    found = worst_case(SPECS.get(rule, rule), n, f, seconds=20, evaluations=1000)
    assert 0.99 * found.kappa <= found.ratio <= found.kappa * (1 + 1e-6)


def nearest_by(score, x, f):
    """The mean of the n - f rows of least score."""
    return x[np.argsort(score, kind="stable")[: len(x) - f]].mean(0)


def by_its_sketch(updates, f):
    """Looks at three fixed projections."""
    seen = updates @ np.random.default_rng(5).standard_normal((updates.shape[1], 3))
    return nearest_by(((seen - np.median(seen, 0)) ** 2).sum(1), updates, f)


def by_every_other_coordinate(updates, f):
    """Looks at half of the coordinates."""
    seen = updates[:, ::2]
    return nearest_by(((seen - np.median(seen, 0)) ** 2).sum(1), updates, f)


def by_its_summaries(updates, f):
    """Looks at the norm and the sum of each row."""
    seen = np.stack([np.linalg.norm(updates, axis=1), updates.sum(1)], axis=1)
    return nearest_by(((seen - np.median(seen, 0)) ** 2).sum(1), updates, f)


def by_its_histogram(updates, f):
    """Looks at the sorted values of each row."""
    seen = np.sort(updates, axis=1)
    return nearest_by(((seen - np.median(seen, 0)) ** 2).sum(1), updates, f)


def by_one_power_step(updates, f):
    """Looks along the direction that one power step from the vector of ones gives."""
    centred = updates - np.median(updates, 0)
    direction = centred.T @ (centred @ np.ones(updates.shape[1]))
    return nearest_by((centred @ direction / max(np.linalg.norm(direction), 1e-300)) ** 2, updates, f)


UNSEEN = [by_its_sketch, by_every_other_coordinate, by_its_summaries, by_its_histogram]
BLIND = [*UNSEEN, by_one_power_step]
"""What the last one looks at turns with the attackers: the corpus fails it, the search alone needs more evaluations."""


@pytest.mark.parametrize("rule", UNSEEN, ids=lambda rule: rule.__name__)
def test_it_gets_past_rules_that_do_not_look_everywhere(rule):
    found = worst_case(rule, 7, 2, 16, evaluations=3000)
    assert found.ratio > most_of_any_rule(7, 2)


@pytest.mark.parametrize("rule", BLIND, ids=lambda rule: rule.__name__)
def test_the_harness_fails_them_for_it(rule):
    report = pytest_fl.verify(rule, checks=["boundedness"])
    assert not report.passed


def test_it_is_deterministic_for_a_seed():
    runs = [worst_case("multi_krum", 7, 3, 2, evaluations=800, seed=seed) for seed in (0, 0, 1)]
    assert runs[0].ratio == runs[1].ratio
    np.testing.assert_array_equal(runs[0].updates, runs[1].updates)
    assert runs[0].evaluations == 800


def test_no_rule_of_ours_exceeds_its_constant():
    for name in ("krum", "multi_krum", "meamed", "minimum_diameter", "nnm|trimmed_mean", "caf", "principal_trimmed_mean"):
        found = worst_case(name, 8, 3, 2, evaluations=300)
        assert found.lower_bound * (1 - 1e-6) <= found.ratio <= found.kappa * (1 + 1e-6), name


def test_it_finds_that_the_mean_has_no_constant():
    found = worst_case(lambda updates, f: updates.mean(0), 7, 2, 2, evaluations=500)
    assert found.kappa is None
    assert found.ratio > 1000
    assert "none claimed" in str(found)


def test_gradients_are_used_where_they_flow():
    import torch

    called = []

    def soft_median(updates, f):
        called.append(updates.requires_grad)
        return torch.quantile(updates, 0.5, dim=0)

    worst_case(soft_median, 7, 2, 2, evaluations=1200)
    assert any(called)


@pytest.mark.parametrize("rule", ["trimmed_mean", "krum"])
def test_the_result_is_what_it_says(rule):
    """Also where it was the rows in reverse order that did it: then the last f are Byzantine."""
    from fl_impl.aggregators import resolve

    found = worst_case(rule, 7, 2, evaluations=600)
    honest = np.delete(found.updates, found.byzantine, axis=0)
    result = resolve(rule)(found.updates, f=2)
    variance = ((honest - honest.mean(0)) ** 2).sum(1).mean()
    assert ((result - honest.mean(0)) ** 2).sum() / variance == pytest.approx(found.ratio, rel=1e-5)
    assert found.kappa == pytest.approx(RULES[rule].kappa(7, 2))


def first_row_wins_ties(updates, f):
    """A Krum that takes the last of those whose scores tie."""
    scores = np.sort(((updates[:, None] - updates) ** 2).sum(2), axis=1)[:, : len(updates) - f].sum(1)
    return updates[len(updates) - 1 - int(np.argmin(np.round(scores, 4)[::-1]))]


def test_it_tries_the_rows_in_reverse_order():
    found = worst_case(first_row_wins_ties, 6, 2, evaluations=300, claims="krum")
    assert 0.99 * found.kappa <= found.ratio <= found.kappa * (1 + 1e-3)


@pytest.mark.parametrize(("n", "f", "d"), [(4, 2, 1), (5, 0, 1), (5, 1, 0)])
def test_what_cannot_be_searched_is_refused(n, f, d):
    with pytest.raises(ValueError, match="expected f >= 1"):
        worst_case("trimmed_mean", n, f, d)
