"""White-box attacks: they try messages on the aggregator in use and send the one that does the most harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from fl_impl.attacks.base import Array, Attack
from fl_impl.attacks.registry import ALL, attack, resolve
from fl_impl.attacks.updates import direction, mean_of, spread_of

Rule = Callable[[Array], Array]
Objective = Literal["deviation", "descent"]


def harm(rule: Rule, honest: Array, byzantine: Array, objective: Objective) -> float:
    """||F(H u B) - mu||, or -<F(H u B), mu> for "descent"; -inf where the rule refuses the messages."""
    mu = mean_of(honest)
    try:
        result = np.asarray(rule(np.concatenate([honest, byzantine.astype(honest.dtype)])), np.float64)
    except ValueError:
        return -np.inf
    value = float(np.linalg.norm(result - mu)) if objective == "deviation" else -float(result @ mu)
    return value if np.isfinite(value) else -np.inf


def rule_in_use(aggregate: Rule | None, against: str | None, f: int) -> Rule:
    """The rule to try on: the one named by the option, else the federation's, else `trimmed_mean`."""
    if aggregate is not None and against is None:
        return aggregate
    from fl_impl.aggregators import resolve  # noqa: PLC0415  # the two packages import without one another

    chosen = resolve(against or "trimmed_mean")
    return lambda updates: chosen(updates, f=f)


@attack(knowledge="aggregator", source="Shejwalkar & Houmansadr 2021; ByzFL's Optimal* (its t >= 0 on a coarse grid)")
def optimized(
    honest: Array,
    f: int,
    rng: np.random.Generator,
    *,
    attack: str = "a_little_is_enough",
    against: str | None = None,
    objective: Objective = "deviation",
    evaluations: int = 24,
    aggregate: Rule | None = None,
    own: Array | None = None,
) -> Array:
    """Another attack, with the factor t that maximises ||F(H u B(t)) - mu||: a grid over 1/16 to 1024, then golden section.

    Raises ValueError for an attack that has no factor.
    """
    inner = with_factor(attack)
    rule = rule_in_use(aggregate, against, f)
    seed = int(rng.integers(2**63))

    def crafted(t: float) -> Array:
        options = {str(inner.factor): t}
        return inner.configured(**options).craft(honest, f, np.random.default_rng(seed), own=own)

    grid = np.linspace(-4, 10, max(evaluations // 2, 3))
    values = [harm(rule, honest, crafted(2.0**t), objective) for t in grid]
    best = int(np.argmax(values))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found, value = golden(lambda t: harm(rule, honest, crafted(2.0**t), objective), low, high, evaluations - len(grid))
    return crafted(2.0 ** (found if value > values[best] else grid[best]))


def with_factor(spec: str) -> Attack:
    """The attack of a spec, if it has a factor to search."""
    inner = resolve(spec)
    if inner.factor is None:
        known = ", ".join(sorted(name for name, made in ALL.items() if made.factor))
        raise ValueError(f"optimized needs an attack with a factor to search ({known}); got {spec!r}")
    return inner


def golden(value: Callable[[float], float], low: float, high: float, evaluations: int) -> tuple[float, float]:
    """(t, value) of the best point that a golden-section search for a maximum meets."""
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    met = {left: value(left), right: value(right)}
    for _ in range(evaluations - 2):
        if met[left] >= met[right]:
            high, right, left = right, left, right - ratio * (right - low)
        else:
            low, left, right = left, right, left + ratio * (high - left)
        for point in (left, right):
            if point not in met:
                met[point] = value(point)
    best = max(met, key=lambda point: met[point])
    return best, met[best]


@attack(knowledge="aggregator", source="white-box search in the span of honest differences")
def worst_case(
    honest: Array,
    f: int,
    rng: np.random.Generator,
    *,
    against: str | None = None,
    objective: Objective = "deviation",
    evaluations: int = 200,
    aggregate: Rule | None = None,
) -> Array:
    """max over B of ||F(H u B) - mu||, by a (1+1) evolution strategy in the span of mu, s and the honest differences.

    It starts from the best of the axes at many lengths, all attackers alike or in two opposed groups.
    """
    rule = rule_in_use(aggregate, against, f)
    mu, axes = mean_of(honest), axes_of(honest)
    sides = np.where(np.arange(f) < (f + 1) // 2, 0, 1)

    def rows(weights: Array) -> Array:
        return mu + (weights @ axes)[sides]

    best, value = np.zeros((2, len(axes))), -np.inf
    starts = list(starting_weights(len(axes)))
    for weights in starts:
        tried = harm(rule, honest, rows(weights), objective)
        if tried > value:
            best, value = weights, tried
    step = 0.5
    for _ in range(max(evaluations - len(starts), 0)):
        weights = best * np.exp(step * rng.normal()) + step * np.abs(best).max() * rng.normal(size=best.shape)
        tried = harm(rule, honest, rows(weights), objective)
        best, value, step = (weights, tried, step * 1.5) if tried > value else (best, value, max(step * 0.9, 1e-3))
    return rows(best)


def axes_of(honest: Array, most: int = 4) -> Array:
    """(k, d): -mu, -s and the honest rows farthest from mu, each as long as the honest spread sqrt(mean ||x_i - mu||^2)."""
    mu = mean_of(honest)
    centred = honest - mu
    length = float(np.linalg.norm(spread_of(honest, ddof=0))) or float(np.linalg.norm(mu)) or 1.0
    far = centred[np.argsort(-np.abs(centred).max(axis=1), kind="stable")[:most]]
    return length * np.stack([direction(axis) for axis in (-mu, -spread_of(honest), *far)])


def starting_weights(k: int) -> Iterator[Array]:
    """(2, k) weights: each axis forth, back, and split between two groups, at lengths from 1/4 to 1000 spreads."""
    for length in (0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 1000.0):
        for axis in range(k):
            for first, second in ((1, 1), (-1, -1), (1, -1)):
                weights = np.zeros((2, k))
                weights[:, axis] = length * first, length * second
                yield weights
