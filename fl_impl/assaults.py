"""An attack inside a federation: who attacks, when, on which data, and what they send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.clients import ClientUpdate
from fl_impl.config import byzantine_count
from fl_impl.randomness import generator

if TYPE_CHECKING:
    from fl_impl.admission import Admitted
    from fl_impl.attacks import Attack
    from fl_impl.data import Dataset
    from fl_impl.evaluation import Ground
    from fl_impl.parameters import Vector


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
        count = byzantine_count(self.fraction, population)
        return frozenset(generator(self.seed, "attackers").permutation(population)[:count].tolist())

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
        self, honest: Admitted, own: Admitted, round_number: int, memory: dict[str, Any], **context: Any
    ) -> dict[int, ClientUpdate | None]:
        """What the attackers send instead of their own updates; None is silence."""
        rng, rows = generator(self.seed, "strike", round_number), own.deltas
        if self.attack.stages("update") and len(honest.ids) and len(own.ids):
            told = {"own": own.deltas, "memory": memory, "ids": np.array(honest.ids), **context}
            rows = np.asarray(self.attack.craft(honest.deltas, len(own.ids), rng, **told))
        sent = zip(own.ids, rows, own.counts, own.losses, strict=True)
        return {
            client: self.attack.tamper(ClientUpdate(row, int(count), loss, client=client), rng, memory=memory)
            for client, row, count, loss in sent
        }

    def success(self, ground: Ground, parameters: Vector) -> float | None:
        """The share of the test samples the attacker cares about that are read as it wishes; None where it only harms."""
        if ground.task is None or ground.test is None:
            return None
        key = id(ground.test)
        if key not in self.aims:
            self.aims[key] = self.attack.aim(ground.test, generator(self.seed, "aim"))
        aim = self.aims[key]
        return ground.task.evaluate(parameters, aim).accuracy if aim is not None and len(aim) else None
