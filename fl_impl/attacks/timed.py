"""Attacks that are coupled over rounds: attackers that wait, and ones that push the same way in every round."""

from __future__ import annotations

from typing import Any

import numpy as np

from fl_impl.attacks.base import Array, stand_in
from fl_impl.attacks.registry import attack, resolve


@attack(
    knowledge="aggregator", source="sleepers, and the early and late attackers of Bagdasaryan et al. 2020 (arXiv 1807.00459)"
)
def waiting(
    honest: Array,
    f: int,
    rng: np.random.Generator,
    *,
    attack: str = "sign_flip",
    start: int = 10,
    rounds: int | None = None,
    own: Array | None = None,
    aggregate: Any = None,
    previous: Array | None = None,
    memory: dict[str, Array] | None = None,
    ids: Array | None = None,
) -> Array:
    """x_i, the attacker's honest update, in its first `start` rounds; then another attack, for so many `rounds` (None: all).

    Rounds count from the first in which they could attack. Where nothing is remembered, it is past the wait.
    """
    state: dict[str, Any] = {} if memory is None else memory
    passed = start if memory is None else int(state.get("waited", np.zeros(1, np.int64))[0])
    state["waited"] = np.array([passed + 1])
    if passed < start or (rounds is not None and passed >= start + rounds):
        return stand_in(honest, f) if own is None else own
    told = {"own": own, "aggregate": aggregate, "previous": previous, "memory": memory, "ids": ids}
    return resolve(attack).craft(honest, f, rng, **told)
