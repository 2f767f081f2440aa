"""Gradients of many multilayer perceptrons at once in closed form: three batched products a layer, no autograd.

It calls the kernels that autograd would, in the same order, so that the numbers are those of each client alone: bit by bit
where widths are multiples of 16 and for 64-64-10, as the tests hold it to; elsewhere to rounding, since BLAS sums in another
order where a client's rows begin at an odd address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from fl_impl.training.models import Task

ATEN = torch.ops.aten
Stack = dict[str, torch.Tensor]


@dataclass(frozen=True)
class DenseLayer:
    """The parameters of one linear layer, by name, and whether a ReLU comes after it."""

    weight: str
    bias: str
    relu: bool


def dense_layers(task: Task) -> tuple[DenseLayer, ...] | None:
    """The layers of a perceptron of Linear and ReLU under cross entropy; None for any other task."""
    module = task.module
    if not isinstance(module, nn.Sequential) or task.loss is not functional.cross_entropy:
        return None
    parts = list(module.named_children())
    layers: list[DenseLayer] = []
    for index, (name, part) in enumerate(parts):
        after = parts[index + 1][1] if index + 1 < len(parts) else None
        if type(part) is nn.Linear and {f"{name}.weight", f"{name}.bias"} <= set(task.layout.names):
            layers.append(DenseLayer(f"{name}.weight", f"{name}.bias", type(after) is nn.ReLU))
        elif type(part) is not nn.ReLU or not layers or type(parts[index - 1][1]) is not nn.Linear:
            return None
    return tuple(layers) if layers and not layers[-1].relu else None


def dense_gradient(
    layers: tuple[DenseLayer, ...], weights: Stack, x: torch.Tensor, y: torch.Tensor, out: Stack
) -> torch.Tensor:
    """Write the gradients of n perceptrons on (n, b, features) inputs and (n, b) labels to out; return the (n,) losses."""
    inputs = [x]
    for layer in layers:
        z = torch.baddbmm(weights[layer.bias].unsqueeze(1), inputs[-1], weights[layer.weight].transpose(1, 2))
        inputs.append(z.relu_() if layer.relu else z)
    log_p = functional.log_softmax(inputs.pop(), dim=-1)
    target = y.unsqueeze(-1)
    losses = log_p.gather(-1, target).squeeze(-1).mean(-1).neg_()
    slope = torch.zeros_like(log_p).scatter_(-1, target, -1.0 / y.shape[1])
    slope = ATEN._log_softmax_backward_data(slope, log_p, -1, log_p.dtype)  # noqa: SLF001  # autograd's own kernel
    for number in range(len(layers) - 1, -1, -1):
        layer, below = layers[number], inputs[number]
        torch.bmm(slope.transpose(1, 2), below, out=out[layer.weight])
        torch.sum(slope, dim=1, out=out[layer.bias])
        if number:
            slope = torch.bmm(slope, weights[layer.weight])
            if layers[number - 1].relu:
                slope = ATEN.threshold_backward(slope, below, 0)
    return losses
