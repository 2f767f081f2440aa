"""A round of federated LoRA, from the adapters that clients start with to the server's next one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fl_impl.admission import Admitted, Reasons, admit, joined
from fl_impl.config import byzantine_count
from fl_impl.lora.adapted import Adapted, initial
from fl_impl.lora.factors import Factors, unflat, zeros
from fl_impl.lora.product import Reals, gram, refactored, stack, weigh
from fl_impl.lora.training import LocalTraining, Recipe
from fl_impl.metrics import RoundResult
from fl_impl.randomness import generator
from fl_impl.stages import ask, spread

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator
    from fl_impl.assaults import Assault
    from fl_impl.lora.modes import Merged, Mode, Trains

Space = Literal["product", "factors"]


@dataclass(frozen=True, eq=False)
class Plan:
    """How the rounds of a fit go."""

    mode: Mode
    rule: Aggregator
    recipe: Recipe
    space: Space = "product"
    byzantine_fraction: float = 0.0
    """What the rule is to tolerate: f = floor(fraction n)."""
    assault: Assault | None = None
    ranks: tuple[int, ...] | None = None
    """Of each client; the server's where not given."""


@dataclass(eq=False)
class State:
    """What lasts from round to round."""

    adapter: Factors
    """The server's, one of them."""
    drift: Factors | None = None
    """What was added to the base weights so far, as one adapter."""
    round: int = 0
    memory: dict[str, Any] = field(default_factory=dict[str, Any])
    """The attack's own."""


@dataclass(frozen=True, eq=False)
class Aggregated:
    """What came of a round: the server's next adapter, and the honest spread and deviation in the space of aggregation."""

    merged: Merged
    f: int
    variance: float
    deviation: float


def run_round(adapted: Adapted, state: State, clients: Sequence[Any], plan: Plan) -> RoundResult:
    """Train, attack, aggregate, advance. The loss on held-out text is filled in by who evaluates.

    Raises ValueError where fewer sound updates remain than the rule needs.
    """
    began, number = time.perf_counter(), state.round + 1
    starts = begin(adapted, state, plan, len(clients), number)
    trains = plan.mode.trains(number)
    rejected = Reasons()
    d, attackers = starts.shape[1], frozenset[int]()
    admitted = masked(admit(answers(adapted, clients, starts, plan, number, rejected), d, number, rejected), adapted, trains)
    honest = admitted
    if plan.assault is not None:
        attackers = plan.assault.byzantine(len(clients), number)
        honest, own = admitted.parted(attackers)
        if own.ids:
            struck = plan.assault.strike(honest, own, number, rejected, state.memory)
            admitted = joined(honest, masked(struck, adapted, trains))
    done = aggregate(adapted, state.adapter, starts, admitted, plan, attackers, rejected)
    advance(adapted, state, done.merged)
    sent = 4 * int(adapted.trained(trains).sum())
    return RoundResult(
        number, math.nan, math.nan, done.variance, len(admitted.ids), tuple(sorted(attackers)), rejected,
        bytes_up=sent * len(admitted.ids), bytes_down=4 * d * len(clients), deviation=done.deviation, f=done.f,
        train_loss=float(np.mean(honest.losses)) if honest.ids else math.nan, seconds=time.perf_counter() - began,
    )  # fmt: skip


def begin(adapted: Adapted, state: State, plan: Plan, n: int, number: int) -> Any:
    """(n, d) flat adapters that the clients of a round start with."""
    shapes, rank, seed = adapted.shapes, adapted.rank, plan.recipe.seed
    if plan.mode.restarts:
        fresh = [initial(shapes, rank, generator(seed, "restart", number, client)) for client in range(n)]
        rows = np.concatenate([one.flat(adapted.scale) for one in fresh])
    else:
        rows = np.repeat(state.adapter.flat(adapted.scale), n, axis=0)
    if plan.ranks is None:
        return rows
    kept = unflat(rows, shapes, rank, adapted.scale)
    for client, own in enumerate(plan.ranks):
        for module in kept.modules:
            module.up[client, own:], module.down[client, own:] = 0, 0
    return kept.flat(adapted.scale)


