"""What a caller may hand to an aggregator, and how the result is given back in the same kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeIs

    Matrix = npt.NDArray[np.floating] | torch.Tensor
    """(n, d), float32 or float64: numpy on the CPU; a tensor on another device or where a gradient is wanted."""

FORMS = "an (n, d) numpy array, an (n, d) torch tensor, or a list of n vectors of length d"


@dataclass(frozen=True)
class Inputs:
    """n updates in the type that rules compute in, and the way back to the caller's type."""

    matrix: Matrix
    restore: Callable[[Any], Any]


def as_inputs(updates: object, *, native: bool = False) -> Inputs:
    """The (n, d) matrix to compute on: float32 or float64, never narrower, no copy where the input serves as it is.

    A tensor on the CPU of which no gradient is wanted is computed on through numpy's view of it, unless native.
    Raises ValueError for anything but a non-empty, rectangular set of real vectors.
    """
    if is_tensor(updates):
        return _tensor(updates, native)
    if isinstance(updates, Sequence) and not isinstance(updates, str | bytes):
        return _stacked(updates, native)
    if hasattr(updates, "__array__"):
        return _array(np.asarray(updates))
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


def _stacked(rows: Sequence[Any], native: bool) -> Inputs:
    if not rows:
        raise ValueError(f"updates must be {FORMS}; got an empty {type(rows).__name__}: no client reported")
    _check_alike([_shape(row) for row in rows], "shape")
    tensors = [is_tensor(row) for row in rows]
    if all(tensors):
        _check_alike([row.dtype for row in rows], "dtype")
        _check_alike([row.device for row in rows], "device")
        return _tensor(sys.modules["torch"].stack(list(rows)), native)
    if any(tensors):
        raise ValueError("updates must be all torch tensors or all numpy arrays; got a mixture: convert to one kind")
    _check_alike([row.dtype for row in rows if hasattr(row, "dtype")], "dtype")
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


def _array(array: npt.NDArray[Any]) -> Inputs:
    _check_shape(array.shape)
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)  # as np.mean does
    if array.dtype.name not in ("float16", "float32", "float64"):
        raise ValueError(f"updates must be float16, float32 or float64; got {array.dtype}. Convert with .astype(numpy.float64)")
    dtype = array.dtype
    wide = array.astype(np.float32) if dtype == np.float16 else array
    return Inputs(_with_contiguous_rows(wide), lambda result: np.asarray(result).astype(dtype, copy=False))


def _tensor(tensor: Any, native: bool) -> Inputs:
    torch = sys.modules["torch"]
    _check_shape(tuple(tensor.shape))
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise ValueError(f"updates must be dense floating-point tensors; got {tensor.dtype}, {tensor.layout}")
    dtype, device = tensor.dtype, tensor.device
    wide = tensor if dtype == torch.float64 else tensor.float()
    if native or device.type != "cpu" or (tensor.requires_grad and torch.is_grad_enabled()):
        return Inputs(wide, lambda result: torch.as_tensor(result).to(dtype))
    matrix = _with_contiguous_rows(wide.detach().numpy())
    return Inputs(matrix, lambda result: torch.from_numpy(np.asarray(result)).to(dtype))


def _with_contiguous_rows(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array if array.strides[1] == array.itemsize else np.ascontiguousarray(array)
