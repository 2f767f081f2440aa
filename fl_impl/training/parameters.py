"""A model's parameters as one vector, and the views that turn rows of such vectors back into weights."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import nn

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the trained parameters, in the order in which they lie in the vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of entries of each parameter."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def columns(self) -> dict[str, slice]:
        """Where each lies in the vector."""
        ends = list(itertools.accumulate(self.sizes))
        return {name: slice(end - size, end) for name, size, end in zip(self.names, self.sizes, ends, strict=True)}

    @cached_property
    def d(self) -> int:
        """The length of the vector."""
        return sum(self.sizes)

    def views(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """(n, d) -> name: (n, *shape), or (d,) -> name: shape; views, so that writing to them writes to the rows."""
        parts = rows.split(self.sizes, dim=-1)
        lead = rows.shape[:-1]
        return {name: part.view(*lead, *shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}


def layout_of(module: nn.Module) -> Layout:
    """The layout of the parameters of a module that are trained (requires_grad).

    Raises ValueError where there are none, and where the module keeps running statistics, which no aggregator sees.
    """
    trained = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient: there is nothing to train")
    statistics = [name for name, buffer in module.named_buffers() if buffer.is_floating_point() and "running" in name]
    if statistics:
        raise ValueError(
            f"{type(module).__name__} keeps running statistics ({statistics[0]}), which are data of the clients that no "
            "aggregator sees: use GroupNorm or LayerNorm, or track_running_stats=False"
        )
    return Layout(tuple(trained), tuple(trained.values()))


def to_vector(module: nn.Module) -> Vector:
    """(d,) float32, a copy of the trained parameters."""
    trained: list[Any] = [p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]
    return np.concatenate([part.cpu().float().numpy() for part in trained])


def load_vector(module: nn.Module, vector: Vector) -> None:
    """Write a (d,) vector into the module's trained parameters. Raises ValueError for another length."""
    import torch  # noqa: PLC0415  # only who has a module has torch

    layout = layout_of(module)
    if np.shape(vector) != (layout.d,):
        raise ValueError(f"expected a vector of length d={layout.d}, got shape {np.shape(vector)}")
    parts = layout.views(torch.from_numpy(np.ascontiguousarray(vector, np.float32)))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in parts:
                parameter.copy_(parts[name])
