"""Local training of many clients as one batched program, or of one client alone; both give the same numbers.

Each parameter of n clients is one (n, *shape) tensor: a step computes all gradients, corrects them and moves all clients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.func import functional_call, grad_and_value, vmap

from fl_impl.common.randomness import torch_seed
from fl_impl.training.dense import dense_gradient, dense_layers
from fl_impl.training.models import Task, own_randomness, threads_for
from fl_impl.training.parameters import Vector
from fl_impl.training.shuffling import Ints, steps

Stack = dict[str, torch.Tensor]
"""name -> (n, *shape)."""
Gradient = Callable[[Stack, torch.Tensor, torch.Tensor, Stack], tuple[Stack, torch.Tensor]]
"""(parameters of n clients, x (n, b, ...), y (n, b), room) -> (their gradients, losses (n,)); room may be used for them."""


@dataclass(frozen=True)
class Recipe:
    """How a client trains: SGD, with what is added to the gradient."""

    learning_rate: float = 0.1
    epochs: int = 1
    steps: int | None = None
    """This many batches, of as many epochs as that takes, instead of whole epochs."""
    batch_size: int = 32
    momentum: float = 0.0
    """v <- beta v + (1 - beta) g, kept from round to round. Karimireddy, He & Jaggi 2021 (arXiv 2012.10333)."""
    proximal: float = 0.0
    """mu of FedProx: the gradient gets mu (w - w_round). Li et al. 2020 (arXiv 1812.06127)."""
    scaffold: bool = False
    """Whether the gradient gets c - c_i. Karimireddy et al. 2020 (arXiv 1910.06378), option II."""
    seed: int = 0


class Trainee(Protocol):
    """What training needs of a client."""

    id: int
    x: torch.Tensor
    y: torch.Tensor
    rows: Ints
    """Its rows of x and y."""
    state: dict[str, Any]
    """(d,) float32 arrays that it keeps from round to round: "momentum", "control"."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What local training gave: an update and a loss for each client."""

    deltas: Vector
    """(n, d) float32: parameters after training minus before."""
    losses: list[float]
    """(n,) mean loss over the steps of training."""


def train_together(
    task: Task, recipe: Recipe, clients: Sequence[Trainee], parameters: Vector, round_number: int, control: Vector | None = None
) -> Trained:
    """Train all clients of a round from the same (d,) parameters, in one program if the model can be batched."""
    if not task.unbatched:
        try:
            with threads_for(task.layout.d):
                return train(task, batched_gradient(task), recipe, clients, parameters, round_number, control)
        except (RuntimeError, NotImplementedError, ValueError) as error:  # what the loop raises too names its client there
            task.unbatched.append(str(error))  # so this model is trained in a loop from now on
    each = [train_alone(task, recipe, client, parameters, round_number, control) for client in clients]
    return Trained(np.concatenate([one.deltas for one in each]), [one.losses[0] for one in each])


def train_alone(
    task: Task, recipe: Recipe, client: Trainee, parameters: Vector, round_number: int, control: Vector | None = None
) -> Trained:
    """Train one client by plain autograd: what the batched program is compared with, and serves any module.

    Raises ValueError, with the client's number, where the model refuses its data.
    """
    try:
        with own_randomness(torch_seed(recipe.seed, client.id, round_number), task.device), threads_for(task.layout.d):
            return train(task, lone_gradient(task), recipe, [client], parameters, round_number, control)
    except ValueError as error:
        raise ValueError(f"client {client.id} cannot train on its {len(client.rows)} samples: {error}") from error


def train(
    task: Task,
    gradient: Gradient,
    recipe: Recipe,
    clients: Sequence[Trainee],
    parameters: Vector,
    round_number: int,
    control: Vector | None,
) -> Trained:
    """Local SGD from one (d,) vector. Clients are sorted by size, so that equal batches lie side by side."""
    order = np.argsort([-len(client.rows) for client in clients], kind="stable")
    ranked, n = [clients[position] for position in order], len(clients)
    start = task.layout.views(torch.from_numpy(parameters).to(task.device))
    weights, room = stack(task, n, "weights"), stack(task, n, "room")
    for name, part in weights.items():
        part.copy_(start[name])
    fixed = {name: value.unsqueeze(0).repeat(n, *[1] * value.ndim) for name, value in task.fixed.items()}
    keeper = Keeper(task, recipe, ranked, start, control)
    losses, counts = np.zeros(n), np.zeros(n)
    for step in steps(
        [client.rows for client in ranked], [client.id for client in ranked], batch_size=recipe.batch_size,
        epochs=recipe.epochs, limit=recipe.steps, seed=recipe.seed, round_number=round_number, least=task.least_batch,
    ):  # fmt: skip
        where = slice(step.first, step.last)
        mine = {name: part[where] for name, part in (*weights.items(), *fixed.items())}
        own_room = {name: part[where] for name, part in room.items()}
        slopes, loss = gradient(mine, *gathered(ranked[where], step.rows), own_room)
        losses[where] += arrived(loss)
        counts[where] += 1
        slopes = keeper.correct(slopes, mine, where)
        for name, slope in slopes.items():
            mine[name].sub_(slope, alpha=recipe.learning_rate)
    deltas, means = np.empty((n, task.layout.d), np.float32), np.empty(n)
    rows = slice(None) if (np.diff(order) == 1).all() else order  # a slice where nobody changed places: twice as fast
    for name, columns in task.layout.columns.items():
        deltas[rows, columns] = arrived(weights[name].sub_(start[name]).reshape(n, -1))
    means[order] = losses / counts
    keeper.remember(deltas[order] if recipe.scaffold else deltas, counts)
    return Trained(deltas, means.tolist())


