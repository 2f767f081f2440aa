"""`pytest -k byzantine`: every shipped rule against everything that it claims, and federations on real data under attack."""

import numpy as np
import pytest

import pytest_fl
from fl_impl.aggregators import ALL

PIPES = ("nnm|trimmed_mean", "nnm|krum")
LONGER = ("caf", "minimum_diameter", "minimum_variance", "principal_trimmed_mean", "signguard", "smea")
"""Rules whose calls cost the most."""
OPTIONS = (
    "nnm|coordinate_median",
    "bucketing(size=2)|krum",
    "arc|geometric_median",
    'coordinate_median(convention="lower")',
    'krum(neighbours="n-f-2")',
    "multi_krum(m=1)",
)


@pytest_fl.conformance(*(rule for name, rule in ALL.items() if name not in LONGER), *PIPES)
def test_byzantine_rules(check):
    check()


@pytest.mark.slow
@pytest_fl.conformance(*LONGER, *OPTIONS)
def test_byzantine_rules_that_take_longer(check):
    check()


@pytest.mark.byzantine
@pytest.mark.fl(rounds=20)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_byzantine_mean_falls_and_a_robust_rule_holds(fl_federation, fl_rounds, seed):
    def accuracy(aggregator, attack):
        metrics = fl_federation(
            aggregator=aggregator, attack=attack, rounds=fl_rounds, clients=10, byzantine=0.3, dataset="digits", seed=seed
        )
        return 100 * metrics.final.accuracy

    lost = {rule: accuracy(rule, None) - accuracy(rule, "sign_flip") for rule in ("mean", "nnm|trimmed_mean")}
    print(f"seed {seed}: points lost to 30 % sign flip: " + ", ".join(f"{rule} {points:.1f}" for rule, points in lost.items()))
    assert lost["mean"] > 20
    assert lost["nnm|trimmed_mean"] < 5


def test_byzantine_round_moves_the_mean_and_not_the_median(fl_round):
    honest = fl_round.honest.mean(0)
    away = {name: np.linalg.norm(ALL[name](fl_round.updates, f=fl_round.f) - honest) for name in ("mean", "coordinate_median")}
    assert away["coordinate_median"] < away["mean"]
