"""How adapters become one: each mode is a function of weighted factors, and says what it does to the mean of the products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from fl_impl.aggregators import Aggregator, resolve
from fl_impl.common.registry import Registry
from fl_impl.common.specs import nearest, split
from fl_impl.lora.factors import Array, Factors, Module, Shape, zeros
from fl_impl.lora.product import Reals, refactored, stack

Trains = Literal["AB", "A", "B"]
Claim = Literal["mean", "truncated", "biased"]
"""What is added to the weights: the weighted mean of the products exactly, its best approximation of the rank, neither."""
Sums = Literal["factors", "products"]


@dataclass(frozen=True)
class Merged:
    """What the server goes on with: its adapter, and what is added to the weights themselves, if anything."""

    adapter: Factors
    residual: Factors | None = None
    whole: Mapping[str, Array] = field(default_factory=dict[str, Array])
    """What is trained as it is, by key: magnitudes of DoRA, modules_to_save, biases."""


@dataclass(frozen=True, eq=False)
class Mode:
    """`merge(clients, weights, rank) -> Merged`, and its claims."""

    name: str
    merge: Callable[[Factors, Reals, int], Merged]
    claim: Claim
    trains: Callable[[int], Trains]
    """Round -> the factors that clients train."""
    restarts: bool
    """Whether each client begins every round with a random A of its own and B = 0."""
    mixed_ranks: bool
    """Whether clients may have lower ranks than the server."""
    source: str
    sums: Sums | None = None
    """What its result is a weighted sum of, where adapters on disk can be summed one after another."""

    def __post_init__(self) -> None:
        """Let help() show what the function says of itself."""
        object.__setattr__(self, "__doc__", self.merge.__doc__)

    @property
    def of_means(self) -> bool:
        """Whether the mean of the factors is all that it needs, so that a noisy or secure sum of them will do."""
        return self.claim == "biased" or "AB" not in (self.trains(1), self.trains(2))

    @property
    def steady(self) -> bool:
        """Whether a client trains the same factors, from the server's, in every round."""
        return not self.restarts and self.trains(1) == self.trains(2)

    @property
    def exact(self) -> bool:
        """Whether what is added to the weights equals the weighted mean of the products."""
        return self.claim == "mean"


MODES: Final[Registry[Mode]] = Registry("a LoRA mode", group="pytest_fl.lora_modes")
"""All of them by name."""


def mode(
    *,
    claim: Claim,
    source: str,
    trains: Callable[[int], Trains] = lambda number: "AB",  # noqa: ARG005  # a function of the round
    restarts: bool = False,
    mixed_ranks: bool = False,
    sums: Sums | None = None,
) -> Callable[[Callable[[Factors, Reals, int], Merged]], Mode]:
    """Register `merge(clients, weights (n,), rank)` under its name. The weights sum to 1; all products have scale 1.

    sums: what the result is a weighted sum of, which `aggregate_folders` needs to know. Raises ValueError where the name
    is taken.
    """

    def register(merge: Callable[[Factors, Reals, int], Merged]) -> Mode:
        made = Mode(merge.__name__, merge, claim, trains, restarts, mixed_ranks, source, sums)
        MODES.enter(made.name, made, merge)
        return made

    return register


def factor_means(clients: Factors, weights: Reals) -> Factors:
    """sum_i w_i B_i and sum_i w_i A_i."""

    def mean(rows: Array) -> Array:
        return np.tensordot(weights[used], rows[used], axes=1)[None]

    used = np.flatnonzero(weights)
    return Factors(tuple(Module(mean(up), mean(down)) for up, down in clients.modules))


@mode(sums="factors", claim="biased", source="FedIT, Zhang et al. 2024 (arXiv:2305.05644)")
def fedit(clients: Factors, weights: Reals, rank: int) -> Merged:
    """A = sum p_i A_i, B = sum p_i B_i: off the mean product by sum p_i B_i A_i - B A."""
    del rank
    return Merged(factor_means(clients, weights))


@mode(sums="factors", claim="mean", trains=lambda number: "B", source="FFA-LoRA, Sun et al. 2024 (arXiv:2403.12313)")  # noqa: ARG005  # always
def ffa(clients: Factors, weights: Reals, rank: int) -> Merged:
    """A is never trained, B = sum p_i B_i: exact, half the traffic, and linear, as noise and masks need."""
    del rank
    return Merged(factor_means(clients, weights))


@mode(
    sums="factors",
    claim="mean",
    trains=lambda number: "B" if number % 2 else "A",
    source="RoLoRA, Chen et al. 2024 (arXiv:2409.02346)",
)
def rolora(clients: Factors, weights: Reals, rank: int) -> Merged:
    """Odd rounds train B, even ones A, the other one being everybody's: exact in each round."""
    del rank
    return Merged(factor_means(clients, weights))


@mode(sums="products", claim="mean", source="FedEx-LoRA, Singhal et al. 2025 (arXiv:2410.09432)")
def fedex(clients: Factors, weights: Reals, rank: int) -> Merged:
    """As fedit, and the weights themselves take the rest, sum p_i B_i A_i - B A."""
    del rank
    adapter = factor_means(clients, weights)
    everything = clients.beside(adapter)
    return Merged(adapter, stack(everything, np.append(weights, -1.0)))


@mode(sums="products", claim="mean", restarts=True, mixed_ranks=True, source="FLoRA, Wang et al. 2024 (arXiv:2409.05976)")
def flora(clients: Factors, weights: Reals, rank: int) -> Merged:
    """[p_1 B_1 ... p_n B_n] [A_1; ...; A_n] is added to the weights, and adapters begin anew."""
    shapes = tuple(Shape("", up.shape[2], down.shape[2]) for up, down in clients.modules)
    return Merged(zeros(shapes, rank), stack(clients, weights))


@mode(sums="products", claim="truncated", mixed_ranks=True, source="FlexLoRA, Bai et al. 2024 (arXiv:2402.11505)")
def flexlora(clients: Factors, weights: Reals, rank: int) -> Merged:
    """The best approximation of sum p_i B_i A_i of the server's rank, by QR and an SVD of the small core."""
    return Merged(refactored(stack(clients, weights), rank))


def parse(aggregation: object) -> tuple[Mode, Aggregator]:
    """The mode and the rule of "fedex", "krum", "flora|nnm|krum" or an Aggregator; flexlora and mean where not named.

    Raises ValueError for a wrong name, with the nearest one.
    """
    if not isinstance(aggregation, str):
        return flexlora, resolve(aggregation)
    first, *rest = (part.strip() for part in split(aggregation, "|"))
    if first in MODES:
        return MODES[first], resolve("|".join(rest) if rest else "mean")
    try:
        return flexlora, resolve(aggregation)
    except ValueError as error:
        modes = f"; or one of the modes{nearest(first, MODES)}" if "expected an aggregator" in str(error) else ""
        raise ValueError(f"{error}{modes}") from None
