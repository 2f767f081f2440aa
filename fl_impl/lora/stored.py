"""Adapters that lie on disk, read a module at a time: what is in memory does not depend on how many there are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.files.tensors import FLOATING, STORED, Tensor, open_tensors, read_into, widened
from fl_impl.lora.folders import CONFIG, WEIGHTS
from fl_impl.lora.keys import Pair, check_kind, pairs, scale_of, whole

Reals = npt.NDArray[np.float64]
TOGETHER: Final = 2**18
"""Numbers of one side of a tile that are in memory together: 2 MB in float64."""
OVERSAMPLED: Final = 10
"""Random directions beyond the rank in a randomised SVD of a module's sum."""
ROWS: Final = 512
"""Rows of one side of a tile, since a tile of inner products has as many squared."""


@dataclass(frozen=True)
class AdapterLayout:
    """The tensors of a file, which adapters written alike share: beside theirs, n headers would be what memory grows by."""

    tensors: Mapping[str, Tensor]
    modules: Mapping[str, Pair]
    whole: tuple[str, ...]

    def is_of(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether another file has the same tensors in the same places."""
        return self.tensors.keys() == tensors.keys() and all(
            (one.dtype, one.shape, one.offset) == (two.dtype, two.shape, two.offset)
            for one, two in ((self.tensors[name], two) for name, two in tensors.items())
        )


@dataclass(frozen=True)
class Stored:
    """One adapter folder: its configuration, and where its tensors lie."""

    folder: Path
    config: Mapping[str, Any]
    layout: AdapterLayout

    @property
    def modules(self) -> Mapping[str, Pair]:
        """The keys of the factors by module."""
        return self.layout.modules

    @property
    def whole(self) -> tuple[str, ...]:
        """The keys of all that is trained as a whole, floating-point tensors."""
        return self.layout.whole

    def rank(self, module: str) -> int:
        """Of the factors of a module."""
        return self.layout.tensors[self.modules[module].a].shape[0]

    def shape(self, module: str) -> tuple[int, int]:
        """(m, k) of the product; a kernel of a convolution counts into k."""
        pair, rank = self.modules[module], self.rank(module)
        return self.layout.tensors[pair.b].size // rank, self.layout.tensors[pair.a].size // rank

    def scale(self, module: str) -> float:
        """What multiplies B A."""
        return scale_of(self.config, module, self.rank(module))

    def factors(self, module: str) -> tuple[Reals, Reals]:
        """(r, m) and (r, k): the transpose of scale B, and A, in float64."""
        pair, rank = self.modules[module], self.rank(module)
        up = self.numbers(pair.b).reshape(-1, rank).T * self.scale(module)
        return up, self.numbers(pair.a).reshape(rank, -1)

    def numbers(self, key: str, start: int = 0, stop: int | None = None) -> Reals:
        """Numbers start to stop of a tensor, flat."""
        tensor = self.layout.tensors[key]
        raw = np.empty((tensor.size if stop is None else stop) - start, STORED[tensor.dtype])
        with (self.folder / WEIGHTS).open("rb", buffering=0) as file:
            read_into(file, tensor, start, raw)
        return widened(raw, tensor.dtype).astype(np.float64)


def open_folders(folders: Sequence[str | Path]) -> list[Stored]:
    """Adapter folders; those that are written alike share what says where their tensors lie."""
    opened = list[Stored]()
    for folder in folders:
        opened.append(open_folder(folder, opened[0] if opened else None))
    return opened


def open_folder(folder: str | Path, like: Stored | None = None) -> Stored:
    """An adapter folder as peft and `LoRAFLAdapter.save` write it. Raises ValueError for what is none, with the reason."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} is no adapter folder: it needs {CONFIG} and {WEIGHTS}, as save() and peft write them")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    tensors = open_tensors(folder / WEIGHTS).tensors
    if like is not None and like.config == config and like.layout.is_of(tensors):
        return replace(like, folder=folder)
    check_kind(config, folder)
    return Stored(folder, config, layout_of(folder, tensors))


