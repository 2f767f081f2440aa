"""Attacks on the protocol: a Byzantine client lies about its count, keeps silent, or answers with an old update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fl_impl.attacks.registry import attack


@attack(kind="protocol", knowledge="own", source="count inflation against weighted averaging (McMahan et al. 2017 weights)")
def inflated_count(update: Any, rng: np.random.Generator, *, count: int = 10**9) -> Any:
    """Claims `count` samples: a weighted mean then follows this client alone. Pipe another attack into it to use that."""
    del rng
    return replace(update, num_samples=count)


@attack(kind="protocol", knowledge="blind", source="a crash, or a refusal to answer")
def drop_out(update: Any, rng: np.random.Generator, *, probability: float = 1.0) -> Any:
    """Sends nothing, with some probability."""
    return None if rng.random() < probability else update


@attack(kind="protocol", knowledge="own", source="a replayed update: the straggler that does not say it is one")
def stale(update: Any, rng: np.random.Generator, *, delay: int = 1, memory: dict[str, Any] | None = None) -> Any:
    """Sends its update of `delay` rounds ago as if it were new; its first one as long as it is younger than that."""
    del rng
    if memory is None:
        return update
    name = f"sent/{update.client}"
    past = np.concatenate([memory[name], [update.delta]]) if name in memory else np.array([update.delta])
    memory[name] = past[-delay - 1 :]
    return replace(update, delta=memory[name][0])
