"""The geometric median, found on the n x n matrix of distances."""

from __future__ import annotations

import math
import sys
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fl_impl.aggregators import bounds
from fl_impl.aggregators.base import ConvergenceWarning, Weights
from fl_impl.aggregators.inputs import wants_gradient, without_gradient
from fl_impl.aggregators.kernels import Unfit, combine, combine_rows, distances_to
from fl_impl.aggregators.registry import aggregator
from fl_impl.aggregators.rules import weiszfeld
from fl_impl.aggregators.screening import measured

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix
    from fl_impl.aggregators.kernels import Geometry

REACH: Final = {4: 1e3, 8: 1e4}
"""By bytes of an entry: updates that many typical distances out hide digits of the others in squared distances."""
ROUNDING: Final = {4: 2.0**-23, 8: 2.0**-52}
PASSES: Final = 8
"""In which far updates are drawn in: each gains about three digits."""


def _weigh(geometry: Geometry, f: int, *, tolerance: float = 1e-7, max_steps: int = 100) -> Weights:
    del f
    return weiszfeld.geometric_median(geometry.distances, tolerance=tolerance, max_steps=max_steps).weights


@aggregator(
    kappa=bounds.geometric_median,
    exact=True,
    symmetries={
        "permutation", "translation", "scale", "sign", "rotation", "unanimity", "exactness", "box", "hull",
    },
    source="Chen et al. 2017 (arXiv:1705.05491), Pillutla et al. 2022 (arXiv:1912.13445); kappa proven in bounds.py",
    weighing=_weigh,
    apart=True,
)  # fmt: skip
def geometric_median(x: Matrix, f: int, *, tolerance: float = 1e-7, max_steps: int = 100) -> Any:
    """argmin_z sum_i ||x_i - z||, converged: ||sum_i (x_i - z) / ||x_i - z|| || <= tolerance n.

    An update that is the minimiser is returned exactly; where a segment between updates minimises, its middle. Under
    autograd the gradient is the exact one, of the implicit function theorem. Warns with ConvergenceWarning after
    max_steps Newton steps.
    """
    fixed = without_gradient(x)
    distances = measured(fixed, f).distances
    if weiszfeld.spread(distances) <= REACH[x.dtype.itemsize]:
        found = weiszfeld.geometric_median(distances, tolerance=tolerance, max_steps=max_steps)
    else:
        found = _with_far_updates(fixed, f, tolerance, max_steps)
    result = combine(found.weights, x)
    return _differentiable(x, result.detach()) if wants_gradient(x) and not found.at_point else result


def _with_far_updates(x: Matrix, f: int, tolerance: float, max_steps: int) -> weiszfeld.Median:
    """The median where some updates are so far out that squared distances to them drown those between the others.

    Drawn in to a point c along their direction, they pull on c just as before, and on points near c almost so. So c
    becomes the median of the updates drawn in to it, until it no longer moves.
    """
    reach, rounding = REACH[x.dtype.itemsize], ROUNDING[x.dtype.itemsize] * math.sqrt(x.shape[1])
    weights = np.zeros(len(x))
    weights[weiszfeld.innermost(measured(x, f).distances)] = 1
    for _ in range(PASSES):
        centre = combine(weights, x)
        away = np.sqrt(distances_to(x, centre))
        if not np.isfinite(away).all():
            raise Unfit
        typical = float(np.median(away))
        if typical == 0:
            return weiszfeld.Median(weights, at_point=True)
        kept = np.minimum(1, reach * typical / np.maximum(away, typical))
        drawn_in = combine_rows(np.diag(kept) + np.outer(1 - kept, weights), x)
        found = weiszfeld.geometric_median(measured(drawn_in, f).distances, tolerance=tolerance, max_steps=max_steps)
        before, weights = weights, found.weights * kept + (1 - found.weights @ kept) * weights
        if np.abs(weights - before) @ away <= max(tolerance * reach * typical, rounding * float(abs(centre).max())):
            return weiszfeld.Median(weights, found.at_point)
    warnings.warn("the geometric median still moved as far updates were drawn in", ConvergenceWarning, stacklevel=2)
    return weiszfeld.Median(weights, at_point=False)


def _differentiable(x: Any, z: Any) -> Any:
    """z plus Newton's step from it with the Hessian held fixed: z still, with the derivative of the implicit function.

    By Woodbury's identity, as in weiszfeld.py.
    """
    torch = sys.modules["torch"]
    away = x - z
    lengths = torch.linalg.vector_norm(away, dim=1, keepdim=True)
    pull = (away / lengths).sum(dim=0)
    with torch.no_grad():
        units = away / lengths
        s = (1 / lengths).sum()
        inner = torch.diag(s * lengths[:, 0]) - units @ units.T
    along = torch.linalg.solve(inner, units @ pull)
    return z + (pull + units.T @ along) / s
