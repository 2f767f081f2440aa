"""Accuracy on digits with 100 clients at epsilon 8, 3 and 1, with and without attack: the table that docs/privacy.md shows.

Run: python scripts/privacy_table.py [--rounds 20] [--seeds 2]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients

COMMON: dict[str, Any] = {
    "num_clients": 100, "model": "linear", "local_epochs": 2, "learning_rate": 0.2, "batch_size": 8, "partition": "iid",
}  # fmt: skip
DELTA, SAMPLING, FRACTION = 1e-5, 0.5, 0.1
EPSILONS: tuple[float | None, ...] = (None, 8.0, 3.0, 1.0)
SCHEMES: dict[str, dict[str, Any]] = {
    "mean": {},
    "mean, adaptive clipping": {"dp_mechanism": "adaptive"},
    "mean, sparse": {"compression": "sparse"},
    "mean, int8": {"compression": "quantize"},
    "trimmed mean over secure groups of 2": {
        "aggregation": "trimmed_mean", "byzantine_fraction": FRACTION, "secure_aggregation": True, "secure_group_size": 2,
    },
}  # fmt: skip
ATTACKS = (None, "sign_flip", "inner_product_manipulation")


def main() -> None:
    """Print one line a scheme and epsilon: accuracy without attack, and under each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print(
        f"digits, {COMMON['num_clients']} clients, linear model, {options.rounds} rounds, each client in half of them (in all "
        f"under secure sums), delta = {DELTA:g}, attackers {FRACTION:.0%}; mean accuracy of {options.seeds} seeds\n"
    )
    print(f"| scheme | epsilon | {' | '.join(attack or 'no attack' for attack in ATTACKS)} |\n|---|--:|{'--:|' * len(ATTACKS)}")
    for scheme, settings in SCHEMES.items():
        for epsilon in EPSILONS:
            if epsilon is None and "dp_mechanism" in settings:
                continue  # clipping adapts as part of a private mechanism only
            cells = [
                statistics.mean(accuracy(settings, epsilon, attack, options.rounds, seed) for seed in range(options.seeds))
                for attack in ATTACKS
            ]
            shown = " | ".join(f"{cell:.1%}" for cell in cells)
            print(f"| {scheme} | {'none' if epsilon is None else format(epsilon, 'g')} | {shown} |", flush=True)


def accuracy(settings: dict[str, Any], epsilon: float | None, attack: str | None, rounds: int, seed: int) -> float:
    """Of the model after the last round."""
    private = {"differential_privacy": True, "dp_epsilon": epsilon, "dp_delta": DELTA, "dp_clip": 0.5, "dp_seed": seed}
    secure = "secure_aggregation" in settings
    attacked = {"attack": attack, "attack_fraction": FRACTION} if attack else {}
    config = FLConfig(**{
        **COMMON, **settings, **(private if epsilon else {}), **attacked, "num_rounds": rounds, "seed": seed,
        "fraction_fit": 1.0 if secure else SAMPLING,
    })  # fmt: skip
    return FederatedLearningCoordinator(config).run(make_clients(config), output=None).final.accuracy


if __name__ == "__main__":
    main()
