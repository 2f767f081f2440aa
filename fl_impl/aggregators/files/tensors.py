"""Tensor files read and written in pieces: safetensors, one file or shards with an index; nothing is held as a whole.

The format is a little-endian uint64, the length of a JSON header, then that header, then the tensors as plain bytes in C
order. Reading pieces by offset keeps resident memory at the size of the piece, which a memory map does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

STORED: Final = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "|u1",
}  # fmt: skip
"""Type names of the format -> how numpy reads the bytes; bfloat16 as its bits."""
FLOATING: Final = frozenset({"F64", "F32", "F16", "BF16"})
LONGEST_HEADER: Final = 100_000_000
"""Bytes; the limit of the format."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies."""

    name: str
    dtype: str
    """As the format names it: "F32", "BF16", "I64", ..."""
    shape: tuple[int, ...]
    file: Path
    offset: int
    """Of its first byte in the file."""

    @property
    def size(self) -> int:
        """Numbers in it."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(STORED[self.dtype]).itemsize


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one client, by name, in the order in which they are stored, and the texts stored beside them."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def open_tensors(path: str | Path) -> TensorFile:
    """The tensors of a .safetensors file, or of the shards that a .safetensors.index.json names.

    Raises ValueError for another kind of file, a header that is none, or bytes that are missing; OSError where it cannot
    be read.
    """
    path = Path(path)
    if path.name.endswith(".safetensors.index.json"):
        return _sharded(path)
    if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"):
        raise ValueError(
            f"{path}: a torch or pickle file runs code when it is read, so files of strangers are not; expected "
            ".safetensors. Its owner converts it with safetensors.torch.save_file(state_dict, path)"
        )
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a .safetensors file or a .safetensors.index.json")
    return _single(path)


def _single(path: Path) -> TensorFile:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise ValueError(f"{path}: not a safetensors file: it says a header of {length} bytes and has {size} in all")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            tensors = [_tensor(path, 8 + length, name, entry) for name, entry in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a safetensors file: its header cannot be read ({error})") from error
    ordered = sorted(tensors, key=lambda tensor: tensor.offset)
    for tensor in ordered:
        if tensor.offset + tensor.size * tensor.itemsize > size:
            raise ValueError(f"{path}: {tensor.name} ends beyond the end of the file: it was cut at {size} bytes")
    return TensorFile(path, {tensor.name: tensor for tensor in ordered}, metadata)


def _tensor(path: Path, start: int, name: str, entry: Mapping[str, Any]) -> Tensor:
    dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in STORED:
        raise ValueError(f"{name} has type {dtype}; expected one of {', '.join(STORED)}")
    if any(not isinstance(side, int) or side < 0 for side in shape) or first < 0:
        raise ValueError(f"{name} has shape {list(shape)} at {first}")
    tensor = Tensor(name, dtype, shape, path, start + first)
    if last - first != tensor.size * tensor.itemsize:
        raise ValueError(f"{name}: {last - first} bytes for {list(shape)} of {dtype}")
    return tensor


def _sharded(path: Path) -> TensorFile:
    try:
        places: dict[str, str] = json.loads(path.read_text())["weight_map"]
        shards = {name: _single(path.parent / Path(name).name) for name in dict.fromkeys(places.values())}
        tensors = {name: shards[shard].tensors[name] for name, shard in places.items()}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not an index of shards: expected a weight_map of tensor names to files ({error})") from error
    return TensorFile(path, tensors, next(iter(shards.values())).metadata if shards else {})


def read_into(file: BinaryIO, tensor: Tensor, start: int, out: npt.NDArray[Any]) -> None:
    """Fill out, a contiguous array of the stored type, with the numbers from number `start` on (in C order)."""
    file.seek(tensor.offset + start * tensor.itemsize)
    view = out.data.cast("B")
    if file.readinto(view) != len(view):  # type: ignore[attr-defined]  # raw files have it, BinaryIO does not say so
        raise ValueError(f"{tensor.file}: shorter than when it was opened, at {tensor.name}")


def widened(stored: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Stored numbers in the type that rules compute in: float32 for half precisions, else as they are."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32) if dtype == "F16" else stored


def narrowed(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Computed numbers as they are stored, rounded to nearest, ties to even."""
    if dtype != "BF16":
        return values.astype(STORED[dtype], copy=False)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class Written:
    """A safetensors file being written piece by piece beside its place, and put there when it is whole."""

    def __init__(self, file: BinaryIO, tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> None:
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        end = 0
        for tensor in tensors:
            start, end = end, end + tensor.size * tensor.itemsize
            header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        self._file, self._start = file, 8 + len(text)
        self._offsets: dict[str, int] = {tensor.name: header[tensor.name]["data_offsets"][0] for tensor in tensors}

    def put(self, tensor: Tensor, start: int, values: npt.NDArray[Any]) -> None:
        """Write stored numbers from number `start` of the tensor on."""
        self._file.seek(self._start + self._offsets[tensor.name] + start * tensor.itemsize)
        self._file.write(np.ascontiguousarray(values).data.cast("B"))


@contextmanager
def written_whole(path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> Generator[Written]:
    """A file that appears under its name only when all of it is on the disk: killed at any moment, the old one stays."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield Written(file, tensors, metadata)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
