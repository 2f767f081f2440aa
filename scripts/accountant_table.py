"""Exact costs of Poisson-sampled Gaussian rounds at the corners, each by two methods.

Run: python scripts/accountant_table.py. Writes pytest_fl/oracles/data/accountant.csv, to which every accountant is held. A row
is kept where two methods agree within 0.1 %, and the methods have little in common: closed forms (one round, no sampling, or a
client that hardly ever takes part), the integral of the hockey-stick divergence, the contour integral of the Laplace transform
of the summed loss (no grid of losses), and composition on a fine grid: dp-accounting's, or the harness's own in extended
precision, where the rounding of an FFT would drown delta.
"""

from __future__ import annotations

import csv
import itertools
import math
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from scipy.optimize import brentq, minimize_scalar

from pytest_fl.oracles.privacy_loss import gaussian_delta, lattice_epsilon, least_epsilon, one_round_delta, round_spread

TABLE = Path(__file__).parents[1] / "pytest_fl/oracles/data/accountant.csv"
SAMPLING, ROUNDS, DELTAS, NOISES = (1e-4, 1e-2, 0.3, 1.0), (1, 100, 3000, 100_000), (1e-4, 1e-8, 1e-12), (0.3, 1.0, 10.0, 100.0)
AGREE = 1e-3
DEEPEST = 60.0
"""Integrands below e^-60 of their peak are left out."""


def main() -> None:
    """Compute all rows, and say which methods agreed."""
    rows = []
    for q, rounds, delta, z in itertools.product(SAMPLING, ROUNDS, DELTAS, NOISES):
        found = {"closed": closed(z, delta, q, rounds), "contour": contour(z, delta, q, rounds) if rounds > 1 else None}
        found["absent"] = 0.0 if q < 1 and -math.expm1(rounds * math.log1p(-q)) <= delta else None
        found["integral"] = integral(z, delta, q) if rounds == 1 else None
        found |= {"lattice": lattice_epsilon(z, delta, q, rounds), "library": library(z, delta, q, rounds)}
        known = sorted(value for value in found.values() if value is not None)
        close = [(a, b) for a, b in itertools.pairwise(known) if b - a <= AGREE * b]
        text = ", ".join(f"{name} {value:.7g}" for name, value in found.items() if value is not None)
        print(f"q={q:g} T={rounds} delta={delta:g} z={z:g}: {text}{'' if close else '  DROPPED'}", file=sys.stderr, flush=True)
        if close:
            low, high = min(close, key=lambda pair: pair[1] - pair[0])
            within = max(1e-6, (high - low) / high if high else 0.0)
            rows.append((f"{z:g}", f"{delta:g}", f"{q:g}", rounds, f"{low:.9g}", f"{within:.2g}"))
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("noise_multiplier", "delta", "sampling", "rounds", "epsilon", "within"), *rows])
    print(f"{len(rows)} rows of {len(SAMPLING) * len(ROUNDS) * len(DELTAS) * len(NOISES)} in {TABLE.name}")


def closed(z: float, delta: float, q: float, rounds: int) -> float | None:
    """The root of the exact delta(epsilon), where there is a formula: one round, or no sampling."""
    if q == 1:
        return least_epsilon(lambda e: gaussian_delta(math.sqrt(rounds) / z, e), delta)
    return least_epsilon(lambda e: one_round_delta(z, q, e), delta) if rounds == 1 else None


def integral(z: float, delta: float, q: float) -> float:
    """The root of delta(e) = int max(0, mixture - exp(e) N(0, z^2)) for one round, on a fine trapezoid."""
    x = np.linspace(-12 * z, 1 + 12 * z, 400_001)
    null = np.exp(-(x**2) / (2 * z * z)) / (z * math.sqrt(2 * math.pi))
    mixed = (1 - q) * null + q * np.exp(-((x - 1) ** 2) / (2 * z * z)) / (z * math.sqrt(2 * math.pi))
    return least_epsilon(lambda e: float(np.maximum(mixed - math.exp(min(e, 700.0)) * null, 0).sum() * (x[1] - x[0])), delta)


def contour(z: float, delta: float, q: float, rounds: int) -> float | None:
    """The larger of both directions; None where the integral takes too many nodes."""
    removing, adding = (inversion(z, delta, q, rounds, adding=adding) for adding in (False, True))
    return None if removing is None or adding is None else max(removing, adding)


