"""A rule on some of the columns at a time: what ranks decide, and what distances over all columns decide beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fl_impl.aggregators.base import Aggregator, bind
from fl_impl.aggregators.kernels import combine
from fl_impl.aggregators.ranks import mean_of_ranks

if TYPE_CHECKING:
    from fl_impl.aggregators.inputs import Matrix
    from fl_impl.aggregators.kernels import Geometry

OnColumns = Callable[["Matrix"], Any]
"""(n, any number of columns) -> the aggregate of those columns. Raises Unfit for NaN and infinity."""


def on_columns(rule: Aggregator, n: int, f: int, geometry: Callable[[], Geometry]) -> OnColumns:
    """The rule for n updates, f of them Byzantine, as a function of blocks of columns.

    `geometry()`, the distances over all columns, is asked for at most once, before the first block, and only by rules
    that need it. Raises ValueError for a rule that needs whole updates at once.
    """
    if rule.by_columns is not None:
        return rule.by_columns(n, f, geometry)
    if rule.ranks is not None:
        ranks = bind(rule.ranks, rule.options)(n, f)
        return lambda x: mean_of_ranks(x, ranks)
    if rule.weighing is not None:
        weights = rule.weigh(geometry(), f)
        return lambda x: combine(weights, x)
    raise ValueError(
        f"{rule.spec} needs whole updates at once; by columns go the rules that ranks or distances decide, such as "
        "trimmed_mean, coordinate_median, krum, multi_krum, geometric_median or nnm|trimmed_mean"
    )