def answers(
    adapted: Adapted, clients: Sequence[Any], starts: Any, plan: Plan, number: int, rejected: Reasons
) -> dict[int, Any]:
    """What clients answer; why some do not goes to `rejected`. Whoever has `fit(parameters, round)` trains in its own way."""
    trains, found = plan.mode.trains(number), dict[int, Any]()
    for i, client in enumerate(clients):
        who = client if hasattr(client, "fit") else LocalTraining(adapted, client, i, plan.recipe, trains)
        found |= ask(i, who, starts[i].copy(), number, rejected, None)
    return found


def masked(admitted: Admitted, adapted: Adapted, trains: Trains) -> Admitted:
    """The updates of the factors that are trained in this round: nothing else is sent."""
    return replace(admitted, deltas=np.where(adapted.trained(trains), admitted.deltas, np.float32(0)))


def aggregate(
    adapted: Adapted,
    server: Factors,
    starts: Any,
    admitted: Admitted,
    plan: Plan,
    attackers: frozenset[int] = frozenset(),
    rejected: Reasons | None = None,
) -> Aggregated:
    """The server's part of a round. Raises ValueError where the rule needs more updates than were sound."""
    n = len(admitted.ids)
    f = byzantine_count(plan.byzantine_fraction, n)
    if n < max(1, plan.rule.min_clients(f)):
        reasons = "; ".join(f"client {i}: {why}" for i, why in sorted((rejected or {}).items())) or "none"
        needed = f"{n} sound adapters, but {plan.rule.spec} needs {plan.rule.min_clients(f)} for f={f}"
        raise ValueError(f"{needed}. Rejected: {reasons}")
    if plan.space == "factors":
        return by_factors(adapted, server, admitted, plan, attackers, f)
    sent = unflat(starts[list(admitted.ids)] + admitted.deltas.astype(np.float64), adapted.shapes, adapted.rank, adapted.scale)
    everything = sent.beside(server_start(adapted, server, plan))
    products = gram(everything)
    weights = weigh(plan.rule, products, f, admitted.counts)
    honest = np.append([client not in attackers for client in admitted.ids], False)
    return Aggregated(plan.mode.merge(everything, weights, adapted.rank), f, *product_spread(products, weights, honest))


def server_start(adapted: Adapted, server: Factors, plan: Plan) -> Factors:
    """The products that clients started from: none where each begins with B = 0."""
    return zeros(adapted.shapes, adapted.rank) if plan.mode.restarts else server


def by_factors(
    adapted: Adapted, server: Factors, admitted: Admitted, plan: Plan, attackers: frozenset[int], f: int
) -> Aggregated:
    """The rule on the factors as they are sent: another way to write the same products gives another result."""
    context = {"weights": admitted.counts} if "weights" in plan.rule.keywords.context else {}
    change = np.asarray(plan.rule(admitted.deltas, f=f, **context), np.float64)
    honest, _ = admitted.parted(attackers)
    row = server.flat(adapted.scale) + change
    one = unflat(row, adapted.shapes, adapted.rank, adapted.scale)
    return Aggregated(plan.mode.merge(one, np.ones(1), adapted.rank), f, *spread(honest, change))


def product_spread(products: Reals, weights: Reals, honest: Any) -> tuple[float, float]:
    """(client variance, deviation) of products: (1/h) sum ||P_i - mu||^2 and ||sum w_i P_i - mu||, mu the honest mean."""
    h = int(honest.sum())
    if not h:
        return math.nan, math.nan
    shares = honest / h
    away = weights - shares
    variance = float(np.diag(products) @ shares - shares @ products @ shares)
    return max(variance, 0.0), math.sqrt(max(float(away @ products @ away), 0.0))


def advance(adapted: Adapted, state: State, merged: Merged) -> None:
    """Take up the next adapter, and let the base weights take what does not fit into it."""
    state.adapter, state.round = merged.adapter, state.round + 1
    if merged.residual is not None:
        adapted.add_to_base(merged.residual)
        drift = merged.residual if state.drift is None else state.drift.beside(merged.residual)
        state.drift = refactored(stack(drift, np.ones(len(drift))))
