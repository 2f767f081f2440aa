"""Aggregation rules, each with its claims: `krum(updates, f=2)`, `nnm | trimmed_mean`, `resolve("multi_krum(m=5)")`."""

from fl_impl.aggregators.claims import CONTEXT, SYMMETRIES, Aggregator, ConvergenceWarning, PreAggregator
from fl_impl.aggregators.clipping import arc, centered_clipping, clipping, norm_clipping
from fl_impl.aggregators.clustering import flame, signguard
from fl_impl.aggregators.coordinatewise import coordinate_median, meamed, mean, phocas, trimmed_mean
from fl_impl.aggregators.distances import bulyan, krum, monna, multi_krum
from fl_impl.aggregators.geometric import geometric_median
from fl_impl.aggregators.mixing import bucketing, nnm
from fl_impl.aggregators.names import ALIASES, resolve
from fl_impl.aggregators.registry import ALL, PRE, aggregator, pre_aggregator
from fl_impl.aggregators.reputation import fltrust, foolsgold
from fl_impl.aggregators.spectral import caf, dnc
from fl_impl.aggregators.subsets import minimum_diameter, minimum_variance, smea

__all__ = [
    "ALIASES",
    "ALL",
    "CONTEXT",
    "PRE",
    "SYMMETRIES",
    "Aggregator",
    "ConvergenceWarning",
    "PreAggregator",
    "aggregator",
    "arc",
    "bucketing",
    "bulyan",
    "caf",
    "centered_clipping",
    "clipping",
    "coordinate_median",
    "dnc",
    "flame",
    "fltrust",
    "foolsgold",
    "geometric_median",
    "krum",
    "meamed",
    "mean",
    "minimum_diameter",
    "minimum_variance",
    "monna",
    "multi_krum",
    "nnm",
    "norm_clipping",
    "phocas",
    "pre_aggregator",
    "resolve",
    "signguard",
    "smea",
    "trimmed_mean",
]
