"""A round of federated LoRA, from the adapters that clients start with to the server's next one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fl_impl.common.counts import tolerated
from fl_impl.common.randomness import generator
from fl_impl.lora.adapted import Adapted, initial
from fl_impl.lora.factors import Factors, Module, unflat, zeros
from fl_impl.lora.product import Reals, gram, refactored, stack, weigh
from fl_impl.lora.training import LocalTraining, TextRecipe
from fl_impl.metrics import RoundResult
from fl_impl.rounds.admission import Admitted, admit, joined
from fl_impl.rounds.asking import Answers, ask_all
from fl_impl.rounds.attackers import Attackers
from fl_impl.rounds.quorum import check_quorum
from fl_impl.rounds.stages import select, spread
from fl_impl.rounds.transport import combine, deliver, plain_bytes, published

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator
    from fl_impl.lora.fit_state import State
    from fl_impl.lora.modes import Merged, Mode, Trains
    from fl_impl.privacy.ledger import Ledger
    from fl_impl.privacy.protection import Protection

Space = Literal["product", "factors"]


@dataclass(frozen=True, eq=False)
class Plan:
    """How the rounds of a fit go."""

    mode: Mode
    rule: Aggregator
    recipe: TextRecipe
    space: Space = "product"
    byzantine_fraction: float = 0.0
    """What the rule is to tolerate: f = floor(fraction n) of the n clients, whoever of them answers."""
    attackers: Attackers = field(default_factory=Attackers)
    ranks: tuple[int, ...] | None = None
    """Of each client; the server's where not given."""
    guard: Protection | None = None
    """What stands between the updates and the server: privacy, compression, secure sums. Of the trained factors alone."""
    ledger: Ledger | None = None
    """Of all releases about these clients, where the fit is private."""
    run: str = ""
    """The name of this fit in the ledger."""
    rounds_before: int = 0
    """Of earlier fits."""
    fraction_fit: float = 1.0
    """The share of the clients that trains in a round; under privacy the probability that one does."""
    min_clients: int = 1
    """The quorum."""
    sample_tolerance: float | None = None
    """With which probability a sampled round may hold more attackers than f."""

    @property
    def seed(self) -> int:
        """What selection and training follow from."""
        return self.recipe.seed

    def chosen(self, population: int, number: int) -> tuple[int, ...]:
        """The clients of a round, as the privacy budget accounts for them, else a share of all."""
        drawn = self.guard.sample(population, number - self.rounds_before) if self.guard else None
        return select(self, population, number) if drawn is None else drawn

    @property
    def summed(self) -> bool:
        """Whether the server has a sum of factors, noisy or secure, and nothing of single clients."""
        return self.guard is not None and (self.guard.secure or self.guard.may_be_empty)


@dataclass(frozen=True, eq=False)
class Aggregated:
    """What came of a round: the server's next adapter, and the honest spread and deviation in the space of aggregation."""

    merged: Merged
    f: int
    variance: float
    deviation: float
    bytes_up: int = 0
    """Of secure sums."""


