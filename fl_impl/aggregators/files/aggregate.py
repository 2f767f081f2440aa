"""`aggregate_files`: any rule that ranks or distances decide, over files that together need not fit into memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.base import Aggregator
from fl_impl.aggregators.columns import OnColumns, on_columns
from fl_impl.aggregators.files.tensors import (
    FLOATING,
    STORED,
    Tensor,
    TensorFile,
    Written,
    narrowed,
    open_tensors,
    read_into,
    widened,
    written_whole,
)
from fl_impl.aggregators.kernels import Geometry, Unfit, geometry
from fl_impl.aggregators.registry import resolve

UNITS: Final = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
LARGEST: Final = 1e280
"""Squared distances beyond this are no longer added up."""
Progress = Callable[[int, int], None]
"""(bytes read so far, bytes to read in all passes)."""


@dataclass(frozen=True)
class Piece:
    """Numbers `start` to `stop` of a tensor, in C order: columns of the (n, d) matrix of the updates."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Block:
    """Pieces of one stored type that are read together, one row a client."""

    dtype: str
    pieces: tuple[Piece, ...]

    @property
    def columns(self) -> int:
        """Columns of the matrix that is read."""
        return sum(piece.stop - piece.start for piece in self.pieces)


def aggregate_files(
    paths: Sequence[str | Path],
    rule: Any = "trimmed_mean",
    f: int = 0,
    out: str | Path = "global.safetensors",
    *,
    memory: str | int = "2GB",
    progress: Progress | None = None,
) -> Path:
    """Aggregate the tensors of n files, of which up to f are from Byzantine clients, into one file.

    `paths`: .safetensors files, or .safetensors.index.json for shards, that hold tensors of the same names, shapes and
    types. `rule`: what `resolve` takes, if ranks or distances decide it: one pass over the files for ranks, two for
    distances, which add up over blocks of columns. `memory`: what the blocks in work may take, "256MB", "2GiB" or bytes.
    Names, shapes, types and metadata of the first file are kept; floating-point tensors are aggregated by the rule, all
    of them as one vector; of integers and booleans the lower median of each entry is taken, which is one that a client
    sent. For rules by rank the numbers are those of the rule in memory, to the bit.

    Returns the path of the result, which appears only when it is whole. Raises ValueError for files that do not fit
    together, an inadmissible (n, f), more than f files with NaN or infinity, and a rule that needs whole updates.
    """
    chosen = resolve(rule)
    clients = [open_tensors(path) for path in paths]
    check_alike(clients)
    f = chosen.check_clients(len(clients), f)
    work = _Work(clients, chosen, f, bytes_of(memory), progress)
    target = Path(out)
    first = clients[0]
    with ExitStack() as stack:
        work.opened(stack)
        kept, left = list(range(len(clients))), f
        try:
            columns = work.prepared(kept, left)
            work.write(target, first, columns, kept)
        except Unfit:
            kept, left = work.finite(f)
            try:
                columns = work.prepared(kept, left)
                work.write(target, first, columns, kept)
            except Unfit:
                raise ArithmeticError(
                    f"{chosen.spec}: the updates span more than floating point holds; aggregate the extreme tensors in memory"
                ) from None
    return target


