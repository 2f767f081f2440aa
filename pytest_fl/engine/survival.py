"""`survives`: does a federated server hold under random faults? Four invariants, and the smallest plan that breaks one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import hypothesis
import numpy as np

from pytest_fl.engine.servers import JudgedServer, Kappa, Seen, ServerHistory, Vector, server_of
from pytest_fl.inputs.plans import fault_plans

if TYPE_CHECKING:
    from fl_impl.faults import FaultPlan

ROUNDING: Final = 1e-4
"""Relative to the numbers of a round: models and updates travel as float32."""
FINITE: Final = "the server goes on with a finite model"
ARRIVED: Final = "no round uses more updates than arrived"
BOUNDED: Final = "with at most f faulty or Byzantine clients the result is within the rule's bound"
UNDISTURBED: Final = "where nothing was lost, the run equals the undisturbed one"
SHRINKING: Final = 200
"""Plans that are tried to make a failing one smaller."""
INVARIANTS: Final = (FINITE, ARRIVED, BOUNDED, UNDISTURBED)


class NotSurvived(AssertionError):  # noqa: N818  # a broken invariant is a failed assertion, not an error
    """A server broke an invariant; `plan` is the smallest plan found under which it does, `invariant` which one."""

    def __init__(self, message: str, invariant: str, plan: FaultPlan) -> None:
        super().__init__(message)
        self.invariant, self.plan = invariant, plan

    def __reduce__(self) -> tuple[type[NotSurvived], tuple[str, str, FaultPlan]]:
        return NotSurvived, (str(self), self.invariant, self.plan)


NotSurvived.__module__ = "pytest_fl"  # where users import it from


@dataclass
class Survival:
    """What was looked at; nothing was broken."""

    plans: int = 0
    rounds: int = 0
    bounded: int = 0
    """Rounds in which the result was held to the rule's bound."""
    refused: int = 0
    """Runs that the server ended with a sentence, for too few updates were left."""
    kinds: dict[str, int] = field(default_factory=dict[str, int])
    """Kind of fault -> plans that have it."""

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.plans} plans, {self.rounds} rounds, {self.bounded} of them held to the rule's bound, "
            f"{self.refused} runs refused for too few updates: no invariant broken"
        )


def survives(
    subject: Any,
    *,
    plans: int | Iterable[FaultPlan] = 100,
    rounds: int = 4,
    clients: int = 9,
    f: int | None = None,
    kappa: Kappa | None = None,
    kinds: Collection[str] | None = None,
    seed: int = 0,
    run_config: dict[str, Any] | None = None,
    rounds_key: str = "num-server-rounds",
) -> Survival:
    """Run a federated server under random plans of faults, and hold every round to four invariants.

    The server goes on with a finite model; no round uses more updates than arrived; with at most f faulty or Byzantine
    clients the result deviates from the mean of the sound updates by no more than sqrt(kappa(n, f)) times their spread,
    n being those that arrived; and where nothing was lost, the run equals the undisturbed one of the same seed. A server
    may refuse a round in which fewer updates are left than its rule needs for f.

    subject: an `FLConfig` or a rule's spec, run by our coordinator; a strategy of `flwr.serverapp`, its class, a partial
    or a function that makes one, run on Flower's messages in this process: these get made-up clients with quadratic
    losses, `clients` of them. Or a Flower app, (ServerApp, ClientApp) or the path of its pyproject.toml, with its own
    clients, the number of rounds being told by `rounds_key`. plans: how many, or which: `plans=[plan]` runs one again.
    kinds: names of `fl_impl.faults.KINDS`, where not all are wanted. f and kappa: what is promised, where the subject
    does not say so itself; without a kappa nothing is bounded.

    Raises NotSurvived, an AssertionError, with the smallest plan found, and ValueError for a subject that is none.
    """
    server = server_of(
        subject, clients=clients, f=f, kappa=kappa, rounds_key=rounds_key, seed=seed, run_config=run_config or {}
    )
    survival = Survival()

    def hold(plan: FaultPlan) -> None:
        judge(server, plan, rounds, survival)

    if not isinstance(plans, int):
        for plan in plans:
            hold(plan)
        return survival
    promised = server.tolerated(server.clients)
    settings = hypothesis.settings(
        max_examples=plans,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),  # type: ignore[reportArgumentType]  # its metaclass iterates over members
        phases=[hypothesis.Phase.generate],
        print_blob=False,
    )
    search: Callable[[], None] = hypothesis.given(fault_plans(server.clients, rounds, promised, kinds))(hold)
    try:
        hypothesis.seed(seed)(settings(search))()
    except NotSurvived as broken:
        raise smallest(server, broken, rounds) from None
    return survival


def smallest(server: JudgedServer, broken: NotSurvived, rounds: int) -> NotSurvived:
    """The same invariant broken by fewer faults, clients and rounds: one by one, as long as it stays broken."""
    tries = SHRINKING
    progress = True
    while progress and tries:
        progress = False
        for plan in smaller(broken.plan, rounds):
            tries -= 1
            if not tries:
                break
            try:
                judge(server, plan, rounds, Survival())
            except NotSurvived as another:
                if another.invariant == broken.invariant:
                    broken, progress = another, True
                    break
    return broken


