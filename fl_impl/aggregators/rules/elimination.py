"""Rules that keep the short or the central half of the updates, or turn coordinates on which the clients disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.inputs import is_tensor, without_gradient
from fl_impl.aggregators.kernels import average
from fl_impl.aggregators.lengths import fixed_lengths, lengths
from fl_impl.aggregators.ranks import mean_of_ranks
from fl_impl.aggregators.registry import aggregator

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix

TIED = 1e-10
"""Lengths that differ by no more than this share are equal."""


def _shortest(found: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.bool_]:
    """(n,) whether a row is among the `count` of least length; of equal ones the first is."""
    order = np.argsort(found, kind="stable")
    ordered = found[order]
    levels = np.empty(len(found), np.intp)
    levels[order] = np.cumsum(np.diff(ordered, prepend=ordered[0]) > TIED * ordered)
    kept = np.zeros(len(found), np.bool_)
    kept[np.argsort(levels, kind="stable")[:count]] = True
    return kept


@aggregator(
    symmetries={"permutation", "scale", "sign", "rotation", "unanimity", "box", "hull", "mean"},
    selective=True,
    source="Gupta, Liu & Vaidya 2020 (arXiv:2008.04699), with the mean in place of the sum",
)
def cge(x: Matrix, f: int) -> Any:
    """Comparative gradient elimination: the mean of the n - f updates of least norm.

    No constant: n - f equal updates do not win against f shorter ones, such as 0. ||F|| is at most the (n-f)-th least norm.
    """
    return average(_shortest(fixed_lengths(x), len(x) - f), x)


@aggregator(
    symmetries={"permutation", "translation", "scale", "sign", "unanimity", "exactness", "box", "hull"},
    selective=True,
    source="Boussetta, El-Mhamdi, Guerraoui, Maurer & Rouault 2021 (AKSEL, OPODIS 2020)",
)
def aksel(x: Matrix, f: int) -> Any:
    """The mean of the ceil(n / 2) updates nearest to the coordinate-wise median, and of those as near as the last.

    n - f equal updates are their own median and the only ones at distance 0; no constant is proven.
    """
    del f
    n = len(x)
    plain = without_gradient(x)
    found = lengths(plain, mean_of_ranks(plain, ((n - 1) // 2, n // 2 + 1)))
    found = found.cpu().numpy() if is_tensor(found) else found
    return average(found <= np.sort(found)[(n - 1) // 2] * (1 + TIED), x)


@aggregator(
    symmetries={"permutation", "scale", "sign", "unanimity"},
    source="Ozdayi, Kantarcioglu & Gel 2021 (arXiv:2007.03767)",
)
def robust_learning_rate(x: Matrix, f: int, *, threshold: int | None = None) -> Any:
    """The mean, with the sign of coordinate k turned where |sum_i sign(x_ik)| < threshold; 2f + 1 where None.

    A backdoor that f clients alone want is unlearnt; the size of what they send is not bounded, so no constant is true.
    """
    theta = 2 * f + 1 if threshold is None else threshold
    signs = x.detach().sign().double() if is_tensor(x) else np.sign(x)
    votes = abs(signs.sum(0))
    result = average(np.ones(len(x)), x)
    return result * ((votes >= theta) * 2.0 - 1.0)
