"""A model's parameters and buffers as one vector, and the views that turn rows of such vectors back into them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
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
    """What lies in the vector, in order: the trained parameters, then buffers of floats, then those of integers or booleans."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    buffers: tuple[torch.dtype, ...] = ()
    """The dtypes of the last names, which are buffers; the vector holds all as float32."""

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

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the trained parameters."""
        return self.names[: len(self.names) - len(self.buffers)]

    @cached_property
    def trained(self) -> int:
        """How many numbers of the vector are trained, and moved by the server's optimizer; buffers come after them."""
        return sum(self.sizes[: len(self.parameters)])

    @cached_property
    def counters(self) -> int:
        """How many numbers at the end of the vector are of integer or boolean buffers: no mean is taken of those."""
        pairs = zip(self.buffers, self.sizes[len(self.parameters) :], strict=True)
        return sum(size for dtype, size in pairs if not dtype.is_floating_point)

    def buffers_of(self, views: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The buffers among `views` in their own dtypes: the same memory where that is float32, else a copy."""
        return {
            name: views[name].to(dtype) for name, dtype in zip(self.names[len(self.parameters) :], self.buffers, strict=True)
        }

    def views(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """(n, d) -> name: (n, *shape), or (d,) -> name: shape; views, so that writing to them writes to the rows."""
        parts = rows.split(self.sizes, dim=-1)
        lead = rows.shape[:-1]
        return {name: part.view((*lead, *shape)) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}


def layout_of(module: nn.Module, exclude: str = "") -> Layout:
    """The layout of a module: parameters with requires_grad, and the buffers of its state_dict that no pattern excludes.

    exclude: patterns of buffers' names with commas between, such as "*num_batches_tracked" or "*". Raises ValueError where
    nothing requires a gradient.
    """
    trained = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient: there is nothing to train")
    kept = {name: buffer for name, buffer in saved_buffers(module).items() if not matches(name, exclude)}
    ordered = sorted(kept.items(), key=lambda item: not item[1].is_floating_point())  # stable: floats first
    shapes = (*trained.values(), *(tuple(buffer.shape) for _, buffer in ordered))
    return Layout((*trained, *(name for name, _ in ordered)), shapes, tuple(buffer.dtype for _, buffer in ordered))


def saved_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers that a state_dict has, by name: running statistics and counters, not tables that are computed anew."""
    saved = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers() if name in saved}


def matches(name: str, patterns: str) -> bool:
    """Whether a name matches one of the patterns, which have commas between."""
    return any(fnmatchcase(name, pattern.strip()) for pattern in patterns.split(","))


def to_vector(module: nn.Module, layout: Layout | None = None) -> Vector:
    """(d,) float32, a copy of what the layout names: by default all that `layout_of` finds."""
    tensors: dict[str, Any] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    parts = [tensors[name].detach().reshape(-1) for name in (layout or layout_of(module)).names]
    return np.concatenate([part.cpu().float().numpy() for part in parts])


def load_vector(module: nn.Module, vector: Vector) -> None:
    """Write a (d,) vector into the module's trained parameters and buffers. Raises ValueError for another length."""
    import torch  # noqa: PLC0415  # only who has a module has torch

    layout = layout_of(module)
    if np.shape(vector) != (layout.d,):
        raise ValueError(f"expected a vector of length d={layout.d}, got shape {np.shape(vector)}")
    parts = layout.views(torch.from_numpy(np.ascontiguousarray(vector, np.float32)))
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name in parts:
                tensor.copy_(parts[name])