def smaller(plan: FaultPlan, rounds: int) -> Iterable[FaultPlan]:
    """Plans with one fault, one client or some rounds less."""
    for i, each in enumerate(plan.faults):
        rest = plan.faults[:i], plan.faults[i + 1 :]
        yield replace(plan, faults=rest[0] + rest[1])
        first, last = each.rounds[0], min(each.rounds[1], rounds)
        narrower = [replace(each, rounds=(number, number)) for number in range(first, last + 1) if first < last]
        fewer = [
            replace(each, clients=tuple(client for client in each.clients if client != gone))
            for gone in each.clients
            if len(each.clients) > 1
        ]
        yield from (replace(plan, faults=(*rest[0], changed, *rest[1])) for changed in narrower + fewer)


def judge(server: JudgedServer, plan: FaultPlan, rounds: int, survival: Survival) -> None:
    """Run a plan, and what it is compared with. Raises NotSurvived where an invariant is broken."""
    history = server.run(plan, rounds)
    calm = plan.without("kept")
    twin = history if calm == plan else server.run(calm, rounds)
    for invariant, said in breaches(server, plan, history, twin, survival):
        raise NotSurvived(message(invariant, said, plan), invariant, plan)
    survival.plans += 1
    survival.rounds += len(history.rounds)
    survival.refused += bool(history.refused)
    for kind in {fault.kind for fault in plan.faults}:
        survival.kinds[kind] = survival.kinds.get(kind, 0) + 1


def message(invariant: str, said: str, plan: FaultPlan) -> str:
    """What is broken, and how to run it again."""
    return f"broken: {invariant}.\n{said}\nRun it again: survives(..., plans=[{plan!r}])"


def breaches(
    server: JudgedServer, plan: FaultPlan, history: ServerHistory, twin: ServerHistory, survival: Survival
) -> Iterable[tuple[str, str]]:
    """(invariant, by what it is broken) for each that is."""
    if history.ended:
        yield FINITE, f"the server ended in {history.ended[:300]}"
    for seen in history.rounds:
        if not np.isfinite(seen.after).all():
            yield FINITE, f"round {seen.number}: the model is {seen.after}"
        arrived = [client for client in seen.honest if plan.effect(client, seen.number) not in ("lost", "malformed")]
        if seen.used is not None and seen.used > len(arrived):
            yield ARRIVED, f"round {seen.number}: {seen.used} updates were used, but only {len(arrived)} arrived sound"
        said, held = beyond(server, plan, seen)
        survival.bounded += held
        if said:
            yield BOUNDED, said
    for mine, theirs in zip(history.rounds, twin.rounds, strict=False):
        difference = float(np.abs(mine.after - theirs.after).max(initial=0.0))
        if not difference <= ROUNDING * scale(theirs):
            twice = any("duplicate" in plan.names(client, mine.number) for client in mine.honest)
            said = f"round {mine.number}: the model differs by {difference:.3g} from that of the run without these faults"
            yield (ARRIVED, f"{said}: a reply that arrived twice counts twice") if twice else (UNDISTURBED, said)
            return


def beyond(server: JudgedServer, plan: FaultPlan, seen: Seen) -> tuple[str, bool]:
    """(by what the result is beyond the rule's bound, "" where it is not; whether there was a bound to hold it to).

    A malformed update counts as one of the f faulty ones where the server does not promise to refuse it.
    kappa bounds the deviation from the mean of every set of n - f updates. Of the sound ones there are at least as many;
    where more, the mean over all sets of n - f of them has the same bound, as a subset varies no more on average.
    """
    effects = {client: "wrong" if client in seen.wrong else plan.effect(client, seen.number) for client in seen.honest}
    sound = [seen.honest[client] for client, effect in effects.items() if effect == "kept"]
    faulty = ("wrong",) if server.refuses else ("wrong", "malformed")
    wrong = sum(effect in faulty for effect in effects.values())
    n, f = len(sound) + wrong, server.tolerated(len(seen.honest))
    moved = seen.after - seen.before
    if server.kappa is None or wrong > f or not sound or not moved.any():  # a model that stays is a round refused
        return "", False
    if n < server.needed(f):
        return f"round {seen.number}: the model moved on {n} updates, but for f={f} the rule needs {server.needed(f)}", True
    kappa = server.kappa(n, f)
    if not math.isfinite(kappa):
        return "", False
    mu = np.mean(sound, axis=0)
    spread = math.sqrt(kappa * float(((np.stack(sound) - mu) ** 2).sum(axis=1).mean()))
    deviation = float(np.linalg.norm(moved - mu))
    if deviation <= spread + ROUNDING * scale(seen):
        return "", True
    return (
        f"round {seen.number}: n={n} updates arrived, {wrong} of them wrong, f={f}: the result is {deviation:.4g} from the "
        f"mean of the sound ones, where at most {spread:.4g} is allowed (kappa = {kappa:.4g})"
    ), True


def scale(seen: Seen) -> float:
    """The largest numbers of a round that are honest."""
    updates: list[Vector] = [seen.before, *seen.honest.values()]
    return 1e-3 + max(float(np.abs(update).max(initial=0.0)) for update in updates)
