"""What a caller may hand to an aggregator, and how the result is given back in the same kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.vectors import COMPUTED, Vectors, narrowed

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeIs

    Matrix = npt.NDArray[np.floating] | torch.Tensor
    """(n, d), float32 or float64: numpy on the CPU; a tensor on another device or where a gradient is wanted. Rules that
    take `Vectors` may be given those instead, which have the shape, dtype and rows of such a matrix."""

FORMS = "an (n, d) numpy array, an (n, d) torch tensor, or a list of n vectors of length d"
APART: Final = 1 << 15
"""Numbers from which on a copy of them takes longer than looking up where each vector lies."""


@dataclass(frozen=True)
class Inputs:
    """n updates in the type that rules compute in, and the way back to the caller's type."""

    matrix: Matrix
    restore: Callable[[Any], Any]


def as_inputs(updates: object, *, native: bool = False, apart: bool = False) -> Inputs:
    """The (n, d) matrix to compute on: float32 or float64, never narrower, no copy where the input serves as it is.

    A tensor on the CPU of which no gradient is wanted is computed on through numpy's view of it, unless native.
    apart: whether `Vectors` do in place of the matrix, so that lists and 16-bit numbers need no copy either.
    Raises ValueError for anything but a non-empty, rectangular set of real vectors.
    """
    if is_tensor(updates):
        return _tensor(updates, native, apart=apart)
    if isinstance(updates, Sequence) and not isinstance(updates, str | bytes):
        return _stacked(updates, native, apart=apart)
    if hasattr(updates, "__array__"):
        return _array(np.asarray(updates), apart=apart)
    raise ValueError(f"updates must be {FORMS}; got {type(updates).__name__}")


