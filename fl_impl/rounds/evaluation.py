"""The initial model of a federation, and how good its global model is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.clients import SimulatedClient, make_problem
from fl_impl.rounds.asking import ask_all
from fl_impl.training.models import Evaluation, Task

if TYPE_CHECKING:
    from fl_impl.config import FLConfig
    from fl_impl.data import Dataset
    from fl_impl.training.parameters import Vector

Evaluate = Callable[["Vector"], Evaluation]
UNKNOWN = Evaluation(math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class Setup:
    """The initial model of a federation, and how a global model is evaluated."""

    initial: Vector
    evaluate: Evaluate
    task: Task | None = None
    test: Dataset | None = None


def set_up(config: FLConfig, clients: Sequence[Any], parameters: Any, evaluate: Evaluate | None) -> Setup:
    """Initial model and evaluation: the user's own, else those of simulated clients, else those of the configured data.

    With parameters of the user's own and no evaluate, clients that have `evaluate` are asked, and their mean is taken.
    """
    first = clients[0]
    if parameters is not None:
        own = np.array(parameters, np.float32)
        return Setup(own, evaluate or (lambda vector: asked(clients, vector, config.client_timeout, config.client_workers)))
    if type(first) is SimulatedClient:
        task, test = first.task, first.test
    else:
        problem = make_problem(config)
        task, test = problem.task, problem.test
    return Setup(task.initial, evaluate or (lambda vector: task.evaluate(vector, test)), task, test)


def check_buffers(config: FLConfig, setup: Setup) -> None:
    """Raise ValueError for a model with buffers under privacy, compression or secure sums."""
    if config.protection and setup.task and setup.task.layout.buffers:
        names = setup.task.layout.names[len(setup.task.layout.parameters) :]
        raise ValueError(
            f"the model has buffers ({', '.join(names[:3])}), and noise, compression and secure sums are for parameters: give "
            'exclude_buffers="*", which leaves them as they are in the model, or take GroupNorm or LayerNorm'
        )


@dataclass(frozen=True)
class Evaluator:
    """A client as `ask_all` asks one, for what it says of a model instead of an update."""

    client: Any

    def fit(self, parameters: Vector, round: int) -> Evaluation:  # noqa: A002, ARG002  # the published protocol
        """What the client says of a (d,) model, as numbers. Raises whatever it raises."""
        said = self.client.evaluate(parameters)
        return Evaluation(float(said.loss), float(getattr(said, "accuracy", math.nan)))


def asked(clients: Sequence[Any], parameters: Vector, timeout: float | None = None, workers: int | None = None) -> Evaluation:
    """The mean of what the clients that have `evaluate(parameters)` say; NaN where none has.

    One that raises, hangs beyond `timeout` seconds or says something else is left out, with a warning: the round is done.
    """
    able = {number: Evaluator(client) for number, client in enumerate(clients) if hasattr(client, "evaluate")}
    answers = ask_all(able, parameters, 0, timeout=timeout, workers=workers)
    for number, reason in answers.rejected.items():
        warnings.warn(f"client {number} is left out of the evaluation: {reason}", stacklevel=2)
    said: list[Evaluation] = list(answers.messages.values())
    if not said:
        return UNKNOWN
    return Evaluation(float(np.mean([one.loss for one in said])), float(np.mean([one.accuracy for one in said])))
