"""The adversary: the worst input it can find for a rule, as the coefficient reached beside kappa and f/(n - 2f).

Three kinds of search share one budget: known worst inputs and small lattices of clusters, of which the best are refined by
an evolution strategy; and, where gradients flow through the rule, steps of ascent in between. WLOG the first f rows are
Byzantine: the search also reverses the order of rows, for rules that break ties by position.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_fl.adapters import as_subject
from pytest_fl.inputs.colluders import COLLUDERS
from pytest_fl.oracles.coefficient import rounding
from pytest_fl.oracles.theory import all_worst_inputs, lower_bound
from pytest_fl.subjects.guard import Misbehaved, Rule

Floats = npt.NDArray[np.float64]
CHAINS = 16
"""Starting points that are refined."""


@dataclass(frozen=True, eq=False)
class WorstCase:
    """The worst input found."""

    ratio: float
    """||F(x) - mean_S||^2 over the variance of the honest rows S, rounding taken off: no smaller kappa is true."""
    updates: Floats
    byzantine: tuple[int, ...]
    kappa: float | None
    """The claimed coefficient; None where none is claimed."""
    lower_bound: float
    """f / (n - 2f), below which no rule's coefficient can be."""
    evaluations: int

    def __str__(self) -> str:
        """One line."""
        claimed = "none claimed" if self.kappa is None else f"{self.kappa:.4g}"
        reached = f" ({self.ratio / self.kappa:.1%} reached)" if self.kappa else ""
        least = f"f/(n-2f) {self.lower_bound:.4g}"
        return f"ratio {self.ratio:.4g}, kappa {claimed}{reached}, {least}, {self.evaluations} evaluations"


@dataclass
class _Search:
    """The objective and what is left of the budget."""

    rule: Rule
    f: int
    left: int
    deadline: float
    best: tuple[float, Floats] = field(default_factory=lambda: (-1.0, np.zeros((0, 0))))
    used: int = 0

    @property
    def spent(self) -> bool:
        return self.used >= self.left or time.monotonic() > self.deadline

    def __call__(self, x: Floats) -> float:
        """The coefficient at x, honest rows last; -1 where the honest rows agree or the rule gives no vector."""
        self.used += 1
        honest = x[self.f :]
        mean = honest.mean(0)
        variance = float(((honest - mean) ** 2).sum(1).mean())
        if not variance > 1e-20 * float((x**2).max()):
            return -1.0  # rounding would be taken for deviation
        try:
            distance = float(np.linalg.norm(self.rule(x, self.f) - mean))
        except Misbehaved:
            return -1.0
        # A long search finds inputs on which rounding adds to the deviation: what it may add does not count.
        excess = distance - rounding(x.shape[0], x.shape[1], x.dtype, float(np.abs(honest).max()))
        ratio = max(excess, 0.0) ** 2 / variance
        if ratio > self.best[0]:
            self.best = ratio, x
        return ratio


def worst_case(
    aggregator: object,
    n: int,
    f: int,
    d: int = 2,
    *,
    seconds: float | None = None,
    evaluations: int | None = None,
    seed: int = 0,
    **claims: Any,
) -> WorstCase:
    """Search for the input of n rows in d dimensions, f of them Byzantine, on which the rule deviates the most.

    Bounded by `evaluations` (20 000 where neither is given) or `seconds`; deterministic for a seed where only
    evaluations bound it. `claims` as for `conformance`. Raises ValueError where the rule does not take (n, f) or f < 1.
    """
    subject = as_subject(aggregator, **claims)
    if f < 1 or d < 1 or not subject.takes(n, f):
        raise ValueError(f"expected f >= 1, d >= 1 and (n, f) that {subject.name} takes; got n={n}, f={f}, d={d}")
    limit = 20_000 if seconds is None and evaluations is None else evaluations
    return hunt(Rule(subject), n, f, d, evaluations=limit, seconds=seconds, seed=seed)


def hunt(
    rule: Rule, n: int, f: int, d: int, *, evaluations: int | None, seconds: float | None = None, seed: int = 0
) -> WorstCase:
    """`worst_case` of a rule that is guarded already. Raises Misbehaved where it returned no vector at all."""
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    search = _Search(rule, f, evaluations or sys.maxsize, deadline)
    _climb(search, _starts(search, n, d, np.random.default_rng([seed, n, f, d])), np.random.default_rng([seed, 1]))
    ratio, updates = search.best
    if ratio < 0:
        raise Misbehaved(f"returned no vector on any of {search.used} rounds of n={n}, f={f}, d={d}")
    kappa = rule.subject.kappa(n, f) if rule.subject.kappa is not None else None
    return WorstCase(ratio, updates, tuple(range(f)), kappa, lower_bound(n, f), search.used)


def _starts(search: _Search, n: int, d: int, rng: np.random.Generator) -> list[tuple[float, Floats]]:
    """The best starting points, best first; at most a third of the budget goes into looking for them."""
    found: list[tuple[float, Floats]] = []
    third, until = search.left // 3, time.monotonic() + (search.deadline - time.monotonic()) / 3
    for x in _candidates(n, search.f, d, rng):
        if search.used >= third or time.monotonic() > until:
            break
        found.append((search(x), x))
    found.sort(key=lambda pair: -pair[0])
    return found[:CHAINS]


