"""The rankings of the literature that small data show: Krum under IPM, momentum under ALIE, mixing on data that differ.

25 clients on the digits, one step of 8 samples a round, 150 rounds, the last five averaged, two seeds. Sources:
Karimireddy, He & Jaggi 2021 (arXiv 2012.10333) for momentum, centered clipping and IPM; 2022 (arXiv 2006.09365) for mimic
and bucketing; Allouah et al. 2023 (arXiv 2302.01772) for NNM.
"""

from __future__ import annotations

import functools
import statistics
from typing import Any

import pytest

from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients

pytestmark = pytest.mark.slow
IPM, ALIE, MIMIC = "inner_product_manipulation(epsilon=0.1)", "a_little_is_enough", "mimic"
ELEVEN, FIVE = 0.44, 0.2
"""Byzantine fractions: 11 and 5 of 25."""


@functools.cache
def accuracy(rule: str, attack: str | None, fraction: float, momentum: float = 0.0, partition: str = "iid") -> float:
    """Mean over seeds of the accuracy in the last five rounds."""
    found: list[float] = []
    for seed in range(2):
        settings: dict[str, Any] = {
            "num_rounds": 150,
            "num_clients": 25,
            "local_steps": 1,
            "batch_size": 8,
            "learning_rate": 0.5,
        }
        config = FLConfig(
            **settings, aggregation=rule, attack=attack, byzantine_fraction=fraction, client_momentum=momentum,
            partition=partition, seed=seed,
        )  # fmt: skip
        rounds = FederatedLearningCoordinator(config).run(make_clients(config), output=None).rounds
        found.append(statistics.fmean(result.accuracy for result in rounds[-5:]))
    value = statistics.fmean(found)
    print(f"{rule:24} {attack or 'no attack':40} f={round(25 * fraction):2} momentum {momentum:4} {partition:16} {value:.1%}")
    return value


def test_ipm_kills_krum_at_every_momentum_and_not_the_mean() -> None:
    assert all(accuracy("krum", IPM, ELEVEN, momentum) < 0.25 for momentum in (0.0, 0.9, 0.99))
    assert accuracy("mean", IPM, ELEVEN) > 0.8


@pytest.mark.parametrize("attack", [IPM, ALIE])
def test_centered_clipping_stands_what_other_rules_do_not_without_momentum(attack: str) -> None:
    others = [accuracy(rule, attack, ELEVEN) for rule in ("krum", "median", "trimmed_mean", "geometric_median")]
    assert accuracy("centered_clipping", attack, ELEVEN) > max(others) + 0.2


@pytest.mark.parametrize("rule", ["krum", "median", "trimmed_mean", "geometric_median"])
def test_momentum_helps_every_rule_under_a_little_is_enough(rule: str) -> None:
    assert accuracy(rule, ALIE, ELEVEN, 0.9) > accuracy(rule, ALIE, ELEVEN, 0.0) + 0.2


def test_on_data_that_differ_averaging_beats_selecting_without_attack() -> None:
    clean = {
        rule: accuracy(rule, None, FIVE, partition="pathological(1)")
        for rule in ("mean", "centered_clipping", "krum", "median")
    }
    assert min(clean["mean"], clean["centered_clipping"]) > max(clean["krum"], clean["median"]) + 0.2


@pytest.mark.parametrize("rule", ["krum", "median"])
@pytest.mark.parametrize("mixing", ["nnm", "bucketing(size=2)"])
def test_mixing_raises_krum_and_median_under_mimic_on_data_that_differ(rule: str, mixing: str) -> None:
    partition = "pathological(1)"
    alone, mixed = (accuracy(name, MIMIC, FIVE, partition=partition) for name in (rule, f"{mixing}|{rule}"))
    assert mixed > alone + 0.1


@pytest.mark.parametrize("rule", ["krum", "median"])
def test_mimic_hurts_selection_on_data_that_differ(rule: str) -> None:
    partition = "pathological(1)"
    assert accuracy(rule, MIMIC, FIVE, partition=partition) < accuracy(rule, None, FIVE, partition=partition) - 0.05


@pytest.mark.parametrize("rule", ["krum", "median"])
def test_nnm_helps_under_a_little_is_enough_on_data_that_differ(rule: str) -> None:
    attack, partition = "a_little_is_enough(z=1.0)", "pathological(1)"
    assert accuracy(f"nnm|{rule}", attack, FIVE, partition=partition) > accuracy(rule, attack, FIVE, partition=partition) + 0.1