def run_round(adapted: Adapted, state: State, clients: Sequence[Any], plan: Plan) -> RoundResult:
    """Train, attack, deliver, aggregate, advance. The loss on held-out text is filled in by who evaluates.

    Raises QuorumError, a ValueError, where fewer sound updates come than the rule needs for its f, and PrivacyBudgetError,
    which is one too, before a round that the budget does not cover.
    """
    began, number, n = time.perf_counter(), state.round + 1, len(clients)
    epsilon = plan.guard.authorize(number - plan.rounds_before, plan.ledger, plan.run) if plan.guard else None
    chosen, trains = plan.chosen(n, number), plan.mode.trains(number)
    starts = begin(adapted, state, plan, chosen, number)
    d, f = starts.shape[1], tolerated(plan.byzantine_fraction, len(chosen), n, plan.sample_tolerance)
    byzantine = plan.attackers.among(chosen, n, number)
    answers = asked(adapted, {i: clients[i] for i in chosen}, starts, plan, number)
    trained = masked(admit(answers.messages, d, number).noting(answers.rejected), adapted, trains)
    honest, own = trained.parted(byzantine)
    messages = plan.attackers.messages(honest, own, number, state.memory)
    sent = joined([honest, masked(messages, adapted, trains)])
    enter(plan, number, local=True)
    arrived, bytes_up = delivered(adapted.trained(trains), state, sent, plan, number)
    if chosen or not (plan.summed and plan.guard and plan.guard.may_be_empty and plan.min_clients <= 1):
        where = f"round {number}"
        check_quorum(plan.rule, len(arrived.ids), len(chosen), f, arrived.rejected, min_clients=plan.min_clients, where=where)
    enter(plan, number, local=False)
    done = aggregate(adapted, state, starts, arrived, plan, f, byzantine)
    advance(adapted, state, done.merged)
    came, count, bytes_up = published(plan.guard, len(arrived.ids), len(chosen), bytes_up + done.bytes_up, d)
    return RoundResult(
        number, math.nan, math.nan, done.variance, came, tuple(sorted(byzantine)), arrived.rejected,
        bytes_up=bytes_up, bytes_down=(plain_bytes(d) + residual_bytes(done.merged)) * count,
        epsilon=epsilon,
        noise=plan.guard.source if plan.guard else "", deviation=done.deviation, f=f,
        train_loss=float(np.mean(honest.losses)) if honest.ids else math.nan, seconds=time.perf_counter() - began,
    )  # fmt: skip


def enter(plan: Plan, number: int, *, local: bool) -> None:
    """Write the release of a round into the ledger before anything of it is shown: clients' noise, or the server's."""
    guard = plan.guard
    if plan.ledger is not None and guard and guard.mechanism and guard.mechanism.local == local:
        guard.enter(number - plan.rounds_before, plan.ledger, plan.run)


def residual_bytes(merged: Merged) -> int:
    """What every client is sent beside the adapter, so that its base weights are the server's: the stacked factors."""
    residual = merged.residual
    return 0 if residual is None else plain_bytes(sum(up[0].size + down[0].size for up, down in residual.modules))


def begin(adapted: Adapted, state: State, plan: Plan, chosen: Sequence[int], number: int) -> Any:
    """(population, d) flat adapters: row i is what client i of the chosen starts with, one row for all where it is one."""
    shapes, rank, seed = adapted.shapes, adapted.rank, plan.recipe.seed
    common = state.adapter.flat(adapted.scale)
    population = max(chosen, default=-1) + 1
    if not plan.mode.restarts and plan.ranks is None:
        return np.broadcast_to(common, (population, common.shape[1]))
    rows = np.zeros((population, common.shape[1]), np.float32)
    for client in chosen:
        one = initial(shapes, rank, generator(seed, "restart", number, client)) if plan.mode.restarts else state.adapter
        if plan.ranks is not None:
            one = cut(one, plan.ranks[client])
        rows[client] = one.flat(adapted.scale)[0]
    return rows


def cut(adapter: Factors, rank: int) -> Factors:
    """The same width with the rows beyond a rank set to 0."""
    kept = Factors(tuple(Module(module.up.copy(), module.down.copy()) for module in adapter.modules))
    for module in kept.modules:
        module.up[:, rank:], module.down[:, rank:] = 0, 0
    return kept


def asked(adapted: Adapted, clients: Mapping[int, Any], starts: Any, plan: Plan, number: int) -> Answers:
    """What clients answer, one after another: they share one model. Whoever has `fit(parameters, round)` trains as it likes."""
    trains, whole = plan.mode.trains(number), Answers()
    for i, client in clients.items():
        trainee = client if hasattr(client, "fit") else LocalTraining(adapted, client, i, plan.recipe, trains)
        answer = ask_all({i: trainee}, starts[i], number)
        whole.messages.update(answer.messages)
        whole.rejected.update(answer.rejected)
    return whole


def masked(admitted: Admitted, adapted: Adapted, trains: Trains) -> Admitted:
    """The updates of the factors that are trained in this round: nothing else is sent."""
    return replace(admitted, deltas=np.where(adapted.trained(trains), admitted.deltas, np.float32(0)))


