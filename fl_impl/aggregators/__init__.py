"""Aggregation rules, each with its claims: `krum(updates, f=2)`, `nnm | trimmed_mean`, `resolve("multi_krum(m=5)")`."""

from fl_impl.aggregators.base import CONTEXT, SYMMETRIES, Aggregator, ConvergenceWarning
from fl_impl.aggregators.pipes import PreAggregator
from fl_impl.aggregators.registry import ALIASES, ALL, PRE, aggregator, pre_aggregator, resolve
from fl_impl.aggregators.rules.clipping import arc, centered_clipping, clipping, norm_clipping
from fl_impl.aggregators.rules.clustering import flame, signguard
from fl_impl.aggregators.rules.coordinatewise import coordinate_median, meamed, mean, phocas, trimmed_mean
from fl_impl.aggregators.rules.geometric import geometric_median
from fl_impl.aggregators.rules.mixing import bucketing, nnm
from fl_impl.aggregators.rules.neighbours import bulyan, krum, monna, multi_krum
from fl_impl.aggregators.rules.principal import principal_trimmed_mean
from fl_impl.aggregators.rules.reputation import fltrust, foolsgold
from fl_impl.aggregators.rules.spectral import caf, dnc
from fl_impl.aggregators.rules.subsets import minimum_diameter, minimum_variance, smea

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
    "principal_trimmed_mean",
    "resolve",
    "signguard",
    "smea",
    "trimmed_mean",
]
