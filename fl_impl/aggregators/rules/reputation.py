"""Rules that weight clients by the direction of their updates: beside the server's own, or beside one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fl_impl.aggregators.kernels import combine
from fl_impl.aggregators.lengths import TINY, cosines, fixed_lengths
from fl_impl.aggregators.registry import aggregator

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix


@aggregator(
    min_clients=lambda f: f + 1,
    symmetries={"permutation"},
    source="Cao et al. 2021 (arXiv:2012.13995)",
)
def fltrust(x: Matrix, f: int, *, root: Any) -> Any:
    """sum_i r_i (||root|| / ||x_i||) x_i / sum_i r_i, r_i = max(0, cos(x_i, root)); 0 if all r_i are.

    root: the server's own update, from data that it trusts.
    So ||F|| <= ||root|| and <F, root> >= 0 whatever the clients send, however many of them lie.
    """
    del f
    trust = np.maximum(cosines(x, root[None, :])[:, 0], 0.0)
    if not trust.any():
        return root * 0.0
    own = float(fixed_lengths(root[None, :])[0])
    found = fixed_lengths(x)
    with np.errstate(over="ignore"):
        scales = np.minimum(own / np.maximum(found, TINY), np.finfo(np.float64).max)
    return combine(trust / trust.sum() * scales, x)


@aggregator(
    min_clients=lambda f: max(2, f + 1),
    symmetries={"permutation", "scale", "rotation"},
    source="Fung, Yoon & Beschastnikh 2020 (arXiv:1808.04866)",
)
def foolsgold(x: Matrix, f: int, *, confidence: float = 1.0, history: Any = None) -> Any:
    """sum_i w_i x_i / sum_i w_i, w_i the smaller the more client i's past is like another's; 0 if all w_i are.

    It is meant for sybils, who push the same way: one attacker alone goes unnoticed, and honest clients that are
    alike lose their weight. No robustness is proven.
    history: (n, d) sums of each client's updates so far, this round included; where not given, this round alone.
    confidence: the factor of the logit.
    """
    del f
    fixed_lengths(x)  # so that a row which is not finite is seen even if its weight is 0
    past = x if history is None else history
    weights = _distinctness(cosines(past, past), confidence)
    return combine(weights / max(weights.sum(), TINY), x)


def _distinctness(alike: Any, confidence: float) -> Any:
    """(n,) weights in [0, 1] from the (n, n) cosines: pardoned, scaled to a greatest of 1, spread by the logit."""
    np.fill_diagonal(alike, 0)
    most = alike.max(axis=1)
    pardon = np.minimum(1.0, np.maximum(most, 0)[:, None] / np.maximum(most, TINY)[None, :])
    weights = np.clip(1 - (alike * pardon).max(axis=1), 0, 1)
    greatest = weights.max()
    if greatest == 0:
        return weights
    with np.errstate(divide="ignore"):
        odds = np.minimum(weights / greatest, 0.99)
        return np.clip(confidence * (np.log(odds / (1 - odds)) + 0.5), 0, 1)