def layout_of(folder: Path, tensors: Mapping[str, Tensor]) -> AdapterLayout:
    """The layout of a file. Raises ValueError for factors that have no product, and for what is not of real numbers."""
    found = {pair.module: pair for pair in pairs(tensors, str(folder))}
    for pair in found.values():
        b, a = (tensors[key].shape for key in (pair.b, pair.a))
        if len(b) < 2 or len(a) < 2 or b[1] != a[0] or 0 in (*b, *a):
            raise ValueError(f"{folder}: {pair.b} of shape {b} and {pair.a} of shape {a} have no product")
    for key, tensor in tensors.items():
        if tensor.dtype not in FLOATING:
            raise ValueError(f"{folder}: {key} is of type {tensor.dtype}; adapters are of real numbers")
    return AdapterLayout(tensors, found, whole(tensors))


def check_alike(clients: Sequence[Stored]) -> None:
    """Raise ValueError, with both folders, unless all adapt the same modules and save the same tensors; ranks may differ."""
    first = clients[0]
    for client in clients[1:]:
        odd = sorted((first.modules.keys() ^ client.modules.keys()) or (set(first.whole) ^ set(client.whole)))
        if odd:
            where = first.folder if odd[0] in {*first.modules, *first.whole} else client.folder
            raise ValueError(
                f"all adapters must have the same modules and tensors; of {first.folder} and {client.folder} only "
                f"{where} has {odd[0]}"
            )
        for module in first.modules:
            if first.shape(module) != client.shape(module):
                raise ValueError(
                    f"{client.folder}: the product of {module} must have shape {first.shape(module)}, as in "
                    f"{first.folder}; got {client.shape(module)}"
                )
        for key in first.whole:
            shapes = first.layout.tensors[key].shape, client.layout.tensors[key].shape
            if shapes[0] != shapes[1]:
                raise ValueError(f"{client.folder}: {key} must have shape {shapes[0]}, as in {first.folder}; got {shapes[1]}")


def product_gram(clients: Sequence[Stored]) -> Reals:
    """(n, n) inner products of the products, summed over modules: tiles of clients by clients, each read when needed."""
    total = np.zeros((len(clients), len(clients)))
    with np.errstate(over="ignore", invalid="ignore"):
        for module in clients[0].modules:
            tiles = list(tiled(clients, module))
            for one, rows in enumerate(tiles):
                ups, downs, firsts = side_by_side(clients, rows, module)
                for columns in tiles[one:]:
                    same = columns is rows
                    other = (ups, downs, firsts) if same else side_by_side(clients, columns, module)
                    between = (ups @ other[0].T) * (downs @ other[1].T)
                    between = np.add.reduceat(np.add.reduceat(between, firsts, axis=0), other[2], axis=1)
                    total[np.ix_(rows, columns)] += between
                    if not same:
                        total[np.ix_(columns, rows)] += between.T
    return total


def tiled(clients: Sequence[Stored], module: str) -> Iterator[list[int]]:
    """Numbers of clients whose factors of a module are in memory together: at least one."""
    width = sum(clients[0].shape(module))
    most = max(1, min(ROWS, TOGETHER // width))
    rows, room = list[int](), most
    for number, client in enumerate(clients):
        if rows and client.rank(module) > room:
            yield rows
            rows, room = [], most
        rows.append(number)
        room -= client.rank(module)
    yield rows


def side_by_side(clients: Sequence[Stored], rows: Sequence[int], module: str) -> tuple[Reals, Reals, npt.NDArray[np.intp]]:
    """The factors of some clients, (sum r, m) and (sum r, k), and the first row of each client."""
    ranks, (m, k) = [clients[number].rank(module) for number in rows], clients[0].shape(module)
    firsts = np.cumsum([0, *ranks[:-1]])
    ups, downs = np.empty((sum(ranks), m)), np.empty((sum(ranks), k))
    for number, first, rank in zip(rows, firsts.tolist(), ranks, strict=True):
        ups[first : first + rank], downs[first : first + rank] = clients[number].factors(module)
    return ups, downs, firsts


def whole_gram(clients: Sequence[Stored], start: Stored | None = None) -> Reals:
    """(n, n) inner products of what is saved whole, minus that of the start where there is one, by blocks of numbers."""
    n, first = len(clients), clients[0]
    total, width = np.zeros((n, n)), max(1, TOGETHER // n)
    with np.errstate(over="ignore", invalid="ignore"):
        for key in first.whole:
            for at, end in blocks(first.layout.tensors[key].size, width):
                rows = np.stack([client.numbers(key, at, end) for client in clients])
                rows -= 0.0 if start is None else start.numbers(key, at, end)
                total += rows @ rows.T
    return total


def blocks(size: int, width: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of pieces of at most `width`."""
    for at in range(0, size, width):
        yield at, min(size, at + width)
