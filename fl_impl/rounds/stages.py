"""The stages of a round as plain functions, which the coordinator strings together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fl_impl.clients import SimulatedClient
from fl_impl.common.counts import floor_of
from fl_impl.common.randomness import generator
from fl_impl.rounds.admission import Admitted, Matrix, admit, joined, without_non_finite
from fl_impl.rounds.asking import ask_all
from fl_impl.training.cohort import train_together

if TYPE_CHECKING:
    from fl_impl.config import FLConfig
    from fl_impl.training.parameters import Vector

Vector64 = npt.NDArray[np.float64]


def choose(config: FLConfig, population: int, round_number: int) -> tuple[int, ...]:
    """The clients of a round, in order: as the privacy budget accounts for them, else `select`."""
    drawn = config.protection.sample(population, round_number) if config.protection else None
    return select(config, population, round_number) if drawn is None else drawn


class Sampling(Protocol):
    """What says who takes part: a configuration."""

    @property
    def fraction_fit(self) -> float:
        """The share of the clients."""
        ...

    @property
    def seed(self) -> int:
        """What the draw follows from."""
        ...


def select(config: Sampling, population: int, round_number: int) -> tuple[int, ...]:
    """floor(fraction_fit n) of n clients, one at least, drawn without replacement, in order."""
    count = max(1, floor_of(config.fraction_fit, population))
    if count == population:
        return tuple(range(population))
    drawn = generator(config.seed, "select", round_number).choice(population, count, replace=False)
    return tuple(sorted(drawn.tolist()))


def train(
    clients: Mapping[int, Any],
    parameters: Vector,
    round_number: int,
    *,
    control: Vector | None = None,
    timeout: float | None = None,
    workers: int | None = None,
) -> Admitted:
    """Everybody's sound update: simulated clients train in one program, others are asked `workers` at a time.

    timeout: seconds that all others together may take.
    """
    cohorts: dict[tuple[int, int], dict[int, SimulatedClient]] = {}
    own: dict[int, Any] = {}
    for i, client in clients.items():
        if type(client) is SimulatedClient:
            cohorts.setdefault((id(client.task), id(client.recipe)), {})[i] = client
        else:
            own[i] = client
    answers = ask_all(own, parameters, round_number, timeout=timeout, workers=workers)
    asked = admit(answers.messages, len(parameters), round_number).noting(answers.rejected)
    trained = [train_cohort(cohort, parameters, round_number, control) for cohort in cohorts.values()]
    return joined([*map(without_non_finite, trained), asked])


def train_cohort(
    clients: Mapping[int, SimulatedClient], parameters: Vector, round_number: int, control: Vector | None
) -> Admitted:
    """The updates of simulated clients with the same task and recipe."""
    cohort = list(clients.values())
    trained = train_together(cohort[0].task, cohort[0].recipe, cohort, parameters, round_number, control)
    counts = np.array([len(client.rows) for client in cohort], np.float64)
    return Admitted(tuple(clients), trained.deltas, counts, tuple(trained.losses))


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
