"""64 private configurations over epsilon, sampling, rounds and delta: how long each takes to calibrate, and what it spends.

Run: python scripts/calibration_cells.py [--slowest 5]. Ends with status 1 where a cell takes longer, spends more than its
budget, or less than 99 % of it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time

from fl_impl import FLConfig
from fl_impl.privacy.accounting import spent_epsilon

EPSILONS, SAMPLINGS, ROUNDS, DELTAS = (0.1, 0.2, 0.5, 1.0), (0.1, 0.3, 0.6, 0.9), (100, 3000), (1e-5, 1e-12)
WITHIN = 0.01


def main() -> None:
    """Print each cell, then the slowest, the least and the most spent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slowest", type=float, default=5.0, help="seconds of wall time that a cell may take")
    options = parser.parse_args()
    cell(1.0, 1.0, 1, 1e-5)  # imports are not calibration
    cells = [cell(*each) for each in itertools.product(EPSILONS, SAMPLINGS, ROUNDS, DELTAS)]
    seconds, shares = [each[0] for each in cells], [each[1] for each in cells]
    print(
        f"{len(cells)} cells: slowest {max(seconds):.2f} s, all {sum(seconds):.0f} s; "
        f"spent {min(shares):.4%} to {max(shares):.4%} of the budget"
    )
    if max(seconds) > options.slowest or not 1 - WITHIN <= min(shares) <= max(shares) <= 1 + 1e-9:
        sys.exit(1)


def cell(epsilon: float, sampling: float, rounds: int, delta: float) -> tuple[float, float]:
    """(seconds that a configuration takes, the share of its budget that it spends)."""
    start = time.perf_counter()
    config = FLConfig(
        num_clients=1000,
        fraction_fit=sampling,
        num_rounds=rounds,
        differential_privacy=True,
        dp_epsilon=epsilon,
        dp_delta=delta,
    )
    seconds, guard = time.perf_counter() - start, config.protection
    noise = guard.mechanism.noise_multiplier
    spent = spent_epsilon(noise_multiplier=noise, delta=delta, sampling=sampling, rounds=rounds)
    print(
        f"epsilon {epsilon:g}, q {sampling:g}, T {rounds}, delta {delta:g}: z {noise:.4g}, "
        f"{spent / epsilon:.4%}, {seconds:.2f} s"
    )
    return seconds, spent / epsilon


if __name__ == "__main__":
    main()
