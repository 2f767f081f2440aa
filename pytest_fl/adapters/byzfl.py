"""ByzFL: classes built for each f, configured objects, and pre-aggregators in a tuple before a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pytest_fl.adapters.functions import refuse_alone, subject
from pytest_fl.adapters.registry import adapter, classes, unwrapped

if TYPE_CHECKING:
    from pytest_fl.subjects.subject import Subject

CONVENTIONS: Final = {
    "Average": "mean: no defence",
    "Median": "midpoint median (torch.quantile)",
    "TrMean": "drops f a side",
    "GeometricMedian": "smoothed Weiszfeld, T=3 steps from zero, nu=0.1",
    "Krum": "n-f-1 neighbours, squared distances (torch.cdist), n > 2f",
    "MultiKrum": "n-f-1 neighbours, squared distances (torch.cdist), mean of the n-f best, n > 2f",
    "CenteredClipping": "one step of radius tau=100 from the last output, zero at first",
    "MDA": "exact search over subsets, n > 2f",
    "MoNNA": "mean of the n-f nearest the client idx=0, which it trusts",
    "Meamed": "mean of the n-f nearest the midpoint median",
    "CAF": "one power step from a random vector",
    "SMEA": "one power step from a random vector for each subset",
}
"""Rule -> its convention, as read in the source of 0.0.11."""


@adapter("byzfl")
def byzfl(rule: Any) -> Subject | None:
    """A rule of ByzFL, given a torch tensor as its framework does. Raises ValueError for a pre-aggregator alone."""
    if type(rule).__name__ == "RobustAggregator":
        rule = (*rule.pre_agg_list, rule.aggregator)
    own = next(kind for kind in classes(unwrapped(rule)) if kind.__module__.startswith("byzfl"))
    refuse_alone(rule, own.__module__.endswith(".preaggregators"), "(byzfl.NNM, byzfl.TrMean)")
    return subject(rule, form="torch tensor", prefix="byzfl", conventions=CONVENTIONS.get(own.__name__, ""))
