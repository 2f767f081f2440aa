"""The bias of secure sums: how far the mean of many equal coordinates of a sum is from the truth, at entries of 1e-7 to 1.

Run: python scripts/secagg_bias.py [--repeats 4]

An update has 25 000 coordinates of each magnitude. The bound is the one of a federation without privacy by default (100), that
bound brought near the updates by a secure sum of votes, and 1. Beside the largest bias stands what chance alone leaves of it.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from fl_impl.privacy.protection import SECURE_BOUND
from fl_impl.privacy.secure_aggregation import Terms, near_bound, secure_sum

MAGNITUDES = 10.0 ** np.arange(-7, 1)
EACH = 25_000
MOST = 0.01


def main() -> None:
    """Print a line for each number of clients and bound; status 1 where a bias is 1 % or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    worst = 0.0
    print("| clients | bound | largest bias | at entries of | by chance, one standard deviation |\n|--:|--:|--:|--:|--:|")
    for n in (3, 10, 60):
        for near in (False, True):
            bound, biases, chance = measured(n, options.repeats, near=near)
            at = int(np.argmax(biases))
            worst = max(worst, float(biases[at]))
            print(
                f"| {n} | {bound:g}{', near' if near else ''} | {biases[at]:.1e} | {MAGNITUDES[at]:.0e} | {chance[at]:.1e} |",
                flush=True,
            )
    print(f"\nlargest bias: {worst:.2%}")
    sys.exit(worst >= MOST)


def measured(n: int, repeats: int, *, near: bool) -> tuple[float, np.ndarray, np.ndarray]:
    """(the bound, |bias| of each magnitude relative to it, its standard deviation where rounding is fair)."""
    update = np.repeat(MAGNITUDES, EACH)
    bound = near_bound(dict.fromkeys(range(n), update[::EACH]), SECURE_BOUND)[0] if near else SECURE_BOUND
    terms = Terms.agreed(clients=n, length=update.size, bound=bound)
    means = [
        secure_sum(dict.fromkeys(range(n), update), terms).total.reshape(len(MAGNITUDES), EACH).mean(axis=1) / n
        for _ in range(repeats)
    ]
    biases = np.abs(np.mean(means, axis=0) / MAGNITUDES - 1)
    chance = terms.encoding.step / np.sqrt(4 * n * EACH * repeats) / MAGNITUDES
    return bound, biases, chance


if __name__ == "__main__":
    main()