def stack(task: Task, n: int, use: str) -> Stack:
    """Room for the parameters of n clients, taken from what earlier rounds used."""
    held = task.scratch.get(use)
    if held is None or any(len(part) < n for part in held.values()):
        shapes = zip(task.layout.names, task.layout.shapes, strict=True)
        held = task.scratch[use] = {name: torch.empty(n, *shape, device=task.device) for name, shape in shapes}
    return {name: part[:n] for name, part in held.items()}


def arrived(tensor: torch.Tensor) -> Any:
    """The numbers of a tensor as an array, from whatever device."""
    return tensor.cpu().numpy()


def flat(stack: Stack) -> torch.Tensor:
    """(n, d), the rows as vectors."""
    return torch.cat([part.reshape(len(part), -1) for part in stack.values()], dim=1)


def gathered(clients: Sequence[Trainee], rows: Ints) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, b, ...) inputs and (n, b) labels; in one go for clients that share their data."""
    first, chosen = clients[0], torch.from_numpy(rows)
    if all(client.x is first.x and client.y is first.y for client in clients):
        return first.x[chosen], first.y[chosen]
    x = torch.stack([client.x[mine] for client, mine in zip(clients, chosen, strict=True)])
    return x, torch.stack([client.y[mine] for client, mine in zip(clients, chosen, strict=True)])


class Keeper:
    """What clients add to their gradients, and what they keep of it from round to round."""

    def __init__(self, task: Task, recipe: Recipe, clients: Sequence[Trainee], start: Stack, control: Vector | None) -> None:
        self.task, self.recipe, self.clients, self.start = task, recipe, clients, start
        self.control = np.zeros(task.layout.d, np.float32) if control is None else control
        self.velocity = self._kept("momentum") if recipe.momentum else None
        self.pull = None
        if recipe.scaffold:
            shared = task.layout.views(torch.from_numpy(self.control).to(task.device))
            self.pull = {name: shared[name] - part for name, part in self._kept("control").items()}

    def correct(self, slopes: Stack, weights: Stack, where: slice) -> Stack:
        """g + mu (w - w_round) + c - c_i, then momentum of that; the gradients are written to."""
        for name, slope in slopes.items():
            if self.recipe.proximal:
                slope.add_(weights[name] - self.start[name], alpha=self.recipe.proximal)
            if self.pull is not None:
                slope.add_(self.pull[name][where])
        if self.velocity is None:
            return slopes
        beta, velocity = self.recipe.momentum, self.velocity
        return {name: velocity[name][where].mul_(beta).add_(slope, alpha=1 - beta) for name, slope in slopes.items()}

    def remember(self, deltas: Vector, counts: Any) -> None:
        """Keep momentum, and SCAFFOLD's c_i <- c_i - c - delta_i / (K eta) after K steps (option II)."""
        if self.velocity is not None:
            for client, row in zip(self.clients, flat(self.velocity), strict=True):
                client.state["momentum"] = arrived(row).copy()
        if self.recipe.scaffold:
            for client, delta, steps_done in zip(self.clients, deltas, counts, strict=True):
                before = client.state.get("control", np.zeros_like(delta)) - self.control
                client.state["control"] = before - delta / np.float32(steps_done * self.recipe.learning_rate)

    def _kept(self, name: str) -> Stack:
        """What each client kept under a name, 0 where it kept nothing yet."""
        nothing = np.zeros(self.task.layout.d, np.float32)
        rows = torch.from_numpy(np.stack([client.state.get(name, nothing) for client in self.clients])).to(self.task.device)
        return {part: view.contiguous() for part, view in self.task.layout.views(rows).items()}


def batched_gradient(task: Task) -> Gradient:
    """The gradient of all clients at once: closed form for perceptrons, torch.func for anything else."""
    layers = dense_layers(task)
    if layers is not None:
        return lambda weights, x, y, room: (room, dense_gradient(layers, weights, x, y, room))
    mapped = vmap(grad_and_value(lambda weights, held, x, y: task.loss(functional_call(task.module, (weights, held), (x,)), y)))

    def general(weights: Stack, x: torch.Tensor, y: torch.Tensor, room: Stack) -> tuple[Stack, torch.Tensor]:
        del room
        task.module.train()
        own, held = parted(task, weights)
        slopes, losses = mapped(own, held, x, y)
        keep(task, weights, held)
        return slopes, losses.detach()

    return general


def lone_gradient(task: Task) -> Gradient:
    """The gradient of one client (n = 1) by plain autograd."""

    def alone(weights: Stack, x: torch.Tensor, y: torch.Tensor, room: Stack) -> tuple[Stack, torch.Tensor]:
        del room
        task.module.train()
        parameters, held = parted(task, weights)
        own = {name: part[0].detach().requires_grad_() for name, part in parameters.items()}
        loss = task.loss(functional_call(task.module, (own, {name: part[0] for name, part in held.items()}), (x[0],)), y[0])
        slopes = torch.autograd.grad(loss, list(own.values()))
        keep(task, weights, held)
        return {name: slope.unsqueeze(0) for name, slope in zip(own, slopes, strict=True)}, loss.detach().reshape(1)

    return alone


def parted(task: Task, weights: Stack) -> tuple[Stack, Stack]:
    """The trained parameters, and the buffers in their own dtypes, which training writes to."""
    fixed = {name: weights[name] for name in task.fixed}
    return {name: weights[name] for name in task.layout.parameters}, {**task.layout.buffers_of(weights), **fixed}


def keep(task: Task, weights: Stack, held: Stack) -> None:
    """Write back the buffers that are copies, being no float32."""
    for name, dtype in zip(task.layout.names[len(task.layout.parameters) :], task.layout.buffers, strict=True):
        if dtype != torch.float32:
            weights[name].copy_(held[name])
