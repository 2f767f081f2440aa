"""The adversary finds the worst case where it is known, and says how far it came."""

import numpy as np
import pytest
from sound import SOUND

from pytest_fl import worst_case
from pytest_fl.oracles.theory import RULES

EXACT = {
    "trimmed_mean": "trimmed_mean_by_sort",
    "coordinate_median": "median_of_sorted",
    "coordinate_median_lower": "lower_median",
    "phocas": "phocas",
    "geometric_median": "geometric_median",
    "minimum_variance": "minimum_variance",
}
"""Rule -> an independent version of it in tests/sound.py."""


@pytest.mark.parametrize(("n", "f"), [(4, 1), (7, 2), (9, 4)])
@pytest.mark.parametrize("rule", EXACT)
def test_it_reaches_exact_constants(rule, n, f):
    found = worst_case(SOUND[EXACT[rule]][0], n, f, 1, evaluations=1500, claims=rule)
    assert 0.95 * found.kappa <= found.ratio <= found.kappa * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "f"), [(10, 4), (11, 2), (11, 5)])
@pytest.mark.parametrize("rule", EXACT)
def test_it_reaches_exact_constants_for_eleven_clients(rule, n, f):
    for d in (1, 2):
        found = worst_case(rule if rule == "minimum_variance" else SOUND[EXACT[rule]][0], n, f, d, seconds=8, claims=rule)
        assert 0.95 * found.kappa <= found.ratio <= found.kappa * (1 + 1e-6)


def test_it_is_deterministic_for_a_seed():
    runs = [worst_case("krum", 7, 2, 2, evaluations=800, seed=seed) for seed in (0, 0, 1)]
    assert runs[0].ratio == runs[1].ratio
    np.testing.assert_array_equal(runs[0].updates, runs[1].updates)
    assert runs[0].evaluations == 800


def test_no_rule_of_ours_exceeds_its_constant():
    for name in ("krum", "multi_krum", "meamed", "minimum_diameter", "nnm|trimmed_mean"):
        found = worst_case(name, 8, 3, 2, evaluations=1000)
        assert found.lower_bound <= found.ratio <= found.kappa * (1 + 1e-6), name


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


def test_the_result_is_what_it_says():
    found = worst_case("trimmed_mean", 7, 2, 2, evaluations=600)
    honest = np.delete(found.updates, found.byzantine, axis=0)
    result = np.sort(found.updates, axis=0)[2:5].mean(0)
    variance = ((honest - honest.mean(0)) ** 2).sum(1).mean()
    assert ((result - honest.mean(0)) ** 2).sum() / variance == pytest.approx(found.ratio)
    assert found.kappa == RULES["trimmed_mean"].kappa(7, 2)


@pytest.mark.parametrize(("n", "f", "d"), [(4, 2, 1), (5, 0, 1), (5, 1, 0)])
def test_what_cannot_be_searched_is_refused(n, f, d):
    with pytest.raises(ValueError, match="expected f >= 1"):
        worst_case("trimmed_mean", n, f, d)
