"""What is learnt: models by name, the user's own, and the task of model, loss and data that clients share."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from fl_impl.common.randomness import torch_seed
from fl_impl.common.registry import Registry
from fl_impl.common.specs import import_attribute
from fl_impl.data.labelled import Array, Dataset
from fl_impl.training.parameters import Layout, Vector, layout_of, saved_buffers, to_vector

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SMALL: Final = 1_000_000
CPU: Final = torch.device("cpu")
model: Registry[Any] = Registry("a model", group="pytest_fl.models")
"""Functions (data) -> torch module; those decorated with it are known by their names."""


@model
def mlp(data: Dataset, *, hidden: int = 64, layers: int = 1) -> nn.Module:
    """Fully connected with ReLU: 64-64-10 on the digits."""
    widths = [features(data), *[hidden] * layers]
    parts = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(widths[-1], outputs(data)))


@model
def linear(data: Dataset) -> nn.Module:
    """One linear layer: logistic regression, or linear regression where there are no classes."""
    return nn.Sequential(nn.Linear(features(data), outputs(data)))


@model
def cnn(data: Dataset, *, channels: int = 8, batch_norm: bool = False) -> nn.Module:
    """Two 3 x 3 convolutions, each with ReLU and 2 x 2 pooling, and a linear layer; for images.

    batch_norm puts a BatchNorm layer after each convolution, with buffers that are aggregated as parameters are.
    """
    if len(data.image) != 2:
        raise ValueError(f'the model "cnn" needs images; {data.name!r} has none: use "mlp"')
    height, width = data.image
    blocks = [
        part
        for before, after in ((1, channels), (channels, 2 * channels))
        for part in (
            nn.Conv2d(before, after, 3, padding=1),
            *([nn.BatchNorm2d(after)] if batch_norm else []),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
    ]
    last = nn.Linear(2 * channels * (height // 4) * (width // 4), outputs(data))
    return nn.Sequential(nn.Unflatten(-1, (1, height, width)), *blocks, nn.Flatten(-3), last)


class Numbers(nn.Module):
    """Whole numbers that came as floats, as all inputs do, for an embedding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same numbers as int64."""
        return x.long()


@model
def next_character(data: Dataset, *, width: int = 16, hidden: int = 64) -> nn.Module:
    """A language model of a fixed context: each character's embedding, then one hidden layer with ReLU.

    For inputs of whole numbers below the number of classes, as those of "characters". Bengio et al. 2003 (JMLR 3).
    """
    if not data.classes or (data.x < 0).any() or (data.x >= data.classes).any() or (data.x % 1).any():
        raise ValueError(f'the model "next_character" needs whole numbers below the classes; use "mlp" for {data.name!r}')
    context = features(data)
    embedding = nn.Sequential(Numbers(), nn.Embedding(data.classes, width), nn.Flatten(-2))
    return nn.Sequential(embedding, nn.Linear(context * width, hidden), nn.ReLU(), nn.Linear(hidden, data.classes))


def features(data: Dataset) -> int:
    """The number of entries of one input."""
    return math.prod(data.x.shape[1:])


def outputs(data: Dataset) -> int:
    """Classes, or numbers in one target."""
    return data.classes or math.prod(data.y.shape[1:])


def squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared error; targets may lack the last axis of length one."""
    return functional.mse_loss(outputs, targets.reshape(outputs.shape))


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (NaN where it is not finite), and the share of right answers (NaN where the data have no classes)."""

    loss: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Task:
    """A model's shape, its first parameters and its loss: all that clients and coordinator share of it."""

    module: nn.Module
    """Only its form is used: parameters always come from outside."""
    loss: Loss
    layout: Layout
    initial: Vector
    unbatched: list[str] = field(default_factory=list[str])
    """Why torch.func cannot batch this model, once that was tried and failed."""
    scratch: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict[str, "dict[str, torch.Tensor]"])
    """Room for the stacked parameters of a cohort, kept from round to round: fresh memory costs more than the arithmetic."""
    device: torch.device = CPU
    """Where clients train and models are evaluated."""
    fixed: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    """Buffers that are excluded from the vector: every client, in every round, begins with these values."""

    @functools.cached_property
    def least_batch(self) -> int:
        """Rows that a training batch needs: a BatchNorm has no variance of one row."""
        normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.module.modules())  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # torch's own base class of them all
        return 2 if normed else 1

    def outputs(self, parameters: Vector, x: Array) -> torch.Tensor:
        """The model's outputs for these inputs."""
        self.module.eval()
        views = self.layout.views(torch.from_numpy(parameters).to(self.device))
        whole = {**views, **self.layout.buffers_of(views), **self.fixed}
        with torch.no_grad(), threads_for(self.layout.d):
            return functional_call(self.module, whole, (torch.from_numpy(x).to(self.device),))

    def evaluate(self, parameters: Vector, data: Dataset) -> Evaluation:
        """Loss and accuracy of a (d,) parameter vector on data."""
        answers, targets = self.outputs(parameters, data.x), torch.from_numpy(data.y).to(self.device)
        accuracy = float((answers.argmax(-1) == targets).float().mean()) if data.classes else math.nan
        loss = float(self.loss(answers, targets))
        return Evaluation(loss if math.isfinite(loss) else math.nan, accuracy)


