"""Example-level DP-SGD on a client's own data: opacus gives the gradient of every example, our mechanism the private sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from fl_impl.common.extras import require
from fl_impl.privacy.mechanisms import Gaussian
from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness

if TYPE_CHECKING:
    from fl_impl.privacy.accounting import Budget

BATCH_NORMS: Final = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def dp_sgd(
    model: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    loss: Loss,
    mechanism: Gaussian,
    budget: Budget,
    steps: int,
    learning_rate: float,
    steps_before: int = 0,
    randomness: Randomness = OPERATING_SYSTEM,
) -> float:
    """Train model in place: w <- w - eta (sum_i clip(g_i, C) + noise) / (q n), over a Poisson sample of the n examples.

    loss is (outputs, targets) -> mean over the examples. mechanism is `Gaussian.calibrated(budget, rounds=all steps of the
    run, clip_bound=C, clients=n)`: what is hidden is one example, from whoever sees the model. Returns the epsilon that
    all steps so far, `steps_before` and these, have spent. Abadi et al. 2016 (arXiv 1607.00133), Algorithm 1.
    Raises PrivacyBudgetError before a step that the budget does not cover, ValueError for a layer in which examples of a
    batch affect each other, ModuleNotFoundError without opacus.
    """
    check_layers(model)
    wrapped = require("opacus", extra="opacus").GradSampleModule(model, loss_reduction="mean")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    spent = 0.0
    try:
        for step in range(steps_before + 1, steps_before + steps + 1):
            spent = budget.authorize(mechanism, step)
            chosen = list(mechanism.sample(len(x), step, budget, randomness))
            gradients = example_gradients(wrapped, parameters, loss, x[chosen], y[chosen])
            released, _ = mechanism.release(gradients, None, randomness)
            _descend(parameters, released.value, learning_rate)
    finally:
        wrapped.to_standard_module()
    return spent


def check_layers(model: torch.nn.Module) -> None:
    """Raise ValueError for a layer through which one example changes the gradients of others: clipping does not bound that.

    That is batch normalisation in any form, also without running statistics, and whatever else opacus knows to be so.
    """
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS):
            raise ValueError(  # noqa: TRY004  # it is the value of a layer that cannot be trained so
                f"{type(module).__name__} ({name or 'the model'}) normalises by the whole batch, so one example moves the "
                "gradients of all others: use GroupNorm, or opacus.validators.ModuleValidator.fix(model)"
            )
    problems = require("opacus.validators", extra="opacus").ModuleValidator.validate(model, strict=False)
    if problems:
        raise ValueError(f"the model cannot be trained with one gradient an example: {problems[0]}")


def example_gradients(
    wrapped: Any, parameters: Iterable[torch.nn.Parameter], loss: Loss, x: torch.Tensor, y: torch.Tensor
) -> npt.NDArray[np.float64]:
    """(m, d): the gradient of the loss of each of m examples, m >= 0, by an opacus `GradSampleModule`."""
    trained = list(parameters)
    if not len(x):
        return np.empty((0, sum(parameter.numel() for parameter in trained)))
    wrapped.zero_grad(set_to_none=True)
    loss(wrapped(x), y).backward()
    parts = [parameter.grad_sample.reshape(len(x), -1) for parameter in trained]  # type: ignore[attr-defined]  # opacus sets it
    return torch.cat(parts, dim=1).double().numpy()


@torch.no_grad()
def _descend(parameters: Iterable[torch.nn.Parameter], gradient: npt.NDArray[np.float64], learning_rate: float) -> None:
    position = 0
    for parameter in parameters:
        part = torch.from_numpy(gradient[position : position + parameter.numel()]).reshape(parameter.shape)
        parameter.sub_(learning_rate * part.to(parameter.dtype))
        position += parameter.numel()
