"""What a round costs for 1e3, 1e5 and 1e7 clients, and a two-level run held to its composed bound: all of docs/scale.md.

python scripts/scale.py            a minute; CPU seconds are of one thread of the machine that runs it
"""

from __future__ import annotations

import math
import time

import numpy as np

from fl_impl import FederatedLearningCoordinator, FLConfig, make_clients
from fl_impl.aggregators import resolve
from fl_impl.flower.regions import Regions, bound

D = 1_000_000
SAMPLE = 1_000
BYZANTINE = 0.1
RULES = ("mean", "coordinate_median", "trimmed_mean", "nnm|trimmed_mean")


def seconds(rule_name: str, n: int, d: int, f: int) -> float:
    """CPU time of one aggregation of n float32 vectors of length d, the least of three."""
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    rule = resolve(rule_name)
    times: list[float] = []
    for _ in range(3):
        start = time.process_time()
        rule(x, f=f)
        times.append(time.process_time() - start)
    return min(times)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def costs() -> None:
    """Bytes and memory of a round."""
    print("| clients | scheme | asked | up to the busiest server | its memory | all traffic up |")
    print("|---|---|---|---|---|---|")
    for n, regions in ((10**3, 25), (10**5, 250), (10**7, 2500)):
        for scheme, asked, rows in (
            ("everybody, one server", n, n),
            (f"a sample of {SAMPLE}", min(SAMPLE, n), min(SAMPLE, n)),
            (f"{regions} regions of {n // regions}", n, max(regions, n // regions)),
        ):
            extra = regions if "regions" in scheme else 0
            row, total = 4 * D, 4 * D * (asked + extra)
            print(f"| {n:.0e} | {scheme} | {asked:.0e} | {size(row * rows)} | {size(row * rows)} | {size(total)} |")


def speeds() -> None:
    """CPU of one aggregation."""
    print("\n| rule | n = 100, d = 1e5 | n = 1000, d = 1e4 | n = 1000, scaled to d = 1e6 |")
    print("|---|---|---|---|")
    for name in RULES:
        small, large = seconds(name, 100, 100_000, 10), seconds(name, 1000, 10_000, 100)
        print(f"| `{name}` | {small:.3f} s | {large:.3f} s | {large * D / 10_000:.1f} s |")


def tail(population: int, byzantine: int, sample: int, more_than: int) -> float:
    """P(more than so many of the sample are Byzantine), drawn without replacement (hypergeometric)."""

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    total = log_choose(population, sample)
    last = min(sample, byzantine)
    terms = [
        log_choose(byzantine, k) + log_choose(population - byzantine, sample - k) - total
        for k in range(more_than + 1, last + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, terms)))


def sampling() -> None:
    """How often a sample holds more Byzantine clients than the rule is told."""
    print(f"\n| clients | sample | f told | P(more than f of them Byzantine), {BYZANTINE:.0%} of all are |")
    print("|---|---|---|---|")
    for n in (10**3, 10**5, 10**7):
        for sample, f in ((100, 20), (500, 75), (SAMPLE, 150)):
            print(f"| {n:.0e} | {sample} | {f} | {tail(n, round(BYZANTINE * n), sample, f):.1e} |")


def two_level() -> None:
    """100 clients in 10 regions: each round's deviation beside the composed bound, with one region captured."""
    plan = Regions("nnm|trimmed_mean", "nnm|trimmed_mean", regions=10, inner_f=1, outer_f=1)
    attackers = np.array([0, 1, 10, 20, 30])  # region 0 is captured; 1, 2 and 3 hold one attacker each
    kappa = plan.kappa(100)
    regions = [np.setdiff1d(np.arange(10 * r, 10 * r + 10), attackers) for r in range(1, 10)]
    honest = np.concatenate([region[:9] for region in regions])
    ratios: list[float] = []

    def forged(updates: np.ndarray) -> np.ndarray:
        sent = updates.copy()
        sent[attackers] = -10 * np.delete(updates, attackers, axis=0).mean(axis=0)
        return sent

    def held(updates: np.ndarray, f: int) -> np.ndarray:
        del f  # Regions knows its own
        sent = forged(updates)
        result = plan(sent)
        mu, limit = bound(sent, honest, kappa)
        ratios.append(float(np.linalg.norm(result - mu)) / limit)
        assert ratios[-1] <= 1, "the composed bound does not hold"
        return result

    def plain(updates: np.ndarray, f: int) -> np.ndarray:
        del f
        return forged(updates).mean(axis=0)

    print("\n| aggregation of 100 clients, 5 of them sending -10 times the honest mean | accuracy after 15 rounds |")
    print("|---|---|")
    for name, rule in (("two levels", held), ("mean", plain)):
        config = FLConfig(num_clients=100, num_rounds=15, batch_size=8, local_epochs=3, aggregation=rule)
        metrics = FederatedLearningCoordinator(config).run(make_clients(config), output=None)
        print(f"| {name} | {metrics.final.accuracy:.1%} |")
    parts = [rule.kappa(10, 1) for rule in plan.rules]
    print(f"\nkappa: (1 + {parts[0]:.3f})(1 + {parts[1]:.3f}) - 1 = {kappa:.3f}; ", end="")
    print(f"deviation / bound in {len(ratios)} rounds: at most {max(ratios):.3f}")


if __name__ == "__main__":
    costs()
    speeds()
    sampling()
    two_level()
