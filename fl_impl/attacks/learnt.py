"""Attacks on what was learnt from poisoned data: the update is scaled, or hidden where honest clients do not look."""

from __future__ import annotations

import math

import numpy as np

from fl_impl.attacks.base import Array
from fl_impl.attacks.data import backdoor, label_flip
from fl_impl.attacks.registry import attack
from fl_impl.attacks.updates import mean_of, repeated


@attack(
    knowledge="own",
    factor="gamma",
    before=label_flip,
    source="Bagdasaryan et al. 2020 (arXiv 1807.00459); FLPoison (gamma 50)",
)
def model_replacement(
    honest: Array, f: int, rng: np.random.Generator, *, gamma: float | None = None, own: Array | None = None
) -> Array:
    """gamma (X - G) for the attacker's model X and the global model G; gamma n/f puts the mean of all at X.

    X is what the attackers trained, on data that a stage before it poisoned: `label_flip` unless a pipe says another.
    Where nobody says what they trained, it is the model that undoes the honest step.
    """
    del rng
    boost = (len(honest) + f) / max(f, 1) if gamma is None else gamma
    return boost * (repeated(-mean_of(honest), f) if own is None else own)


@attack(
    knowledge="own",
    before=backdoor,
    source="Wang et al. 2022, Neurotoxin (arXiv 2206.10341); signed=True is FLPoison's mask",
)
def neurotoxin(
    honest: Array,
    f: int,
    rng: np.random.Generator,
    *,
    top: float = 0.1,
    signed: bool = False,
    own: Array | None = None,
    previous: Array | None = None,
) -> Array:
    """The attacker's update where the benign one is small: 0 on the share `top` of coordinates with the largest |g|.

    g is the last aggregate, or mu in the first round. The result is clipped to the median honest norm.
    """
    del rng
    benign = mean_of(honest) if previous is None else np.asarray(previous, np.float64)
    wanted = repeated(-mean_of(honest), f) if own is None else own
    size = benign if signed else np.abs(benign)
    kept = np.argsort(size, kind="stable")[: len(size) - math.ceil(top * len(size))]
    masked = np.zeros((f, len(size)))
    masked[:, kept] = wanted[:, kept]
    return clipped(masked, float(np.median(np.linalg.norm(honest, axis=1))))


def clipped(rows: Array, radius: float) -> Array:
    """Each row shortened to the radius where it is longer."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.minimum(1.0, radius / np.maximum(norms, np.finfo(np.float64).tiny))