def inversion(z: float, delta: float, q: float, rounds: int, *, adding: bool) -> float | None:
    """delta(e) = 1/2pi int exp(-w e) M(w)^T / (w (w + 1)) du over w = theta + iu, M(w) = E exp(w loss), for any theta > 0.

    1 / (w (w + 1)) is the Laplace transform of max(0, 1 - exp(-s)). Alghamdi et al. 2023 (arXiv 2208.09595).
    """
    tilted = nodes(z, delta, q, rounds, adding=adding)
    if tilted is None:
        return None
    theta, base, loss, weights = tilted
    mean = float(weights @ loss)
    step = 0.02 / max(math.sqrt(rounds * float(weights @ (loss - mean) ** 2)), 1e-300)
    power = characteristic(loss - mean, weights, rounds, step)
    if power is None or theta < 20 * step:  # the step must resolve the poles at 0 and -1
        return None
    u = step * np.arange(len(power))
    w = theta + 1j * u

    def delta_at(e: float) -> float:
        integrand = np.real(np.exp(1j * u * (rounds * mean - e)) * power / (w * (w + 1)))
        front = math.exp(min(rounds * base - theta * e, 700.0))
        return front * float(integrand.sum() - integrand[0] / 2) * step / math.pi

    top = (rounds * base - math.log(delta)) / theta  # Chernoff's bound
    low = max(0.0, top - 60 / theta)
    if delta_at(low) <= delta:
        return 0.0 if low == 0 else None
    return float(cast("float", brentq(lambda e: delta_at(e) - delta, low, top * (1 + 1e-9), rtol=np.float64(1e-12))))


def nodes(z: float, delta: float, q: float, rounds: int, *, adding: bool) -> tuple[float, float, np.ndarray, np.ndarray] | None:
    """theta of the least Chernoff bound, log M(theta), and the losses at the nodes of its integrand with their weights."""

    def at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rest = math.log1p(-q) if q < 1 else -math.inf
        loss = np.logaddexp(rest, math.log(q) + (2 * x - 1) / (2 * z * z))
        density = -(x**2) / (2 * z * z) - math.log(z * math.sqrt(2 * math.pi)) + math.log(x[1] - x[0])
        return (-loss, density) if adding else (loss, density + loss)

    x = np.linspace(-40 * z, 1 + 40 * z, 40_001)
    loss, density = at(x)

    def chernoff(log_theta: float) -> float:
        theta = math.exp(log_theta)
        return (rounds * float(np.logaddexp.reduce(density + theta * loss)) - math.log(delta)) / theta

    theta = math.exp(cast("Any", minimize_scalar(chernoff, bounds=(-14, 16), method="bounded")).x)
    exponent = density + theta * loss
    keep = exponent > exponent.max() - DEEPEST
    if keep[0] or keep[-1]:
        return None
    base = float(np.logaddexp.reduce(exponent))
    loss, density = at(np.linspace(x[keep][0], x[keep][-1], 6_001))  # once more, where the integrand lives
    exponent = density + theta * loss
    return theta, base, loss, np.exp(exponent - np.logaddexp.reduce(exponent))


def characteristic(loss: np.ndarray, weights: np.ndarray, rounds: int, step: float) -> np.ndarray | None:
    """E exp(iu loss)^T at u = 0, step, ... until it has died out; None where that takes too long, or aliases."""
    values: list[np.ndarray] = []
    for start in range(0, 12_000, 500):
        u = step * np.arange(start, start + 500)
        if u[-1] * np.abs(np.diff(loss)).max() > 1.5:
            return None
        values.append((np.exp(1j * np.outer(u, loss)) @ weights) ** rounds)
        if np.abs(values[-1]).max() < 1e-13:
            return np.concatenate(values)
        if start >= 1_000 and np.abs(values[-1]).min() > 0.3:
            return None  # what is left of an atom
    return None


def library(z: float, delta: float, q: float, rounds: int) -> float | None:
    """dp-accounting; None where its FFT's rounding, or that of its differences on a fine grid, would reach delta."""
    spread = round_spread(z, q)
    interval = max(min(spread / 60, 5e-3), (10 / z + 0.5 / z**2) / 1_000_000)
    if rounds * 1e-16 * 1e4 > delta or rounds * 1e-16 / interval * 1e4 > delta or interval > spread / 8:
        return None
    loss = privacy_loss_distribution.from_gaussian_mechanism(z, value_discretization_interval=interval, sampling_prob=q)
    return float(loss.self_compose(rounds).get_epsilon_for_delta(delta))


if __name__ == "__main__":
    main()