def delivered(trained: Any, state: State, admitted: Admitted, plan: Plan, number: int) -> tuple[Admitted, int]:
    """The updates as they arrive, and their bytes: the entries of the factors that are trained, which alone are sent."""
    sent = replace(admitted, deltas=admitted.deltas[:, trained])
    arrived, size = deliver(plan.guard, state, sent, number)
    return replace(arrived, deltas=spread_out(arrived.deltas, trained)), size


def spread_out(values: Any, trained: Any) -> Any:
    """The (..., d) arrays that have these values where factors are trained, and 0 elsewhere."""
    whole = np.zeros((*values.shape[:-1], len(trained)), values.dtype)
    whole[..., trained] = values
    return whole


def aggregate(
    adapted: Adapted,
    state: State,
    starts: Any,
    admitted: Admitted,
    plan: Plan,
    f: int = 0,
    byzantine: frozenset[int] = frozenset(),
) -> Aggregated:
    """The server's part of a round: the adapters that arrived, of which up to f are Byzantine, as the next one."""
    n = len(admitted.ids)
    server = state.adapter
    if plan.space == "factors" or plan.summed:
        return by_factors(adapted, state, admitted, plan, byzantine, f)
    sent = unflat(starts[list(admitted.ids)] + admitted.deltas.astype(np.float64), adapted.shapes, adapted.rank, adapted.scale)
    mixed = plan.ranks is not None and not plan.mode.restarts
    if mixed:  # each began with its own cut of the server's adapter: what it learnt is what is not in that
        began = unflat(starts[list(admitted.ids)], adapted.shapes, adapted.rank, adapted.scale)
        sent = sent.minus(began)
    everything = sent.beside(zeros(adapted.shapes, adapted.rank) if mixed else server_start(adapted, server, plan))
    products = gram(everything)
    counts = np.ones(n) if plan.guard and "weights" in plan.guard.hidden else counted(plan.rule, admitted)
    weights = weigh(plan.rule, products, f, counts)
    honest = np.append([client not in byzantine for client in admitted.ids], False)
    merging = (everything.beside(server), np.append(weights, 1.0)) if mixed else (everything, weights)
    return Aggregated(plan.mode.merge(*merging, adapted.rank), f, *product_spread(products, weights, honest))


def counted(rule: Aggregator, admitted: Admitted) -> Any:
    """(n,) claimed numbers of samples; where the rule weighs by them, not all 0."""
    return admitted.weights if "weights" in rule.keywords.context else admitted.counts


def server_start(adapted: Adapted, server: Factors, plan: Plan) -> Factors:
    """The products that clients started from: none where each begins with B = 0."""
    return zeros(adapted.shapes, adapted.rank) if plan.mode.restarts else server


def by_factors(adapted: Adapted, state: State, admitted: Admitted, plan: Plan, byzantine: frozenset[int], f: int) -> Aggregated:
    """The rule, or the noisy or secure sum, of the factors as they are sent: written otherwise, the same products differ."""
    number = state.round + 1
    hidden = plan.guard.hidden if plan.guard else frozenset[str]()
    weighted = "weights" in plan.rule.keywords.context - hidden
    rule = partial(plan.rule, weights=admitted.weights) if weighted else plan.rule
    trained = adapted.trained(plan.mode.trains(number))
    values, size = combine(plan.guard, state, admitted.deltas[:, trained], number, rule, f)
    change = spread_out(values, trained)
    honest, _ = admitted.parted(byzantine)
    row = state.adapter.flat(adapted.scale) + change
    one = unflat(row, adapted.shapes, adapted.rank, adapted.scale)
    return Aggregated(plan.mode.merge(one, np.ones(1), adapted.rank), f, *spread(honest, change), size)


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
    """Take up the next adapter, in the float32 that clients have; what does not fit into it is carried beside the weights."""
    flat = merged.adapter.flat(adapted.scale)
    state.adapter, state.round = unflat(flat, adapted.shapes, adapted.rank, adapted.scale), state.round + 1
    if merged.residual is not None:
        drift = merged.residual if state.drift is None else state.drift.beside(merged.residual)
        state.drift = refactored(stack(drift, np.ones(len(drift)))).contiguous()
        adapted.carry_drift(state.drift)
