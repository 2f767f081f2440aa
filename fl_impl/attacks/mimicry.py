"""Mimic: every Byzantine client copies one honest client, so that its data count f + 1 times."""

from __future__ import annotations

from typing import Any

import numpy as np

from fl_impl.attacks.base import Array
from fl_impl.attacks.registry import attack
from fl_impl.attacks.updates import direction, mean_of, repeated


@attack(source="Karimireddy, He & Jaggi 2022 (arXiv 2006.09365), Section 4; target=0 is ByzFL's")
def mimic(
    honest: Array,
    f: int,
    rng: np.random.Generator,
    *,
    target: int | None = None,
    warmup: int = 3,
    memory: dict[str, Array] | None = None,
    ids: Array | None = None,
) -> Array:
    """x_{i*}, i* the honest client farthest along z, the direction in which honest clients differ most.

    In `warmup` rounds Oja's rule learns z and <z, x_i - mu> is summed for each client; from then on i* stays. A target
    fixes the row. Where nothing is remembered from round to round, z and i* are those of the round.
    """
    del rng
    if target is not None:
        return repeated(honest[target], f)
    state: dict[str, Any] = {} if memory is None else memory
    names = np.arange(len(honest)) if ids is None else np.asarray(ids)
    rounds = int(state.get("rounds", np.zeros(1))[0])
    if rounds < max(warmup, 1):
        learn(honest, names, state)
        state["rounds"] = np.array([rounds + 1])
    return repeated(honest[int(np.argmax(np.abs(sums_of(names, state))))], f)


def learn(honest: Array, names: Array, state: dict[str, Any]) -> None:
    """One step: turn z towards the rows that differ most, and add each row's part along z to its client's sum."""
    centred = honest - mean_of(honest)
    z = oja(centred, state.get("z"))
    total = dict(zip(state.get("clients", np.zeros(0, int)).tolist(), state.get("sums", np.zeros(0)).tolist(), strict=True))
    for name, part in zip(names.tolist(), (centred @ z).tolist(), strict=True):
        total[name] = total.get(name, 0.0) + part
    state.update(z=z, clients=np.array(list(total)), sums=np.array(list(total.values())))


def oja(centred: Array, z: Array | None) -> Array:
    """z + sum_i <z, x_i> x_i / sum_i ||x_i||^2, at length one; the first z is the longest row's direction."""
    if z is None:
        z = direction(centred[int(np.argmax((centred**2).sum(axis=1)))])
    return direction(z + centred.T @ (centred @ z) / max(float((centred**2).sum()), np.finfo(np.float64).tiny))


def sums_of(names: Array, state: dict[str, Any]) -> Array:
    """(n-f,): what was summed for each of these clients; 0 for one that the warm-up did not meet."""
    total = dict(zip(state["clients"].tolist(), state["sums"].tolist(), strict=True))
    return np.array([total.get(name, 0.0) for name in names.tolist()])
