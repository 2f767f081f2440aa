"""An attack inside a federation: who attacks, when, on which data, and what they send."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.clients import ClientUpdate
from fl_impl.common.counts import floor_of
from fl_impl.common.randomness import generator
from fl_impl.rounds.admission import Admitted, Reasons, admit, without_non_finite

if TYPE_CHECKING:
    from fl_impl.attacks import Attack
    from fl_impl.data import Dataset
    from fl_impl.rounds.evaluation import Ground
    from fl_impl.training.parameters import Vector


@dataclass(eq=False)
class Assault:
    """An attack by floor(fraction n) of n clients, the same ones always, in rounds start to stop."""

    attack: Attack
    fraction: float
    start: int = 1
    stop: int | None = None
    seed: int = 0
    poisoned: dict[int, Any] = field(default_factory=dict[int, Any])
    """Byzantine clients on poisoned data, made when they are first needed."""
    aims: dict[int, Dataset | None] = field(default_factory=dict[int, "Dataset | None"])
    """What the attacker wants said of a test data set, by its identity."""

    def __post_init__(self) -> None:
        """Raise ValueError for a fraction that is none."""
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction is the share of the clients that attacks, from 0 to 1; got {self.fraction}")

    def byzantine(self, population: int, round_number: int) -> frozenset[int]:
        """Who attacks in this round, if selected."""
        if round_number < self.start or (self.stop is not None and round_number > self.stop):
            return frozenset()
        return members(self.seed, floor_of(self.fraction, population), population)

    def trainee(self, client: Any, number: int) -> Any:
        """Who trains for a Byzantine client: itself, on poisoned data where the attack poisons data."""
        if not self.attack.stages("data"):
            return client
        if not hasattr(client, "poisoned"):
            raise ValueError(
                f"{self.attack.spec} poisons data, but client {number} ({type(client).__name__}) has no "
                "poisoned(attack, rng) that gives a client on poisoned data: add it, or choose an attack on updates"
            )
        if number not in self.poisoned:
            self.poisoned[number] = client.poisoned(self.attack, generator(self.seed, "poison", number))
        return self.poisoned[number]

    def strike(
        self, honest: Admitted, own: Admitted, round_number: int, rejected: Reasons, memory: dict[str, Any], **context: Any
    ) -> Admitted:
        """What the attackers send instead of their own updates, as far as it is sound; otherwise why not in `rejected`."""
        rng, rows = generator(self.seed, "strike", round_number), own.deltas
        if self.attack.stages("update") and honest.ids:
            told = {"own": own.deltas, "memory": memory, "ids": np.array(honest.ids), **context}
            rows = np.asarray(self.attack.craft(honest.deltas, len(own.ids), rng, **told))
        sent = Admitted(own.ids, rows, own.counts, own.losses)
        if not self.attack.stages("protocol"):
            return without_non_finite(sent, rejected)
        messages: dict[int, ClientUpdate | None] = {}
        for client, row, count, loss in zip(sent.ids, sent.deltas, sent.counts, sent.losses, strict=True):
            update = ClientUpdate(row, int(count), loss, client=client)
            messages[client] = self.attack.tamper(update, rng, memory=memory)
        return admit(messages, rows.shape[1], round_number, rejected)

    def success(self, ground: Ground, parameters: Vector) -> float | None:
        """The share of the test samples the attacker cares about that are read as it wishes; None where it only harms."""
        if ground.task is None or ground.test is None:
            return None
        key = id(ground.test)
        if key not in self.aims:
            self.aims[key] = self.attack.aim(ground.test, generator(self.seed, "aim"))
        aim = self.aims[key]
        return ground.task.evaluate(parameters, aim).accuracy if aim is not None and len(aim) else None


@lru_cache
def members(seed: int, count: int, population: int) -> frozenset[int]:
    """`count` of the clients, drawn once for all rounds."""
    return frozenset(generator(seed, "attackers").permutation(population)[:count].tolist())