def is_tensor(value: object) -> TypeIs[torch.Tensor]:
    """Whether value is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def wants_gradient(x: Matrix) -> bool:
    """Whether x is a tensor through which a gradient is to flow."""
    return is_tensor(x) and x.requires_grad


def without_gradient(x: Matrix) -> Matrix:
    """The same values, for what only looks at them."""
    return x.detach() if is_tensor(x) else x


def as_vector(value: object, like: Matrix, name: str) -> Matrix:
    """A context vector (`previous`, `root`) of length d, in the kind, dtype and device of the matrix `like`.

    Raises ValueError for another shape, and for NaN and infinity.
    """
    vector = _as_kind(value, like, name)
    if tuple(vector.shape) != (like.shape[1],):
        raise ValueError(
            f"{name} must be one vector of length d={like.shape[1]} as the updates are; got shape {tuple(vector.shape)}"
        )
    _check_finite(vector, name)
    return vector


def as_rows(value: object, like: Matrix, name: str) -> Matrix:
    """A context matrix (`history`) with one row a client, in the kind, dtype and device of the matrix `like`.

    Raises ValueError for another number of rows, and for NaN and infinity.
    """
    matrix = _as_kind(value, like, name)
    if len(matrix.shape) != 2 or len(matrix) != len(like):
        raise ValueError(f"{name} must have one row for each of the n={len(like)} clients; got shape {tuple(matrix.shape)}")
    _check_finite(matrix, name)
    return matrix


def generator(rng: np.random.Generator | None) -> np.random.Generator:
    """rng, or where none is given one with a fixed seed: the same input then gives the same output."""
    return np.random.default_rng(0) if rng is None else rng


def _check_finite(value: Any, name: str) -> None:
    if not bool((abs(value) < float("inf")).all()):
        raise ValueError(f"{name} must be finite; got {value!r}. It is the server's own: look where it was made")


def _as_kind(value: object, like: Matrix, name: str) -> Any:
    try:
        if is_tensor(like):
            return sys.modules["torch"].as_tensor(value, dtype=like.dtype, device=like.device)
        return np.asarray(value.detach().cpu().double() if is_tensor(value) else value, dtype=like.dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers as the updates are; got {type(value).__name__}: {error}") from error


def _stacked(rows: Sequence[Any], native: bool, *, apart: bool) -> Inputs:
    if not rows:
        raise ValueError(f"updates must be {FORMS}; got an empty {type(rows).__name__}: no client reported")
    _check_alike([_shape(row) for row in rows], "shape")
    tensors = [is_tensor(row) for row in rows]
    if all(tensors):
        _check_alike([row.dtype for row in rows], "dtype")
        _check_alike([row.device for row in rows], "device")
        return (_tensors_apart(rows, native) if apart else None) or _tensor(sys.modules["torch"].stack(list(rows)), native)
    if any(tensors):
        raise ValueError("updates must be all torch tensors or all numpy arrays; got a mixture: convert to one kind")
    _check_alike([row.dtype for row in rows if hasattr(row, "dtype")], "dtype")
    found = _arrays_apart(rows) if apart else None
    if found is not None:
        return Inputs(cast("Any", found), _restoring(rows[0].dtype))
    try:
        array = np.asarray(rows)
    except (TypeError, ValueError) as error:
        raise ValueError(f"updates must be {FORMS}; {error}") from error
    return _array(array)


def _shape(row: object) -> tuple[int, ...]:
    shape = getattr(row, "shape", None)
    if shape is not None:
        return tuple(shape)
    return (len(row),) if isinstance(row, Sequence) else ()


def _check_alike(facts: Sequence[object], what: str) -> None:
    odd = next((i for i, fact in enumerate(facts) if fact != facts[0]), None)
    if odd is not None:
        raise ValueError(f"all updates must have one {what}; row 0 has {facts[0]}, row {odd} has {facts[odd]}")


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"updates must be {FORMS}, with n >= 1 and d >= 1; got shape {shape}. "
            "Flatten the update of each client to one vector"
        )


def _array(array: npt.NDArray[Any], *, apart: bool = False) -> Inputs:
    _check_shape(array.shape)
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)  # as np.mean does
    if array.dtype.name not in ("float16", "float32", "float64"):
        raise ValueError(f"updates must be float16, float32 or float64; got {array.dtype}. Convert with .astype(numpy.float64)")
    dtype = array.dtype
    if apart and dtype == np.float16 and _lies_apart(array.size, array):
        return Inputs(cast("Any", Vectors(array, "float16")), _restoring(dtype))
    wide = array.astype(np.float32) if dtype == np.float16 else array
    return Inputs(_with_contiguous_rows(wide), _restoring(dtype))


def _restoring(dtype: Any) -> Callable[[Any], Any]:
    return lambda result: narrowed(np.asarray(result), dtype)


def _lies_apart(size: int, *parts: npt.NDArray[Any]) -> bool:
    """Whether kernels can read these where they are, and it is worth it: aligned, of this machine, side by side."""
    return size >= APART and all(
        part.strides[-1] == part.itemsize and part.flags.aligned and part.dtype.isnative for part in parts
    )


def _arrays_apart(rows: Sequence[Any]) -> Vectors | None:
    """The vectors of a list where they lie; None where they have to be copied, or looked at more closely."""
    first = rows[0]
    if not all(type(row) is np.ndarray and row.ndim == 1 for row in rows) or first.dtype.name not in COMPUTED:
        return None
    return Vectors(tuple(rows), first.dtype.name) if _lies_apart(len(rows) * len(first), *rows) else None


def _tensors_apart(rows: Sequence[Any], native: bool) -> Inputs | None:
    """As `_arrays_apart`, of tensors."""
    torch, first = sys.modules["torch"], rows[0]
    wanted = torch.is_grad_enabled() and any(row.requires_grad for row in rows)
    if native or wanted or first.ndim != 1 or not all(row.layout == torch.strided for row in rows):
        return None
    name = str(first.dtype).removeprefix("torch.")
    if first.device.type != "cpu" or name not in COMPUTED:
        return None
    arrays = [_viewed(row) for row in rows]
    if not _lies_apart(len(rows) * len(first), *arrays):
        return None
    dtype = first.dtype
    return Inputs(cast("Any", Vectors(tuple(arrays), name)), lambda result: torch.from_numpy(np.asarray(result)).to(dtype))


def _viewed(tensor: Any) -> npt.NDArray[Any]:
    """numpy's view of a tensor; of bfloat16, which numpy lacks, its bits."""
    torch = sys.modules["torch"]
    detached = tensor.detach().resolve_neg()
    return detached.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else detached.numpy()


def _tensor(tensor: Any, native: bool, *, apart: bool = False) -> Inputs:
    torch = sys.modules["torch"]
    _check_shape(tuple(tensor.shape))
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise ValueError(f"updates must be dense floating-point tensors; got {tensor.dtype}, {tensor.layout}")
    dtype, device = tensor.dtype, tensor.device
    if native or device.type != "cpu" or (tensor.requires_grad and torch.is_grad_enabled()):
        wide = tensor if dtype == torch.float64 else tensor.float()
        return Inputs(wide, lambda result: torch.as_tensor(result).to(dtype))
    name = str(dtype).removeprefix("torch.")
    if apart and name in ("float16", "bfloat16"):
        bits = _viewed(tensor)
        if _lies_apart(bits.size, bits):
            vectors = Vectors(bits, name)
            return Inputs(cast("Any", vectors), lambda result: torch.from_numpy(np.asarray(result)).to(dtype))
    wide = tensor if dtype == torch.float64 else tensor.float()
    matrix = _with_contiguous_rows(wide.detach().numpy())
    return Inputs(matrix, lambda result: torch.from_numpy(np.asarray(result)).to(dtype))


def _with_contiguous_rows(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array if array.strides[1] == array.itemsize else np.ascontiguousarray(array)
