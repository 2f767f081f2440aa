"""A plan of faults: who is struck by what in which rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from fl_impl.common.specs import parse
from fl_impl.faults.kinds import KINDS, Effect, Moment, effect_of

ORDER: Final = ("wrong", "malformed", "lost", "kept")
"""In which order the faults of one reply happen: what is sent, whether it arrives sound, how often and how late."""

WORST: Final[tuple[Effect, ...]] = ("lost", "malformed", "wrong")
"""The worst effect first."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault, for some clients, from the first to the last of these rounds.

    Raises ValueError for a kind that is none, with the nearest name, and for rounds that are none.
    """

    kind: str
    """A spec: "crash", "slow(seconds=0.1)"; `fl_impl.faults.KINDS` has all."""
    clients: tuple[int, ...]
    rounds: tuple[int, int] = (1, 2**31)
    """The first and the last."""

    def __post_init__(self) -> None:
        """Raise ValueError for a mistake."""
        KINDS.bind(self.kind)
        if not 1 <= self.rounds[0] <= self.rounds[1]:
            raise ValueError(f"rounds of a fault are its first and its last, from 1; got {self.rounds}")

    @property
    def effect(self) -> Effect:
        """What it does to a round."""
        return effect_of(self.kind)

    @cached_property
    def function(self) -> Callable[[Any, Moment], Any]:
        """(update, moment) -> what arrives."""
        return KINDS.bind(self.kind)

    def strikes(self, client: int, round_number: int) -> bool:
        """Whether it does."""
        return client in self.clients and self.rounds[0] <= round_number <= self.rounds[1]


@dataclass(frozen=True)
class FaultPlan:
    """Faults, which may overlap. The same plan does the same in every run."""

    faults: tuple[Fault, ...] = ()

    def at(self, client: int, round_number: int) -> list[Fault]:
        """The faults that strike a client in a round, each kind once, in the order in which they happen."""
        struck = {fault.kind: fault for fault in self.faults if fault.strikes(client, round_number)}
        return sorted(struck.values(), key=lambda fault: ORDER.index(fault.effect))

    def effect(self, client: int, round_number: int) -> Effect:
        """What becomes of a client's update in a round, the worst of its faults: lost, malformed, wrong, or else kept."""
        effects = {fault.effect for fault in self.at(client, round_number)}
        for effect in WORST:
            if effect in effects:
                return effect
        return "kept"

    def without(self, effect: Effect) -> FaultPlan:
        """The plan without the faults of an effect."""
        return replace(self, faults=tuple(fault for fault in self.faults if fault.effect != effect))

    def names(self, client: int, round_number: int) -> set[str]:
        """The kinds that strike a client in a round."""
        return {parse(fault.kind).name for fault in self.at(client, round_number)}

    def arrives(self, update: Any, moment: Moment) -> Any:
        """What arrives of an update: itself, another, several, or an exception."""
        faults = self.at(moment.client, moment.round)
        try:
            answer = update
            for each in faults:
                several = isinstance(answer, list)
                answer = [each.function(one, moment) for one in answer] if several else each.function(answer, moment)
            return answer
        finally:
            moment.memory["last"] = update.delta

    def __repr__(self) -> str:
        """Python that makes it."""
        return f"FaultPlan(({', '.join(map(repr, self.faults))}{',' if len(self.faults) == 1 else ''}))"
