"""Two sums beside a secure one: of weights, masked as one more coordinate, and of magnitudes, for a bound near the updates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.privacy.clipping import clip, finite_vector
from fl_impl.privacy.secure_aggregation.session import secure_sum
from fl_impl.privacy.secure_aggregation.terms import Terms

Reals = npt.NDArray[np.float64]
LEAST_EXPONENT: Final = -64
"""Below 2^-64 of the greatest bound all magnitudes count as that."""


def weighted_rows(updates: Mapping[int, Any], weights: Mapping[int, float], terms: Terms, most: float) -> dict[int, Reals]:
    """What clients mask for a weighted mean: w / most of the (length - 1,) update, and w / most of the bound.

    Raises ValueError for a weight that is not between 0 and `most`, which is public: a greater one would count for more than
    was agreed.
    """
    return {
        number: weighted_row(update, float(weights[number]), terms, most, f"client {number}")
        for number, update in updates.items()
    }


def weighted_row(update: Any, weight: float, terms: Terms, most: float, whose: str = "a client") -> Reals:
    """What one client masks for a weighted mean. Raises ValueError as `weighted_rows`."""
    if not 0 <= weight <= most:
        raise ValueError(f"the weight of {whose} must lie between 0 and {most:g}; got {weight:g}")
    return np.append(finite_vector(update), terms.bound) * (weight / most)


def clipped(update: Any, terms: Terms) -> Reals:
    """The (d,) update, no longer than the bound of the terms: with noise not even after it was rounded at random.

    Rounding moves each entry by less than a step, so a vector by less than sqrt(d) steps.
    """
    room = terms.encoding.step * math.sqrt(np.size(update)) if terms.noise_std else 0.0
    if room >= terms.bound:
        raise ValueError(f"{np.size(update)} entries within {terms.bound:g} are lost on a grid of {terms.encoding.step:.3g}")
    return clip(update, terms.bound - room)


def weighted_mean(total: Reals, terms: Terms) -> Reals:
    """sum_i w_i x_i / sum_i w_i, from the sum of `weighted_rows`. Raises ValueError where all weights are 0."""
    weight = total[-1] / terms.bound
    if weight <= terms.clients * terms.encoding.step / terms.bound:
        raise ValueError("all weights of a secure weighted mean are 0")
    return total[:-1] / weight


def secure_weighted_mean(
    updates: Mapping[int, Any], weights: Mapping[int, float], terms: Terms, *, most: float, **options: Any
) -> Reals:
    """The (length,) weighted mean of the updates of the clients that stay; the server learns the sum of weights too.

    `terms` are those of the updates; `most` is the greatest weight. A client that lies of its weight counts for `most` at the
    greatest, as nobody can see it. `options` are those of `secure_sum`.
    """
    longer = replace(terms, length=terms.length + 1)
    return weighted_mean(secure_sum(weighted_rows(updates, weights, longer, most), longer, **options).total, longer)


def near_bound(updates: Mapping[int, Any], bound: float, *, corrupt: int | None = None, **options: Any) -> tuple[float, int]:
    """(bound * 2^-k, the least that no entry of any update exceeds, by a secure sum of which k each client has; its bytes).

    The server learns how many clients have which power of two, not who: a public estimate, in sessions without privacy.
    A client that lies can keep the bound at its greatest. corrupt is that of `Terms.agreed`, `options` are those of
    `secure_sum`.
    """
    places = 1 - LEAST_EXPONENT
    votes = dict[int, Reals]()
    for number, update in updates.items():
        peak = float(np.abs(finite_vector(update)).max()) / bound
        exponent = max(LEAST_EXPONENT, math.ceil(math.log2(peak)) if peak > 0 else LEAST_EXPONENT)
        votes[number] = np.eye(places)[min(0, exponent) - LEAST_EXPONENT]
    terms = Terms.agreed(clients=len(updates), length=places, bound=1.0, corrupt=corrupt)
    summed = secure_sum(votes, terms, **options)
    greatest = int(np.flatnonzero(np.rint(summed.total) > 0)[-1])
    return bound * 2.0 ** (greatest + LEAST_EXPONENT), summed.bytes_up
