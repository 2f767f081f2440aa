"""The trimmed mean along the principal axes of the updates: the least kappa there is, and no basis preferred."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators import bounds
from fl_impl.aggregators.inputs import is_tensor, wants_gradient, without_gradient
from fl_impl.aggregators.kernels import combine
from fl_impl.aggregators.registry import aggregator
from fl_impl.aggregators.screening import measured

if TYPE_CHECKING:
    from fl_impl.aggregators.base import Weights
    from fl_impl.aggregators.inputs import Matrix
    from fl_impl.aggregators.kernels import Geometry

FloatArray = npt.NDArray[np.float64]

CONDITIONED: Final = {4: 1e-3, 8: 1e-6}
"""By bytes of an entry: the least of n - 1 eigenvalues, as a share of the greatest, that products of distances resolve."""
COLUMNS: Final = 4096
"""Of the blocks that are factorised one after another."""


def _weigh(geometry: Geometry, f: int) -> Weights:
    return _weights(_axes(geometry)[1], f)


@aggregator(
    kappa=bounds.principal_trimmed_mean,
    exact=True,
    symmetries={"permutation", "translation", "scale", "sign", "rotation", "unanimity", "exactness", "mean"},
    source="Yin et al. 2018 (arXiv:1803.01498) for the trimmed mean; in principal axes with kappa: docs/theory.md",
    weighing=_weigh,
)
def principal_trimmed_mean(x: Matrix, f: int) -> Any:
    """sum_k T(<v_k, x>) v_k, where v_k are the eigenvectors of the scatter of all n updates and T the trimmed mean.

    T leaves out the f least and the f greatest of n numbers. The axes turn with the updates, so that the result does
    too; symmetries hold where the eigenvalues differ. The weights of the updates may be negative: the result may lie
    outside of their hull. Under autograd the weights are held fixed.
    """
    fixed = without_gradient(x)
    geometry = measured(fixed, f)
    eigenvalues, axes = _axes(geometry)
    weights = _weights(axes, f)
    if len(x) == 1 or eigenvalues[1] > CONDITIONED[x.dtype.itemsize] * eigenvalues[-1]:
        return combine(weights, x)
    result: Any = _by_coordinates(fixed, geometry.distances, f)
    if not is_tensor(x):
        return result
    values = x.new_tensor(result)
    if not wants_gradient(x):
        return values
    moving = combine(weights, x)
    return values + (moving - moving.detach())


def _axes(geometry: Geometry) -> tuple[FloatArray, FloatArray]:
    """(n,) ascending eigenvalues of the scatter and (n, n) unit columns u_k: update i lies at sqrt(l_k) u_ik on axis k."""
    gram = geometry.centred_gram()
    return np.linalg.eigh((gram + gram.T) / 2)


def _weights(axes: FloatArray, f: int) -> Weights:
    """p with sum 1, F = sum_i p_i x_i.

    v_k = sum_i u_ik (x_i - mean) / sqrt(l_k), so the eigenvalues cancel: F - mean = sum_k T(u_k) sum_i u_ik (x_i - mean).
    """
    n = len(axes)
    shares = axes @ _trimmed(axes, f)
    return 1 / n + shares - shares.mean()


def _trimmed(columns: FloatArray, f: int) -> FloatArray:
    """The trimmed mean of each column."""
    return np.sort(columns, axis=0)[f : len(columns) - f].mean(axis=0)


def _by_coordinates(x: Matrix, distances: FloatArray, f: int) -> FloatArray:
    """The rule in an orthonormal basis of the span of the updates, where far updates spoil no digit of near ones.

    The basis is that of a QR factorisation from the innermost update outwards: each coordinate vector has the precision
    of its own length. However far a row, the axes are orthonormal, and for any such axes kappa holds. The factorisation
    is put together from those of blocks of coordinates, whose bases are made anew when they are needed.
    """
    innermost = int(np.argmin(np.median(distances, axis=1)))
    order = np.argsort(distances[innermost], kind="stable")
    blocks = [slice(start, start + COLUMNS) for start in range(0, x.shape[1], COLUMNS)]
    factors = [np.linalg.qr(_away(x, order, block)[1], mode="r") for block in blocks]
    joined, coordinates = np.linalg.qr(np.vstack(factors))
    placed = np.vstack([np.zeros(len(coordinates)), coordinates.T])
    turned = np.linalg.svd(placed - placed.mean(axis=0))[2]
    along = joined @ (_trimmed(placed @ turned.T, f) @ turned)
    result = np.empty(x.shape[1])
    ends = np.cumsum([len(factor) for factor in factors])
    for block, factor, end in zip(blocks, factors, ends, strict=True):
        centre, away = _away(x, order, block)
        result[block] = centre + np.linalg.qr(away)[0] @ along[end - len(factor) : end]
    return result


def _away(x: Matrix, order: npt.NDArray[np.intp], columns: slice) -> tuple[FloatArray, FloatArray]:
    """Of these columns in float64: the first row in that order, and (columns, n - 1) the others less it."""
    block = x[:, columns]
    wide: FloatArray = block.cpu().double().numpy() if is_tensor(block) else np.asarray(block, np.float64)
    return wide[order[0]], (wide[order[1:]] - wide[order[0]]).T
