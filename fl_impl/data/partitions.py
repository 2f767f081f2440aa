"""How the rows of a data set are dealt to clients. A partition is a function (data, num_clients, rng) -> rows of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fl_impl.common.randomness import generator
from fl_impl.common.registry import Registry
from fl_impl.data.labelled import Array, Dataset

partition: Registry[Any] = Registry("a partition", package="fl_impl.data", group="pytest_fl.partitions")
"""Functions (data, num_clients, rng) -> list of row arrays; those decorated with it are known by their names."""
DRAWS: Final = 100
"""How often a partition that left a client without data is drawn anew."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Who holds which rows, and how uneven that is."""

    rows: tuple[Array, ...]
    """One array of row numbers for each client; together all rows, each once."""
    skew: tuple[float, ...]
    """For each client the total variation distance of its labels from all labels: 0 is alike, near 1 is disjoint."""
    draws: int = 1
    """How often it was drawn until no client was empty."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of samples of each client."""
        return tuple(len(rows) for rows in self.rows)

    def __str__(self) -> str:
        sizes = self.sizes
        return (
            f"{len(sizes)} clients with {min(sizes)} to {max(sizes)} samples (median {int(np.median(sizes))}), "
            f"label skew {np.mean(self.skew):.2f} (0 alike, 1 disjoint)"
        )


def deal(data: Dataset, num_clients: int, spec: str, seed: int) -> Partition:
    """The rows of each client under a spec such as "dirichlet(0.5)".

    A draw that leaves a client empty is redrawn, 100 times at most; then ValueError says which client and what to do.
    """
    if num_clients > len(data):
        raise ValueError(f"{num_clients} clients cannot share {len(data)} samples: each needs one at least")
    draw = partition.bind(spec)
    rows: list[Array] = []
    for attempt in range(DRAWS):
        rows = [np.sort(part) for part in draw(data, num_clients, generator(seed, "partition", attempt))]
        if all(len(part) for part in rows):
            return Partition(tuple(rows), tuple(label_skew(data, rows)), attempt + 1)
    empty = next(client for client, part in enumerate(rows) if not len(part))
    raise ValueError(
        f"partition {spec!r} left a client empty in {DRAWS} draws (client {empty} of {num_clients} in the last, with "
        f"{len(data)} samples): raise its parameter, or lower num_clients"
    )


def label_skew(data: Dataset, rows: list[Array]) -> list[float]:
    """For each client (1/2) sum_c |p_client(c) - p_all(c)|; 0 where the data have no classes."""
    if not data.classes:
        return [0.0] * len(rows)
    whole = np.bincount(data.y, minlength=data.classes) / len(data)
    parts = (np.bincount(data.y[part], minlength=data.classes) / len(part) for part in rows)
    return [float(np.abs(part - whole).sum() / 2) for part in parts]


def strata(data: Dataset) -> list[Array]:
    """The rows of each class; all rows as one class where there are none."""
    if not data.classes:
        return [np.arange(len(data))]
    return [np.flatnonzero(data.y == label) for label in range(data.classes)]


def cut(rows: Array, shares: Array) -> list[Array]:
    """The rows in consecutive pieces, as long as the shares say; together all of them."""
    return np.split(rows, np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int))


@partition
def iid(data: Dataset, num_clients: int, rng: np.random.Generator) -> list[Array]:
    """Shuffled and cut evenly: sizes differ by one at most."""
    return np.array_split(rng.permutation(len(data)), num_clients)


@partition
def dirichlet(data: Dataset, num_clients: int, rng: np.random.Generator, *, alpha: float) -> list[Array]:
    """Each class is shared out by a draw of Dirichlet(alpha, ..., alpha); small alpha is very uneven.

    Yurochkin et al. 2019 (arXiv 1905.12022); Hsu, Qi & Brown 2019 (arXiv 1909.06335) draw by client instead.
    """
    check_positive("dirichlet", alpha=alpha)
    dealt = [cut(rng.permutation(rows), rng.dirichlet(np.full(num_clients, alpha))) for rows in strata(data)]
    return [np.concatenate(parts) for parts in zip(*dealt, strict=True)]


@partition
def pathological(data: Dataset, num_clients: int, rng: np.random.Generator, *, k: int = 2) -> list[Array]:
    """Sorted by label and cut into k num_clients shards, k a client: about k classes each. McMahan et al. 2017."""
    check_positive("pathological", k=k)
    order = rng.permutation(len(data))
    order = order[np.argsort(data.y[order], kind="stable")]
    shards = np.array_split(order, k * num_clients)
    picked = rng.permutation(len(shards)).reshape(num_clients, k)
    return [np.concatenate([shards[shard] for shard in mine]) for mine in picked]


@partition
def quantity(data: Dataset, num_clients: int, rng: np.random.Generator, *, alpha: float) -> list[Array]:
    """Alike in labels, of sizes drawn from Dirichlet(alpha, ..., alpha)."""
    check_positive("quantity", alpha=alpha)
    return cut(rng.permutation(len(data)), rng.dirichlet(np.full(num_clients, alpha)))


@partition
def gamma_similarity(data: Dataset, num_clients: int, rng: np.random.Generator, *, gamma: float) -> list[Array]:
    """A share gamma of the rows iid, the rest sorted by label and cut. Karimireddy et al. 2020 (arXiv 1910.06378)."""
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma_similarity needs gamma from 0 to 1, got {gamma}")
    order = rng.permutation(len(data))
    alike, rest = np.split(order, [round(gamma * len(order))])
    rest = rest[np.argsort(data.y[rest], kind="stable")]
    parts = zip(np.array_split(alike, num_clients), np.array_split(rest, num_clients), strict=True)
    return [np.concatenate(pair) for pair in parts]


@partition
def natural(data: Dataset, num_clients: int, rng: np.random.Generator) -> list[Array]:
    """By person, where the data say whose they are; several people share a client where there are fewer clients."""
    if data.groups is None:
        raise ValueError(f'the data set {data.name!r} does not say whose samples they are: use "iid" or "dirichlet(0.5)"')
    people = rng.permutation(np.unique(data.groups))
    if num_clients > len(people):
        raise ValueError(f"{data.name!r} has {len(people)} people, so {len(people)} clients at most; got {num_clients}")
    return [np.flatnonzero(np.isin(data.groups, people[client::num_clients])) for client in range(num_clients)]


def check_positive(name: str, **options: float) -> None:
    """Raise ValueError for an option that is not above 0."""
    for option, value in options.items():
        if not value > 0:
            raise ValueError(f"{name} needs {option} above 0, got {value}")