def make_task(
    data: Dataset,
    chosen: Any = "mlp",
    loss: Loss | None = None,
    seed: int = 0,
    *,
    device: str = "cpu",
    exclude_buffers: str = "",
) -> Task:
    """The task of a data set and a model: a spec such as "mlp(hidden=32)", "module:factory", a module, or a factory.

    A factory is called with the data set if it takes an argument. The first parameters follow from the seed.
    """
    module = chosen if isinstance(chosen, nn.Module) else built(factory(chosen), data, seed)
    if loss is None:
        loss = functional.cross_entropy if data.classes else squared_error
    layout, place = layout_of(module, exclude_buffers), torch.device(device)
    initial = to_vector(module, layout)
    module.to(place)
    fixed = {name: value.clone() for name, value in saved_buffers(module).items() if name not in layout.names}
    return Task(module, loss, layout, initial, device=place, fixed=fixed)


def factory(chosen: Any) -> Callable[..., Any]:
    """What makes the module. Raises ValueError for what is no model."""
    if isinstance(chosen, str):
        return model.bind(chosen) if ":" not in chosen else factory(import_attribute(chosen))
    if callable(chosen):
        return chosen
    raise ValueError(f"expected a model: a name, a torch module or a function that makes one; got {chosen!r}")


def built(make: Callable[..., Any], data: Dataset, seed: int) -> nn.Module:
    """The module, its weights drawn from the seed."""
    with own_randomness(torch_seed(seed)):
        return make(data) if takes_argument(make) else make()


@contextmanager
def threads_for(d: int) -> Generator[None]:
    """One torch thread for models of under a million parameters, then as before.

    Their steps are microseconds long: threads would wait for one another, for seconds where cores are shared with others.
    """
    before = torch.get_num_threads()
    if d >= SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def own_randomness(seed: int, device: torch.device = CPU) -> Generator[None]:
    """Torch's default generators, of the CPU and of the device, seeded, then set back: weights and dropout know no others."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    there: Any = None if device.type in ("cpu", "meta") else torch.get_device_module(device)
    kept = there and there.get_rng_state()
    try:
        if there:
            there.manual_seed(seed)
        yield
    finally:
        torch.default_generator.set_state(state)
        if there:
            there.set_rng_state(kept)


def takes_argument(make: Callable[..., Any]) -> bool:
    """Whether a factory wants the data set."""
    target = make.func if isinstance(make, functools.partial) else make
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in inspect.signature(target).parameters.values() if p.kind in kinds and p.default is p.empty]
    return bool(needed)
