"""The adversary: the worst input it can find for a rule, as the coefficient reached beside kappa and f/(n - 2f).

It starts from the shapes that attain known constants, in as many dimensions as they need, from the worst inputs stored, from
small lattices of clusters and from attacked clouds (`openings`); the best are refined by an evolution strategy and, where
gradients flow through the rule, by steps of ascent. In many dimensions a part of the budget goes into the *reach*
(`reaching`): how far colluders get unseen, along directions that a rule which looks at summaries or projections misses.
The first f rows of an input are Byzantine; it is shown to the rule in this order and in the reverse, since some rules break
ties by position.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.adapters import as_subject
from pytest_fl.inputs.openings import openings
from pytest_fl.inputs.reaching import DEEP, reach
from pytest_fl.oracles.coefficient import rounding
from pytest_fl.oracles.theory import lower_bound
from pytest_fl.subjects.guard import Misbehaved, Rule

Floats = npt.NDArray[np.float64]
CHAINS: Final = 16
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
    enough: float = math.inf
    """A coefficient at which the search may stop."""
    best: tuple[float, Floats, bool] = field(default_factory=lambda: (-1.0, np.zeros((0, 0)), False))
    """The coefficient, the input, and whether its rows were shown in reverse order."""
    used: int = 0

    @property
    def spent(self) -> bool:
        return self.used >= self.left or self.best[0] >= self.enough or time.monotonic() > self.deadline

    def part(self, share: float) -> _Search:
        """The objective with this share of what is left."""
        until = time.monotonic() + (self.deadline - time.monotonic()) * share
        left = self.used + max(1, int((self.left - self.used) * share))
        return _Search(self.rule, self.f, left, until, self.enough, self.best, self.used)

    def take(self, part: _Search) -> None:
        """What a part of the search found and used."""
        self.used = part.used
        self.best = max(self.best, part.best, key=lambda best: best[0])

    def __call__(self, x: Floats, backwards: bool = False) -> float:
        """The coefficient at x, honest rows last; -1 where the honest rows agree or the rule gives no vector."""
        self.used += 1
        honest = x[self.f :]
        mean = honest.mean(0)
        variance = float(((honest - mean) ** 2).sum(1).mean())
        if not variance > 1e-20 * float((x**2).max()):
            return -1.0  # rounding would be taken for deviation
        try:
            distance = float(np.linalg.norm(self.rule(x[::-1] if backwards else x, self.f) - mean))
        except Misbehaved:
            return -1.0
        # A long search finds inputs on which rounding adds to the deviation: what it may add does not count.
        excess = distance - rounding(x.shape[0], x.shape[1], x.dtype, float(np.abs(honest).max()))
        ratio = max(excess, 0.0) ** 2 / variance
        if ratio > self.best[0]:
            self.best = ratio, x, backwards
        return ratio


def worst_case(
    aggregator: object,
    n: int,
    f: int,
    d: int | None = None,
    *,
    seconds: float | None = None,
    evaluations: int | None = None,
    seed: int = 0,
    **claims: Any,
) -> WorstCase:
    """Search for the input of n rows in d dimensions, f of them Byzantine, on which the rule deviates the most.

    d is n - 2f where none is given, at least 2: as many as the worst input of any exact constant here needs. Bounded by
    `evaluations` (20 000 where neither is given) or `seconds`; deterministic for a seed where only evaluations bound it.
    `claims` as for `conformance`. Raises ValueError where the rule does not take (n, f) or f < 1.
    """
    subject = as_subject(aggregator, **claims)
    d = max(2, n - 2 * f) if d is None else d
    if f < 1 or d < 1 or not subject.takes(n, f):
        raise ValueError(f"expected f >= 1, d >= 1 and (n, f) that {subject.name} takes; got n={n}, f={f}, d={d}")
    limit = 20_000 if seconds is None and evaluations is None else evaluations
    return hunt(Rule(subject), n, f, d, evaluations=limit, seconds=seconds, seed=seed)


def hunt(
    rule: Rule,
    n: int,
    f: int,
    d: int | None,
    *,
    evaluations: int | None,
    seconds: float | None = None,
    seed: int = 0,
    enough: float = math.inf,
) -> WorstCase:
    """`worst_case` of a rule that is guarded already; it may stop at a coefficient that is `enough`.

    d = None shares the budget between 2 dimensions and DEEP of them, and gives the worse of both. Raises Misbehaved where
    the rule returned no vector at all.
    """
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    whole = _Search(rule, f, evaluations or sys.maxsize, deadline, enough)
    for share, dimensions in [(1.0, d)] if d is not None else [(1 / 3, 2), (1.0, DEEP)]:
        search = whole.part(share)
        _look(search, n, dimensions, np.random.default_rng([seed, n, f, dimensions]), seed)
        whole.take(search)
    ratio, updates, backwards = whole.best
    if ratio < 0:
        raise Misbehaved(f"returned no vector on any of {whole.used} rounds of n={n}, f={f}, d={d or DEEP}")
    kappa = rule.subject.kappa(n, f) if rule.subject.kappa is not None else None
    byzantine = tuple(range(n - f, n)) if backwards else tuple(range(f))
    found = updates[::-1].copy() if backwards else updates
    return WorstCase(ratio, found, byzantine, kappa, lower_bound(n, f), whole.used)


def _look(search: _Search, n: int, d: int, rng: np.random.Generator, seed: int) -> None:
    """Starting points, in many dimensions the reach, then refinement."""
    starts = _starts(search, n, d, rng)
    if d >= DEEP // 2 and not search.spent:
        part = search.part(0.6)
        reach(part, n, part.f, d, rng, steps=(part.left - part.used) // 2)
        search.take(part)
    _climb(search, starts, np.random.default_rng([seed, 1]))


Start = tuple[float, Floats, bool]
"""The coefficient, the input, and whether its rows are shown in reverse order."""


def _starts(search: _Search, n: int, d: int, rng: np.random.Generator) -> list[Start]:
    """The best starting points, best first; at most a third of the budget goes into looking for them, or a fifth."""
    tried: list[Start] = []
    part = search.part(1 / 5 if d >= DEEP // 2 else 1 / 3)
    for x, backwards in openings(n, search.f, d, rng):
        if part.spent:
            break
        tried.append((part(x, backwards), x, backwards))
    search.take(part)
    tried.sort(key=lambda start: -start[0])
    return tried[:CHAINS]


@dataclass
class _Chain:
    """A point that is refined: its coefficient, and the size of the next step."""

    value: float
    x: Floats
    backwards: bool
    step: float = 0.3


def _climb(search: _Search, starts: list[Start], rng: np.random.Generator) -> None:
    """Refine the starting points in turns, each with its own step, giving up on those that fall behind."""
    chains = [_Chain(*start) for start in starts if start[0] >= 0]
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
            chains.sort(key=lambda chain: -chain.value)
            chains.pop()


def _mutate(search: _Search, chain: _Chain, rng: np.random.Generator) -> None:
    """One proposal: some rows or all, moved a little, or moved together, or a row put onto another."""
    x, step = chain.x, chain.step
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
    value = search(new, chain.backwards)
    better = value > chain.value
    chain.step = min(1.0, step * 1.3) if better else max(1e-7, step * 0.97)
    if better:
        chain.value, chain.x = value, new
    elif chain.step < 1e-6:
        chain.step = 0.3


def _gradient(search: _Search) -> Callable[[_Chain], None] | None:
    """Steps of ascent on the coefficient through the rule itself, where it takes tensors and gradients flow."""
    call = search.rule.subject.tensor_call
    if call is None or "torch" not in sys.modules:
        return None
    import torch  # noqa: PLC0415  # only for rules that take tensors

    def ascend(chain: _Chain) -> None:
        x = torch.tensor(chain.x, dtype=torch.float64)
        for step in (0.1, 0.03, 0.01):
            x = x.detach().requires_grad_(True)
            mean = x[search.f :].mean(0)
            try:
                result = call(x.flip(0) if chain.backwards else x, search.f)
                ratio = ((result - mean) ** 2).sum() / ((x[search.f :] - mean) ** 2).sum(1).mean()
                (slope,) = torch.autograd.grad(ratio, x)
            except (RuntimeError, ValueError):
                return  # no gradient here: the evolution strategy goes on alone
            norm = float(slope.norm())
            if not math.isfinite(norm) or norm == 0:
                return
            x = x + step * slope / norm * float(x[search.f :].detach().std() or 1)
            new = x.detach().numpy()
            value = search(new, chain.backwards)
            if value > chain.value:
                chain.value, chain.x = value, new.copy()

    return ascend
