"""Clients: anything with `fit(parameters, round) -> ClientUpdate`; and the simulated ones on real data."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from fl_impl.common.randomness import generator
from fl_impl.data import Dataset, deal, load, split
from fl_impl.training.cohort import Recipe, train_alone
from fl_impl.training.models import Evaluation, Task, make_task

if TYPE_CHECKING:
    from fl_impl.attacks import Attack
    from fl_impl.config import FLConfig
    from fl_impl.training.parameters import Vector


@dataclass(frozen=True, eq=False)
class ClientUpdate:
    """What a client sends: how its training changed the parameters, and what it claims about itself."""

    delta: Any
    """(d,) array, tensor or list: parameters after training minus before."""
    num_samples: int
    """A claim: only weighted means use it."""
    loss: float
    """Mean training loss."""
    round: int | None = None
    """The round that it belongs to; None is the current one."""
    client: int | None = None
    """Who says to have sent it; None is who was asked."""


class Client(Protocol):
    """What the coordinator needs of a client; `evaluate(parameters) -> Evaluation` and `state` are optional.

    `state`, a dict of arrays that the client keeps from round to round, goes into checkpoints. On Flower's engines only
    arrays of shape (d,) do, under names that `state` has from the start or that the attribute `state_names` lists.
    """

    def fit(self, parameters: Vector, round: int) -> ClientUpdate:  # noqa: A002  # the published protocol
        """Train from a (d,) float32 vector, which is the client's own copy."""
        ...


ALONE: Final = threading.RLock()
"""Clients of a task share its module: of those that are asked at the same time, as wrapped ones are, one trains."""


@dataclass(eq=False)
class SimulatedClient:
    """A client that trains by local SGD on its rows of a data set that all clients share."""

    id: int
    task: Task
    recipe: Recipe
    data: Dataset
    """Everybody's training data: held once."""
    x: torch.Tensor
    y: torch.Tensor
    rows: npt.NDArray[np.int64]
    """Which rows of it are this client's."""
    test: Dataset
    """Held out, everybody's: the coordinator evaluates on it."""
    label_skew: float = 0.0
    state: dict[str, Any] = field(default_factory=dict[str, Any])
    state_names: ClassVar = ("momentum", "control")
    """All that local training keeps."""

    def fit(self, parameters: Vector, round: int, control: Vector | None = None) -> ClientUpdate:  # noqa: A002
        """Local SGD. `control` is SCAFFOLD's c, which the server sends along."""
        with ALONE:
            trained = train_alone(self.task, self.recipe, self, parameters, round, control)
        return ClientUpdate(trained.deltas[0], len(self.rows), trained.losses[0])

    def evaluate(self, parameters: Vector) -> Evaluation:
        """Loss and accuracy on this client's own data."""
        return self.task.evaluate(parameters, self.data.take(self.rows))

    def poisoned(self, attack: Attack, rng: np.random.Generator) -> SimulatedClient:
        """The same client on the data that a data attack makes of its own."""
        data = attack.poison(self.data.take(self.rows), rng)
        x, y = (torch.from_numpy(array).to(self.x.device) for array in (data.x, data.y))
        return replace(self, data=data, x=x, y=y, rows=np.arange(len(data)))


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be learnt: training and held-out data, and the task."""

    train: Dataset
    test: Dataset
    task: Task


def make_problem(config: FLConfig) -> Problem:
    """The data and the task of a configuration; they follow from it and its seed."""
    train, test = split(load(config.dataset), generator(config.seed, "split"))
    where = {"device": config.device, "exclude_buffers": config.exclude_buffers}
    return Problem(train, test, make_task(train, config.model, config.loss, config.seed, **where))


def make_clients(config: FLConfig, **changes: Any) -> list[SimulatedClient]:
    """`config.num_clients` simulated clients on `config.dataset`, dealt out by `config.partition`.

    Keywords replace fields: `make_clients(config, partition="dirichlet(0.5)")`; the coordinator measures on their data.
    Raises ValueError where a client would have no data.
    """
    if changes:
        config = type(config)(**{**{name: getattr(config, name) for name in config.model_fields_set}, **changes})
    problem = make_problem(config)
    partition = deal(problem.train, config.num_clients, config.partition, config.seed)
    recipe = make_recipe(config)
    x, y = (torch.from_numpy(array).to(config.device) for array in (problem.train.x, problem.train.y))
    return [
        SimulatedClient(number, problem.task, recipe, problem.train, x, y, rows, problem.test, label_skew=skew)
        for number, (rows, skew) in enumerate(zip(partition.rows, partition.skew, strict=True))
    ]


def make_recipe(config: FLConfig) -> Recipe:
    """How the clients of a configuration train."""
    name, mu = config.algorithm
    return Recipe(
        learning_rate=config.learning_rate,
        epochs=config.local_epochs,
        steps=config.local_steps,
        batch_size=config.batch_size,
        momentum=config.client_momentum,
        proximal=mu,
        scaffold=name == "scaffold",
        seed=config.seed,
    )
