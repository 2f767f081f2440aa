"""An attack inside a federation: who attacks, when, on which data, and what they send."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.clients import ClientUpdate
from fl_impl.common.counts import floor_of
from fl_impl.common.randomness import generator
from fl_impl.rounds.admission import Admitted, admit, without_non_finite

if TYPE_CHECKING:
    from fl_impl.attacks import Attack
    from fl_impl.data import Dataset
    from fl_impl.rounds.evaluation import Setup
    from fl_impl.training.parameters import Vector


@dataclass(eq=False)
class Attackers:
    """floor(fraction n) of n clients, the same ones always, that attack in rounds start to stop; nobody without an attack."""

    attack: Attack | None = None
    fraction: float = 0.0
    start: int = 1
    stop: int | None = None
    seed: int = 0
    poisoned: dict[int, Any] = field(default_factory=dict[int, Any])
    """Byzantine clients on poisoned data, made when they are first needed."""
    aims: dict[int, Dataset | None] = field(default_factory=dict[int, "Dataset | None"])
    """What the attacker wants said of a test data set, by its identity."""
    strikes: int = 0
    """Rounds in which updates were crafted."""
    idle: int = 0
    """Those of them in which every crafted update was the mean of the honest ones, to float32's precision."""

    def __post_init__(self) -> None:
        """Raise ValueError for what is no fraction."""
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction is the share of the clients that attacks, from 0 to 1; got {self.fraction}")

    @property
    def spec(self) -> str:
        """The attack as text, "" without one."""
        return self.attack.spec if self.attack else ""

    def among(self, chosen: Iterable[int], population: int, round_number: int) -> frozenset[int]:
        """Which of the chosen clients attack in this round."""
        if self.attack is None or round_number < self.start or (self.stop is not None and round_number > self.stop):
            return frozenset()
        return members(self.seed, floor_of(self.fraction, population), population).intersection(chosen)

    def trainees(self, clients: Sequence[Any], chosen: Iterable[int], byzantine: frozenset[int]) -> dict[int, Any]:
        """Who trains for each chosen client: itself, or its poisoned double."""
        return {i: self.trainee(clients[i], i) if i in byzantine else clients[i] for i in chosen}

    def trainee(self, client: Any, number: int) -> Any:
        """Who trains for a Byzantine client: itself, on poisoned data where the attack poisons data."""
        if self.attack is None or not self.attack.stages("data"):
            return client
        if not hasattr(client, "poisoned"):
            raise ValueError(
                f"{self.attack.spec} poisons data, but client {number} ({type(client).__name__}) has no "
                "poisoned(attack, rng) that gives a client on poisoned data: add it, or choose an attack on updates"
            )
        if number not in self.poisoned:
            self.poisoned[number] = client.poisoned(self.attack, generator(self.seed, "poison", number))
        return self.poisoned[number]

    def messages(self, honest: Admitted, own: Admitted, round_number: int, memory: dict[str, Any], **context: Any) -> Admitted:
        """What the attackers send instead of their own updates, as far as it is sound."""
        if self.attack is None or not own.ids:
            return own
        rng, rows = generator(self.seed, "strike", round_number), own.deltas
        if self.attack.stages("update") and honest.ids:
            known = {"own": own.deltas, "memory": memory, "ids": np.array(honest.ids), **context}
            rows = np.asarray(self.attack.craft(honest.deltas, len(own.ids), rng, **known))
            self.strikes += 1
            self.idle += equal_to_the_mean(rows, honest.deltas)
        sent = replace(own, deltas=rows)
        if not self.attack.stages("protocol"):
            return without_non_finite(sent)
        tampered: dict[int, ClientUpdate | None] = {}
        for client, row, count, loss in zip(sent.ids, sent.deltas, sent.counts, sent.losses, strict=True):
            update = ClientUpdate(row, int(count), loss, client=client)
            tampered[client] = self.attack.tamper(update, rng, memory=memory)
        return admit(tampered, rows.shape[1], round_number).noting(own.rejected)

    def success(self, setup: Setup, parameters: Vector) -> float | None:
        """The share of the test samples the attacker cares about that are read as it wishes; None where it only harms."""
        if self.attack is None or setup.task is None or setup.test is None:
            return None
        key = id(setup.test)
        if key not in self.aims:
            self.aims[key] = self.attack.aim(setup.test, generator(self.seed, "aim"))
        aim = self.aims[key]
        return setup.task.evaluate(parameters, aim).accuracy if aim is not None and len(aim) else None


@lru_cache
def members(seed: int, count: int, population: int) -> frozenset[int]:
    """`count` of the clients, drawn once for all rounds."""
    return frozenset(generator(seed, "attackers").permutation(population)[:count].tolist())


def equal_to_the_mean(rows: Any, honest: Any) -> bool:
    """Whether every row is the mean of the honest ones, up to float32's rounding of their largest number."""
    tolerance = 4 * float(np.finfo(np.float32).eps) * float(np.abs(honest).max(initial=0.0))
    return bool(np.abs(rows - honest.mean(axis=0, dtype=np.float64)).max(initial=0.0) <= tolerance)
