"""byzpy: classes built for each f, configured objects, and pre-aggregators in a tuple before a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_fl.adapters.functions import refuse_alone, subject
from pytest_fl.adapters.registry import adapter, classes, unwrapped

if TYPE_CHECKING:
    from pytest_fl.subjects.subject import Subject

CONVENTIONS: Final = {
    "CoordinateWiseMedian": "lower median (torch.median)",
    "CoordinateWiseTrimmedMean": "drops f a side",
    "MeanOfMedians": "MeaMed: mean of the n-f nearest the lower median",
    "Krum": "n-f-1 neighbours, squared distances by the Gram matrix, f < n-1",
    "MultiKrum": "n-f-1 neighbours, squared distances by the Gram matrix, mean of the q best, f < n-1",
    "GeometricMedian": "Weiszfeld from the lower median, at most 256 steps, tolerance 1e-6 absolute",
    "MinimumDiameterAveraging": "exact search over subsets, distances by the Gram matrix, f < n",
    "MoNNA": "mean of the n-f nearest the client reference_index=0, which it trusts",
    "SMEA": "exact search over subsets, eigenvalues of the Gram matrix",
    "CenteredClipping": "M=10 steps of radius c_tau from the mean",
    "ComparativeGradientElimination": "drops the f largest norms",
    "CAF": "three power steps from a fixed random vector",
}
"""Rule -> its convention, as read in the source of 0.1.4."""


@adapter("byzpy")
def byzpy(rule: object) -> Subject | None:
    """A rule of byzpy by its `aggregate`, given a list of tensors. Raises ValueError for a pre-aggregator alone."""
    own = next(kind for kind in classes(unwrapped(rule)) if kind.__module__.startswith("byzpy"))
    refuse_alone(rule, own.__module__.startswith("byzpy.pre_aggregators"), "(NearestNeighborMixing, Krum)")
    return subject(rule, form="list of tensors", prefix="byzpy", conventions=CONVENTIONS.get(own.__name__, ""))
