"""Noise that the model carries under correlated and independent noise, in six settings: the table that docs/privacy.md shows.

Run: python scripts/ftrl_table.py. Root mean square, over the rounds, of the noise of a prefix sum of the releases, in clip
bounds and for 1000 clients, at (epsilon, delta) = (1, 1e-5).
"""

from __future__ import annotations

import math

import numpy as np

from fl_impl.privacy import Budget, gaussian_noise
from fl_impl.privacy.ftrl import BandedFTRL, independent_on_the_model

CLIENTS, EPSILON, DELTA = 1000, 1.0, 1e-5
SETTINGS = ((1.0, 20), (0.5, 20), (0.1, 20), (0.05, 100), (0.02, 500), (0.01, 2000))


def main() -> None:
    """Print a line a setting."""
    print("| a client takes part | rounds | independent, sampled | independent, in turn | tree, in turn | banded (`ftrl`) |")
    print("|---|--:|--:|--:|--:|--:|")
    for fraction, rounds in SETTINGS:
        budget = Budget(EPSILON, DELTA, fraction)
        banded = BandedFTRL.calibrated(budget, rounds=rounds, clip_bound=1.0, clients=CLIENTS)
        often, expected = math.ceil(rounds / banded.separation), banded.expected_clients
        once = gaussian_noise(EPSILON, DELTA) * math.sqrt(often) / expected
        row = (
            independent_on_the_model(budget, rounds, fraction * CLIENTS),
            once * math.sqrt((rounds + 1) / 2),
            once * tree(rounds),
            banded.on_the_model(),
        )
        cells = " | ".join(f"**{value:.3f}**" if value == min(row) else f"{value:.3f}" for value in row)
        print(f"| in one round of {banded.separation} | {rounds} | {cells} |")


def tree(rounds: int) -> float:
    """Binary tree: each round is in every level, a prefix is the sum of as many nodes as its number has ones."""
    levels = rounds.bit_length()
    ones = np.array([t.bit_count() for t in range(1, rounds + 1)])
    return math.sqrt(levels * float(ones.mean()))


if __name__ == "__main__":
    main()
