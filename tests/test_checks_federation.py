"""The descent certificate: robust rules keep it under every attack, the mean breaks it."""

from __future__ import annotations

import numpy as np
import pytest

from fl_impl.aggregators import trimmed_mean
from fl_impl.attacks import ALL
from pytest_fl.checks.federation import accuracy_kept, descent

RULES = [
    "coordinate_median", "trimmed_mean", "meamed", "phocas", "krum", "multi_krum", "geometric_median", "minimum_diameter",
    "minimum_variance", "nnm|trimmed_mean", "nnm|krum",
]  # fmt: skip
ATTACKS = sorted(
    name for name, made in ALL.items() if made.kind == "update" and name not in ("neurotoxin", "model_replacement")
)
FOR_THE_MEAN = [
    "gradient_scale(factor=-10)",
    "noise_injection(std=10)",
    "sign_flip(scale=10)",
    "fang_trimmed_mean(b=50)",
    "a_little_is_enough(z=20)",
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("attack", [*ATTACKS, *FOR_THE_MEAN])
def test_robust_rules_keep_the_certificate(rule: str, attack: str) -> None:
    bound = descent(rule, attack, rounds=6)
    assert bound.holds, f"{bound.reason}: {bound.value:.3g} > {bound.limit:.3g}"


@pytest.mark.parametrize("attack", FOR_THE_MEAN)
def test_the_mean_breaks_it(attack: str) -> None:
    assert not descent("mean", attack, kappa=trimmed_mean.kappa, rounds=6).holds


def test_a_rule_that_trims_one_side_breaks_it() -> None:
    def one_side(updates: np.ndarray, f: int) -> np.ndarray:
        return np.sort(updates, axis=0)[: len(updates) - f].mean(axis=0)

    assert not descent(one_side, "sign_flip(scale=30)", kappa=lambda n, f: f / (n - 2 * f)).holds
    with pytest.raises(ValueError, match="claims no finite kappa"):
        descent(one_side, "zero")


def test_accuracy_under_attack_against_the_clean_run() -> None:
    assert accuracy_kept("nnm|trimmed_mean", "sign_flip(scale=4)").holds
    mean = accuracy_kept("mean", "sign_flip(scale=4)")
    assert not mean.holds
    assert mean.value > 20
