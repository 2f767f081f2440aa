"""What a client does: some steps of AdamW on windows of its text; and what everybody is judged by: loss on held-out text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from fl_impl.clients import ClientUpdate
from fl_impl.common.randomness import generator

if TYPE_CHECKING:
    from fl_impl.lora.adapted import Adapted, Flat
    from fl_impl.lora.modes import Trains
    from fl_impl.lora.text import TextClient

JUDGED_TOGETHER: Final = 16
"""Windows."""


@dataclass(frozen=True)
class TextRecipe:
    """How clients train on text and are judged."""

    steps: int = 10
    batch_size: int = 16
    context: int = 64
    """Tokens in a window."""
    learning_rate: float = 1e-2
    judged: int = 2048
    """Tokens of held-out text of each client that are looked at, at most."""
    seed: int = 0


@dataclass(frozen=True)
class Judged:
    """Losses on held-out text in nats per token, each client's own and over all tokens."""

    loss: float
    clients: dict[str, float]

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely next tokens that would cost as much."""
        return math.exp(min(self.loss, 700.0))


@dataclass(frozen=True, eq=False)
class LocalTraining:
    """A client with text, as one that has `fit`: it trains the one model that everybody shares in simulation."""

    adapted: Adapted
    client: TextClient
    number: int
    recipe: TextRecipe
    trains: Trains

    def fit(self, parameters: Flat, round: int) -> ClientUpdate:  # noqa: A002  # the published protocol
        """AdamW from a (d,) adapter, on windows drawn from (seed, round, client)."""
        tokens = self.adapted.tokens(self.client.text)
        rng = generator(self.recipe.seed, "windows", round, self.number)
        self.adapted.write(parameters)
        optimizer = torch.optim.AdamW(list(self.adapted.parameters(self.trains)), lr=self.recipe.learning_rate)
        model, losses = self.adapted.model.train(), list[float]()
        for _ in range(self.recipe.steps):
            batch = drawn(tokens, self.recipe, rng).to(self.adapted.device)
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return ClientUpdate(self.adapted.read() - parameters, self.client.num_samples, float(np.mean(losses)))


def drawn(tokens: torch.Tensor, recipe: TextRecipe, rng: np.random.Generator) -> torch.Tensor:
    """(batch_size, context) windows of a text, drawn with replacement."""
    width = min(recipe.context, len(tokens))
    starts = torch.from_numpy(rng.integers(len(tokens) - width + 1, size=(recipe.batch_size, 1)))
    return tokens[starts + torch.arange(width)]


def judge(adapted: Adapted, clients: Sequence[TextClient], recipe: TextRecipe) -> Judged:
    """The loss of the model as it is on each client's held-out text, cut into windows."""
    losses, counts = dict[str, float](), dict[str, int]()
    for client in clients:
        windows = cut(adapted, client, recipe).to(adapted.device)
        losses[client.name], counts[client.name] = mean_loss(adapted, windows), windows.numel()
    total = sum(losses[name] * counts[name] for name in losses) / sum(counts.values())
    return Judged(total, losses)


def cut(adapted: Adapted, client: TextClient, recipe: TextRecipe) -> torch.Tensor:
    """(windows, context) tokens of the held-out text, one after another; what is left over at the end is not used."""
    tokens = adapted.tokens(client.held_out)[: recipe.judged]
    width = min(recipe.context, len(tokens))
    if width < 2:
        raise ValueError(f"the held-out text of {client.name!r} has {width} tokens: nothing can be predicted in it")
    return tokens[: len(tokens) // width * width].view(-1, width)


@torch.no_grad()
def mean_loss(adapted: Adapted, windows: torch.Tensor) -> float:
    """The mean cross-entropy over all tokens, in nats."""
    model, total = adapted.model.eval(), 0.0
    for batch in windows.split(JUDGED_TOGETHER):
        total += float(model(input_ids=batch, labels=batch).loss) * len(batch)
    return total / len(windows)
