"""The stages of a round as plain functions, which the coordinator strings together."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fl_impl.clients import SimulatedClient
from fl_impl.common.counts import floor_of
from fl_impl.common.randomness import generator
from fl_impl.rounds.admission import Admitted, Matrix, Reasons, admit, joined, without_non_finite
from fl_impl.training.cohort import train_together

if TYPE_CHECKING:
    from fl_impl.config import FLConfig
    from fl_impl.training.parameters import Vector

Vector64 = npt.NDArray[np.float64]


def select(config: FLConfig, population: int, round_number: int) -> tuple[int, ...]:
    """The clients of a round: floor(fraction_fit n) of n, drawn without replacement, in order."""
    count = max(1, floor_of(config.fraction_fit, population))
    if count == population:
        return tuple(range(population))
    drawn = generator(config.seed, "select", round_number).choice(population, count, replace=False)
    return tuple(sorted(drawn.tolist()))


def train(
    clients: Mapping[int, Any],
    parameters: Vector,
    round_number: int,
    rejected: Reasons,
    *,
    control: Vector | None = None,
    timeout: float | None = None,
) -> Admitted:
    """Everybody's sound update: simulated clients train in one program, others are asked one after another."""
    cohorts: dict[tuple[int, int], dict[int, SimulatedClient]] = {}
    answers: dict[int, Any] = {}
    for i, client in clients.items():
        if type(client) is SimulatedClient:
            cohorts.setdefault((id(client.task), id(client.recipe)), {})[i] = client
        else:
            answers |= ask(i, client, parameters.copy(), round_number, rejected, timeout)
    admitted = admit(answers, len(parameters), round_number, rejected)
    for cohort in cohorts.values():
        trained = train_cohort(cohort, parameters, round_number, control)
        admitted = joined(without_non_finite(trained, rejected), admitted)
    return admitted


def train_cohort(
    clients: Mapping[int, SimulatedClient], parameters: Vector, round_number: int, control: Vector | None
) -> Admitted:
    """The updates of simulated clients with the same task and recipe."""
    cohort = list(clients.values())
    trained = train_together(cohort[0].task, cohort[0].recipe, cohort, parameters, round_number, control)
    counts = np.array([len(client.rows) for client in cohort], np.float64)
    return Admitted(tuple(clients), trained.deltas, counts, tuple(trained.losses))


def ask(
    number: int, client: Any, parameters: Vector, round_number: int, rejected: Reasons, timeout: float | None
) -> dict[int, Any]:
    """What a client of the user's own answers, by its number; nothing, and the reason in `rejected`, where it does not.

    A client that hangs is left behind in its thread, which ends with the process.
    """
    answers: list[Any] = []

    def fit() -> None:
        try:
            answers.append(client.fit(parameters, round_number))
        except Exception as error:  # noqa: BLE001  # whatever a client raises is its fault, and is recorded
            rejected[number] = f"raised {type(error).__name__}: {error}"

    if timeout is None:
        fit()
    else:
        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        thread.join(timeout)
        if thread.is_alive():
            rejected[number] = f"timed out after {timeout} s"
            return {}
    if answers and isinstance(answers[0], list) and answers[0]:
        rejected[number] = f"duplicate: it sent {len(answers[0])} updates, the first one counts"
        return {number: answers[0][0]}
    return {number: answers[0]} if answers else {}


def quorum(config: FLConfig, admitted: Admitted, rejected: Reasons, round_number: int) -> int:
    """f for the sound updates of a round. Raises ValueError where there are fewer than the quorum or the rule needs.

    Under Poisson sampling a round may be empty, and its release is noise: then the quorum of one is none.
    """
    n = len(admitted.ids)
    f = config.tolerated(n)
    nobody_drawn = not n and not rejected
    if nobody_drawn and config.protection and config.protection.may_be_empty and config.min_clients <= 1:
        return f
    needed = max(config.min_clients, config.rule.min_clients(f))
    if n < needed:
        reasons = "; ".join(f"client {client}: {reason}" for client, reason in sorted(rejected.items())) or "none"
        raise ValueError(
            f"round {round_number}: {n} sound updates, but {needed} are needed (min_clients={config.min_clients}, "
            f"{config.rule.spec} with f={f}). Rejected: {reasons}"
        )
    return f


def scaffold_control(config: FLConfig, control: Matrix | None, aggregate: Vector64, n: int, population: int) -> Matrix:
    """c <- c - (n/N) (c + aggregate / (K eta)): the mean change of the clients' c_i, as told from what was aggregated."""
    before = np.zeros(len(aggregate)) if control is None else control.astype(np.float64)
    steps = config.local_steps or 1
    return (before - n / population * (before + aggregate / (steps * config.learning_rate))).astype(np.float32)


def spread(honest: Admitted, aggregate: Vector64) -> tuple[float, float]:
    """(client variance, deviation): (1/h) sum ||x_i - mu||^2 and ||aggregate - mu||; NaN where nobody is honest."""
    if not honest.ids:
        return math.nan, math.nan
    h, d = honest.deltas.shape
    mu = honest.deltas.sum(axis=0) / np.float32(h)
    block = max(1, 65536 // d)
    room, total = np.empty((min(block, h), d), np.float32), 0.0
    for first in range(0, h, block):  # by blocks: no second (n, d) array
        rows = honest.deltas[first : first + block]
        centred = np.subtract(rows, mu, out=room[: len(rows)])
        total += float(np.einsum("ij,ij->", centred, centred))  # BLAS would wake its threads for this
    return total / h, float(np.linalg.norm(aggregate - mu))
