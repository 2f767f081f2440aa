"""Kernels in plain torch operations: on the device where the tensor lies, and differentiable."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from fl_impl.aggregators.kernels.formulas import Formula, reference
from fl_impl.aggregators.kernels.geometry import Geometry, symmetric
from fl_impl.aggregators.kernels.unfit import Unfit
from fl_impl.aggregators.vectors import FloatArray

COLUMNS: Final = 1 << 16


@dataclass(frozen=True)
class TensorOperations:
    """`formulas.Operations` on rows of a tensor."""

    dtype: str

    def minimum(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The lesser of a and b, entry by entry."""
        return torch.minimum(a, b)

    def maximum(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The greater of a and b, entry by entry."""
        return torch.maximum(a, b)

    def choose(self, mask: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        """The entries of yes where the mask is true, of no elsewhere."""
        return torch.where(mask, yes, no)

    def widen(self, value: torch.Tensor) -> torch.Tensor:
        """The values in float64."""
        return value.double()

    def narrow(self, value: torch.Tensor) -> torch.Tensor:
        """The values rounded to `dtype`."""
        return value.to(getattr(torch, self.dtype))

    def arrange(self, values: Sequence[torch.Tensor], classes: Sequence[Hashable | None]) -> list[torch.Tensor]:
        """Sorted wholly: one call of a sort beats a network of calls on a GPU."""
        del classes
        return list(torch.stack(list(values)).sort(dim=0).values)


def coordinatewise(formula: Formula, x: torch.Tensor, rows: npt.ArrayLike | None, mixing: npt.ArrayLike | None) -> torch.Tensor:
    """The formula at every column of x[rows], or of mixing @ x[rows]."""
    values = x if rows is None else x[torch.as_tensor(np.asarray(rows), device=x.device)]
    _check_finite(values)
    m = None if mixing is None else np.asarray(mixing, np.float64)
    result, sound = _columns(formula, values, m)
    return result if sound else (_columns(formula, values.double() * 2.0**-32, m)[0] * 2.0**32).to(x.dtype)


def _columns(formula: Formula, values: torch.Tensor, mixing: FloatArray | None) -> tuple[torch.Tensor, bool]:
    """The formula at every column; and whether nothing overflowed on the way."""
    do = TensorOperations(str(values.dtype).removeprefix("torch."))
    if mixing is None:
        result = formula(do, list(values))
        return result, _is_finite(result)
    near = values[reference(mixing)]
    mixed = _matrix(mixing, values) @ (values - near)
    return formula(do, list(mixed)) + near, _is_finite(mixed)


def product(mixing: FloatArray, x: torch.Tensor) -> torch.Tensor:
    """mixing @ x in the dtype of x, without reading rows of x whose weights are all 0."""
    read = np.flatnonzero(mixing.any(axis=0))
    rows = x[torch.as_tensor(read, device=x.device)]
    _check_finite(rows)
    return _matrix(mixing[:, read], x) @ rows


def geometry(x: torch.Tensor) -> Geometry:
    """Pairwise squared distances by differences in float64."""
    _check_finite(x)
    n = len(x)
    distances = torch.zeros(n, n, dtype=torch.float64, device=x.device)
    for block in _column_blocks(x):
        for i in range(n - 1):
            distances[i, i + 1 :] += (block[i + 1 :] - block[i]).square().sum(dim=1)
    return Geometry(symmetric(distances.cpu().numpy()))


def squares(x: torch.Tensor, centre: torch.Tensor | None) -> FloatArray:
    """(n,): ||x_i - centre||^2, infinite where that overflows."""
    _check_finite(x)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    centres = _column_blocks(torch.zeros_like(x[:1]) if centre is None else centre[None, :])
    for block, middle in zip(_column_blocks(x), centres, strict=True):
        total += (block - middle).square().sum(dim=1)
    return total.cpu().numpy()


def norms(x: torch.Tensor) -> FloatArray:
    """(n,): ||x_i||, right where the square overflows."""
    _check_finite(x)
    exponents = np.frexp(x.detach().abs().amax(dim=1).double().cpu().numpy())[1]
    small = torch.ldexp(x.detach().double(), torch.as_tensor(-exponents, device=x.device)[:, None])
    with np.errstate(over="ignore"):
        return np.ldexp(np.sqrt(squares(small, None)), exponents)


def _matrix(mixing: FloatArray, x: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(mixing, dtype=x.dtype, device=x.device)


def _column_blocks(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Ranges of columns in float64, where differences of float32 can neither overflow nor underflow."""
    for start in range(0, x.shape[1], COLUMNS):
        yield x.detach()[:, start : start + COLUMNS].double()


def _is_finite(x: torch.Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _check_finite(x: torch.Tensor) -> None:
    if not _is_finite(x):
        raise Unfit
