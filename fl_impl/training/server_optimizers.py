"""What the server does with the aggregate: SGD with momentum, Adam, Yogi; adding one is one decorated function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fl_impl.common.registry import Registry

Array = npt.NDArray[np.float64]
State = Mapping[str, Array]
server_optimizer: Registry[Any] = Registry("a server optimizer", group="pytest_fl.server_optimizers")
"""Functions (aggregate (d,), state) -> (step (d,), new state); state is {} in the first round."""


@server_optimizer
def sgd(aggregate: Array, state: State, *, learning_rate: float = 1.0, momentum: float = 0.0) -> tuple[Array, State]:
    """m <- momentum m + aggregate; step learning_rate m. FedAvg is learning_rate 1, momentum 0; FedAvgM has momentum."""
    if not momentum:
        return learning_rate * aggregate, {}
    m = momentum * state.get("m", np.zeros_like(aggregate)) + aggregate
    return learning_rate * m, {"m": m}


@server_optimizer
def adam(
    aggregate: Array,
    state: State,
    *,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> tuple[Array, State]:
    """FedAdam: step learning_rate m / (sqrt v + tau), without bias correction. Reddi et al. 2021 (arXiv 2003.00295)."""
    m, v = moments(aggregate, state, beta1, tau)
    v = beta2 * v + (1 - beta2) * aggregate**2
    return learning_rate * m / (np.sqrt(v) + tau), {"m": m, "v": v}


@server_optimizer
def yogi(
    aggregate: Array,
    state: State,
    *,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> tuple[Array, State]:
    """FedYogi: as adam, with v <- v - (1 - beta2) a^2 sign(v - a^2). Reddi et al. 2021 (arXiv 2003.00295)."""
    m, v = moments(aggregate, state, beta1, tau)
    square = aggregate**2
    v = v - (1 - beta2) * square * np.sign(v - square)
    return learning_rate * m / (np.sqrt(v) + tau), {"m": m, "v": v}


def moments(aggregate: Array, state: State, beta1: float, tau: float) -> tuple[Array, Array]:
    """The first moment after this round, the second one before it; they start at 0 and tau^2."""
    m = beta1 * state.get("m", np.zeros_like(aggregate)) + (1 - beta1) * aggregate
    return m, state.get("v", np.full_like(aggregate, tau**2))
