"""The initial model of a federation, and how good its global model is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.clients import SimulatedClient, make_problem
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
        return Setup(own, evaluate or (lambda vector: asked(clients, vector)))
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


def asked(clients: Sequence[Any], parameters: Vector) -> Evaluation:
    """The mean of what the clients that have `evaluate(parameters)` say; NaN where none has."""
    answers: list[Any] = [client.evaluate(parameters.copy()) for client in clients if hasattr(client, "evaluate")]
    if not answers:
        return UNKNOWN
    accuracies = [float(getattr(answer, "accuracy", math.nan)) for answer in answers]
    return Evaluation(float(np.mean([answer.loss for answer in answers])), float(np.mean(accuracies)))