class _Work:
    """The passes over the files of one call."""

    def __init__(self, clients: Sequence[TensorFile], rule: Aggregator, f: int, memory: int, progress: Progress | None) -> None:
        self.clients, self.rule, self.f, self.progress = clients, rule, f, progress
        self.blocks = list(blocks_of(list(clients[0].tensors.values()), len(clients), memory))
        self.bytes = sum(tensor.size * tensor.itemsize for tensor in clients[0].tensors.values()) * len(clients)
        widest = max(block.columns * np.dtype(STORED[block.dtype]).itemsize for block in self.blocks)
        self.buffer = np.empty(len(clients) * widest, np.uint8)  # one for all blocks: fresh memory costs as much as reading
        self.done, self.passes = 0, 1
        self.files: dict[Path, BinaryIO] = {}

    def opened(self, stack: ExitStack) -> None:
        """Open every file once."""
        for client in self.clients:
            for tensor in client.tensors.values():
                if tensor.file not in self.files:
                    self.files[tensor.file] = stack.enter_context(tensor.file.open("rb", buffering=0))

    def prepared(self, kept: Sequence[int], f: int) -> OnColumns:
        """The rule on columns of these clients; where it asks for distances, that is a pass over the files."""

        @cache
        def distances() -> Geometry:
            self.passes += 1
            total = np.zeros((len(kept), len(kept)))
            for block in self.blocks:
                if block.dtype in FLOATING:
                    total += geometry(self.matrix(block, kept)).distances
            if total.max() > LARGEST:
                raise Unfit
            return Geometry(total)

        return on_columns(self.rule, len(kept), f, distances)

    def write(self, target: Path, first: TensorFile, columns: OnColumns, kept: Sequence[int]) -> None:
        """The last pass: aggregate each block and put it into the file."""
        with written_whole(target, list(first.tensors.values()), first.metadata) as file:
            for block in self.blocks:
                matrix = self.matrix(block, kept)
                result = columns(matrix) if block.dtype in FLOATING else lower_median(matrix)
                self.put(file, block, first, narrowed(np.asarray(result), block.dtype))

    def put(self, file: Written, block: Block, first: TensorFile, values: npt.NDArray[Any]) -> None:
        """Each piece of a block to its place."""
        at = 0
        for piece in block.pieces:
            width = piece.stop - piece.start
            file.put(first.tensors[piece.name], piece.start, values[at : at + width])
            at += width

    def matrix(self, block: Block, kept: Sequence[int]) -> npt.NDArray[Any]:
        """(n, columns): a block of these clients, in the type that rules compute in."""
        size = len(kept) * block.columns
        stored = self.buffer[: size * np.dtype(STORED[block.dtype]).itemsize].view(STORED[block.dtype])
        stored = stored.reshape(len(kept), block.columns)
        for row, number in zip(stored, kept, strict=True):
            at = 0
            for piece in block.pieces:
                tensor, width = self.clients[number].tensors[piece.name], piece.stop - piece.start
                read_into(self.files[tensor.file], tensor, piece.start, row[at : at + width])
                at += width
        self.done += stored.nbytes
        if self.progress:
            self.progress(min(self.done, self.passes * self.bytes), self.passes * self.bytes)
        return widened(stored, block.dtype)

    def finite(self, f: int) -> tuple[list[int], int]:
        """The clients whose numbers are all finite, and how many of them may still be Byzantine: a pass over the files."""
        self.passes += 2
        sound = np.ones(len(self.clients), bool)
        for block in self.blocks:
            if block.dtype in FLOATING:
                sound &= np.isfinite(self.matrix(block, range(len(self.clients)))).all(axis=1)
        bad = np.flatnonzero(~sound)
        names = ", ".join(str(self.clients[i].path) for i in bad[:5]) + (", ..." if len(bad) > 5 else "")
        if len(bad) and not self.rule.defended:
            raise ValueError(f"{self.rule.spec} takes finite updates only, and {names} hold NaN or infinity: drop them")
        if len(bad) > f:
            raise ValueError(
                f"{self.rule.spec}: {len(bad)} files hold NaN or infinity ({names}), more than the f={f} Byzantine clients "
                "that it was told of. Raise f, or look at those clients"
            )
        return np.flatnonzero(sound).tolist(), f - len(bad)


def lower_median(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(columns,): the lower median of each column, one of the values that stand there: for counters and flags."""
    middle = (len(values) - 1) // 2
    return np.partition(values, middle, axis=0)[middle]


def blocks_of(tensors: Sequence[Tensor], n: int, memory: int) -> Iterator[Block]:
    """All columns of n clients in blocks that fit into `memory` bytes while they are worked on, a stored type at a time."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        itemsize = np.dtype(STORED[dtype]).itemsize
        wide = 4 if dtype in ("F16", "BF16") else 0
        # What was read, a widened copy of it, the result; half as much again for what the rule itself puts aside.
        columns = max(int(memory / (1.5 * n * (itemsize + wide) + 16)), 1)
        pieces, room = list[Piece](), columns
        for tensor in tensors:
            start = 0
            while tensor.dtype == dtype and start < tensor.size:
                stop = min(tensor.size, start + room)
                pieces.append(Piece(tensor.name, start, stop))
                room -= stop - start
                start = stop
                if room == 0:
                    yield Block(dtype, tuple(pieces))
                    pieces, room = [], columns
        if pieces:
            yield Block(dtype, tuple(pieces))


def check_alike(clients: Sequence[TensorFile]) -> None:
    """Raise ValueError, with both files, unless all hold tensors of the same names, shapes and types, at least one."""
    if not clients:
        raise ValueError("expected files to aggregate, got none: no client reported")
    first = clients[0]
    if not any(tensor.dtype in FLOATING and tensor.size for tensor in first.tensors.values()):
        raise ValueError(f"{first.path}: holds no floating-point numbers to aggregate")
    for client in clients[1:]:
        odd = sorted(first.tensors.keys() ^ client.tensors.keys())
        if odd:
            raise ValueError(f"all files must hold the same tensors; {odd[0]} is in only one of {first.path} and {client.path}")
        for name, tensor in first.tensors.items():
            other = client.tensors[name]
            if (other.shape, other.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(
                    f"all files must hold {name} alike; it is {list(tensor.shape)} of {tensor.dtype} in {first.path}, "
                    f"{list(other.shape)} of {other.dtype} in {client.path}"
                )


def bytes_of(memory: str | int) -> int:
    """Bytes of "256MB", "2GiB", "1e9" or a number. Raises ValueError for what is none, or less than a mebibyte."""
    parts = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([kmg]i?b)?\s*", str(memory).lower())
    try:
        amount = int(float(parts[1]) * UNITS[parts[2] or ""]) if parts else -1
    except ValueError:
        amount = -1
    if amount < 2**20:
        raise ValueError(f'expected an amount of memory of 1 MiB at least, such as "256MB" or "2GiB"; got {memory!r}')
    return amount