def _candidates(n: int, f: int, d: int, rng: np.random.Generator) -> Iterator[Floats]:
    yield from _known(n, f, d)
    yield from _lattices(n, f, d)
    while True:
        yield from _attacked_clouds(n, f, d, rng)


def _known(n: int, f: int, d: int) -> Iterator[Floats]:
    """The stored worst inputs of all rules at this (n, f), in at most d dimensions, moved to the origin and unit size."""
    for known in all_worst_inputs():
        if known.updates.shape[0] == n and known.f == f and known.updates.shape[1] <= d:
            x = np.zeros((n, d))
            x[:, : known.updates.shape[1]] = known.updates
            centred = x - x[f:].mean(0)
            yield centred / (np.abs(centred[f:]).max() or 1.0)


def _lattices(n: int, f: int, d: int) -> Iterator[Floats]:
    """All honest rows at 0 or 1 or on a line of three points, all Byzantine rows at one or two points of a lattice."""
    h = n - f
    for low, third in product(range(1, h), (0, 1, f)):
        if low + third >= h:
            continue
        honest = np.ones(h)
        honest[:low] = 0
        honest[low : low + third] = 2
        for place, second in product((2.0, 1e3, 1.0, 3.0, 0.0, -1.0, 1.999, -1e3), (None, 1.0, -1.0)):
            x = np.zeros((n, d))
            x[f:, 0] = honest
            x[:f, 0] = place
            if second is not None:
                x[: f // 2, 0] = second
            yield x
            if second is None:
                yield _reversed(x, f)


def _reversed(x: Floats, f: int) -> Floats:
    """The honest rows in the other order: other ties are broken."""
    return np.concatenate([x[:f], x[f:][::-1]])


def _attacked_clouds(n: int, f: int, d: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Random honest rows under each plot of the corpus, its reach searched on a geometric ladder."""
    for plot in COLLUDERS.values():
        honest = rng.standard_normal((n - f, d)) if rng.random() < 0.5 else rng.integers(-1, 2, (n - f, d)).astype(np.float64)
        for reach in (0.5, 1.0, 2.0, 4.0, 100.0):
            yield np.concatenate([plot(honest, f, reach, rng), honest])


def _climb(search: _Search, starts: list[tuple[float, Floats]], rng: np.random.Generator) -> None:
    """Refine the starting points in turns, each with its own step, giving up on those that fall behind."""
    chains = [[value, x, 0.3] for value, x in starts if value >= 0]
    ascend = _gradient(search)
    turn = 0
    while chains and not search.spent:
        for chain in chains:
            for _ in range(40):
                if search.spent:
                    return
                _mutate(search, chain, rng)
            if ascend is not None and turn % 4 == 0:
                ascend(chain)
        turn += 1
        if turn % 10 == 0 and len(chains) > 3:
            chains.sort(key=lambda chain: -chain[0])
            chains.pop()


def _mutate(search: _Search, chain: list[Any], rng: np.random.Generator) -> None:
    """One proposal: some rows or all, moved a little, or moved together, or a row put onto another."""
    value, x, step = chain
    new, kind = x.copy(), rng.integers(5)
    if kind == 0:
        new += step * rng.standard_normal(x.shape)
    elif kind == 1:
        row = rng.integers(len(x))
        new[row] += step * rng.standard_normal(x.shape[1])
    elif kind == 2:
        group = (np.abs(x - x[rng.integers(len(x))]).max(1) < 1e-3) | (rng.random(len(x)) < 0.1)
        new[group] += step * rng.standard_normal(x.shape[1])
    elif kind == 3:
        to, source = rng.integers(len(x), size=2)
        new[to] = x[source] + 1e-3 * step * rng.standard_normal(x.shape[1])
    else:
        new[: search.f] *= 1 + step * rng.standard_normal()
    size = np.abs(new[search.f :] - new[search.f :].mean(0)).max()
    if not 1e-3 < size < 1e3:
        new = new / (size or 1.0)
    found = search(new)
    better = found > value
    chain[2] = min(1.0, step * 1.3) if better else max(1e-7, step * 0.97)
    if better:
        chain[0], chain[1] = found, new
    elif chain[2] < 1e-6:
        chain[2] = 0.3


def _gradient(search: _Search) -> Callable[[list[Any]], None] | None:
    """Steps of ascent on the coefficient through the rule itself, where it takes tensors and gradients flow."""
    call = search.rule.subject.tensor_call
    if call is None:
        return None
    import torch  # noqa: PLC0415  # only for rules that take tensors

    def ascend(chain: list[Any]) -> None:
        x = torch.tensor(chain[1], dtype=torch.float64)
        for step in (0.1, 0.03, 0.01):
            x = x.detach().requires_grad_(True)
            mean = x[search.f :].mean(0)
            try:
                ratio = ((call(x, search.f) - mean) ** 2).sum() / ((x[search.f :] - mean) ** 2).sum(1).mean()
                (slope,) = torch.autograd.grad(ratio, x)
            except (RuntimeError, ValueError):
                return  # no gradient here: the evolution strategy goes on alone
            norm = float(slope.norm())
            if not math.isfinite(norm) or norm == 0:
                return
            x = x + step * slope / norm * float(x[search.f :].detach().std() or 1)
            new = x.detach().numpy()
            found = search(new)
            if found > chain[0]:
                chain[0], chain[1] = found, new.copy()

    return ascend
