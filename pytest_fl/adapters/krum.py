"""The `krum` package of PyPI: stateless classes with `aggregate(gradients, n=, f=)`."""

from __future__ import annotations

from typing import Final

from pytest_fl.adapters.functions import subject
from pytest_fl.adapters.registry import adapter, classes, unwrapped
from pytest_fl.subjects.subject import Subject, majority

CONVENTIONS: Final = {
    "Average": (majority, "mean: no defence"),
    "Median": (majority, "midpoint median (torch.quantile)"),
    "TrimmedMean": (majority, "drops f a side"),
    "Krum": (lambda f: 2 * f + 3, "n-f-2 neighbours, squared distances (torch.cdist), n >= 2f+3"),
    "MultiKrum": (lambda f: 2 * f + 3, "as Krum; mean of the m = n-2f-3 best, n >= 2f+3"),
    "Bulyan": (lambda f: 4 * f + 3, "n-2f-2 Multi-Krum means (m = n-f), then a trimmed mean, n >= 4f+3"),
    "Brute": (majority, "MDA: exact search over subsets (torch.cdist)"),
    "GeometricMedian": (majority, "smoothed Weiszfeld from the mean, nu=0.1, at most 100 steps, tolerance 1e-6"),
    "Medoid": (majority, "the input with the least sum of plain distances; documented as not resilient"),
    "Aksel": (majority, "mean of the n-f nearest the midpoint median, n > 2f"),
}
"""Rule -> the fewest clients that it documents, and its convention, as read in the source of 0.9.1."""


@adapter("krum")
def krum(rule: object) -> Subject | None:
    """A rule of the package, by its class method, given a torch tensor."""
    own = next(kind for kind in classes(unwrapped(rule)) if kind.__module__.startswith("krum"))
    min_clients, convention = CONVENTIONS.get(own.__name__, (majority, ""))
    return subject(rule, form="torch tensor", prefix="krum", min_clients=min_clients, conventions=convention)
