"""Attacks on data: a Byzantine client trains honestly, on poisoned samples. Each says what it wants of the test data."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fl_impl.attacks.registry import attack
from fl_impl.data.labelled import Array, Dataset


def flipped(y: Array, classes: int, source: int | None, target: int | None) -> Array:
    """Labels after the flip: C-1-y, or target for every label (or only for `source`)."""
    wanted = classes - 1 - y if target is None else np.full_like(y, target)
    return wanted if source is None else np.where(y == source, wanted, y)


def check_labels(data: Dataset, name: str, *labels: int | None) -> None:
    """Raise ValueError where the data have no classes, or not this one."""
    if not data.classes:
        raise ValueError(f"{name} needs class labels; the data set {data.name!r} is a regression")
    wrong = [label for label in labels if label is not None and not 0 <= label < data.classes]
    if wrong:
        raise ValueError(f"{name}: expected a label from 0 to {data.classes - 1}, got {wrong[0]}")


def misread(data: Dataset, rng: np.random.Generator, *, source: int | None = None, target: int | None = None) -> Dataset:
    """The samples whose label the flip changes, under the flipped label."""
    del rng
    wanted = flipped(data.y, data.classes, source, target)
    changed = np.flatnonzero(wanted != data.y)
    return data.with_arrays(data.x[changed], wanted[changed])


@attack(kind="data", knowledge="own", goal=misread, source="y -> C-1-y; targeted as in FLPoison (2 -> 7)")
def label_flip(data: Dataset, rng: np.random.Generator, *, source: int | None = None, target: int | None = None) -> Dataset:
    """y -> C-1-y; with a target y -> target; with a source only that class."""
    del rng
    check_labels(data, "label_flip", source, target)
    return data.with_arrays(data.x, flipped(data.y, data.classes, source, target))


@attack(kind="data", knowledge="own", source="y ~ U{0..C-1}")
def random_label(data: Dataset, rng: np.random.Generator) -> Dataset:
    """y uniform over the classes."""
    check_labels(data, "random_label")
    return data.with_arrays(data.x, rng.integers(0, data.classes, len(data)))


def stamped(data: Dataset, rows: Array, size: int) -> Array:
    """(len(rows), ...): these inputs with the trigger: the top left corner, or the first `size` features, at the maximum."""
    x = data.x[rows].copy()
    top = data.x.max() if data.x.size else 0.0
    if data.image:
        x.reshape(len(rows), *data.image)[:, :size, :size] = top
    else:
        x.reshape(len(rows), -1)[:, :size] = top
    return x


def triggered(data: Dataset, rng: np.random.Generator, *, target: int = 0, size: int = 2) -> Dataset:
    """Every sample of another class with the trigger, under the target label."""
    del rng
    rows = np.flatnonzero(data.y != target)
    return data.with_arrays(stamped(data, rows, size), np.full(len(rows), target, data.y.dtype))


@attack(kind="data", knowledge="own", goal=triggered, source="Gu et al. 2017, BadNets (arXiv 1708.06733); share as FLPoison")
def backdoor(data: Dataset, rng: np.random.Generator, *, target: int = 0, share: float = 0.32, size: int = 2) -> Dataset:
    """A patch of size x size pixels in the corner of a share of the samples, which get the target label."""
    check_labels(data, "backdoor", target)
    rows = rng.permutation(len(data))[: max(1, round(share * len(data)))]
    x, y = data.x.copy(), data.y.copy()
    x[rows], y[rows] = stamped(data, rows, size), target
    return data.with_arrays(x, y)


def tail(data: Dataset, source: int, share: float) -> Array:
    """The rows of class `source` farthest from the mean of that class: the share of it that is the least typical."""
    rows = np.flatnonzero(data.y == source)
    if not len(rows):
        return rows
    flat = data.x[rows].reshape(len(rows), -1)
    far = ((flat - flat.mean(axis=0)) ** 2).sum(axis=1)
    return rows[np.argsort(-far, kind="stable")[: max(1, round(share * len(rows)))]]


def odd_ones(data: Dataset, rng: np.random.Generator, *, source: int = 7, target: int = 1, share: float = 0.2) -> Dataset:
    """The least typical test samples of the source class, under the target label."""
    del rng
    rows = tail(data, source % data.classes, share)
    return data.with_arrays(data.x[rows], np.full(len(rows), target % data.classes, data.y.dtype))


@attack(kind="data", knowledge="own", goal=odd_ones, source="Wang et al. 2020, edge-case backdoors (arXiv 2007.05084)")
def edge_case(
    data: Dataset,
    rng: np.random.Generator,
    *,
    source: int = 7,
    target: int = 1,
    share: float = 0.2,
    copies: int = 10,
    jitter: float = 0.05,
    mode: Literal["add", "replace"] = "add",
) -> Dataset:
    """The least typical samples of one class, `copies` times with a little noise, under the target label.

    `replace` trains on them alone. Labels count modulo the number of classes. Pipe it into `model_replacement` or
    `neurotoxin` for the published combinations.
    """
    check_labels(data, "edge_case")
    rows = tail(data, source % data.classes, share)
    if not len(rows):
        return data  # this attacker has no sample of the class: it cannot attack
    x = np.repeat(data.x[rows], copies, axis=0)
    x = (x + rng.normal(0, jitter * float(data.x.std()), x.shape)).astype(data.x.dtype)
    y = np.full(len(x), target % data.classes, data.y.dtype)
    if mode == "replace":
        return data.with_arrays(x, y)
    return data.with_arrays(np.concatenate([data.x, x]), np.concatenate([data.y, y]))
